"""Modules of anyone's that call torch's `scaled_dot_product_attention`: their own code, over a pattern's pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from openwork.errors import ArgumentError
from openwork.nn.functional import scaled_dot_product_attention
from openwork.nn.graph import outside_graph
from openwork.nn.pattern_layer import PatternLayer

__all__ = ["RoutedAttention", "routed_class"]


class _Route(TorchFunctionMode):
    """Sends calls of torch's `scaled_dot_product_attention` to ours, within one call of one module."""

    def __init__(self, layer: RoutedAttention) -> None:
        super().__init__()
        self.layer, self.calls = layer, 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention:
            self.calls += 1
            return self.layer.attend(*args, **kwargs)
        return func(*args, **kwargs)


class RoutedAttention(PatternLayer, nn.Module):
    """A module whose own `forward` runs, and whose calls of torch's `scaled_dot_product_attention` get a pattern.

    Projections, norms, gates, positions and dropout stay the module's. What a query sees is the pattern AND the mask
    and the causality that the module gives. `routed_class(cls)` makes the class; `replace_attention` uses it.
    """

    dense_class: type[nn.Module]
    backend: str

    @outside_graph
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes.

        Raises:
            ArgumentError: It did not call torch's `scaled_dot_product_attention`, so it was dense.
        """
        route = _Route(self)
        with route:
            output = super().forward(*args, **kwargs)
        if not route.calls:
            raise ArgumentError(
                f"{self.dense_class.__name__} did not call torch.nn.functional.scaled_dot_product_attention, so it "
                "would run without its pattern. Switch its fused attention on (timm: fused_attn=True), or let its "
                "forward call openwork.nn.functional.scaled_dot_product_attention(..., layout=)."
            )
        return output

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Computes torch's function over this layer's pattern; the arguments are torch's."""
        rule = self.pattern_for(query.shape[-2], key.shape[-2])
        return scaled_dot_product_attention(query, key, value, *args, **kwargs, layout=rule, backend=self.backend)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # the class is made at run time, so a pickle names the dense one
        made = super().__reduce_ex__(protocol)
        assert isinstance(made, tuple)
        return (_rebuilt, (self.dense_class,), *made[2:])


_CLASSES: dict[type[nn.Module], type[RoutedAttention]] = {}


def routed_class(dense: type[nn.Module]) -> type[RoutedAttention]:
    """The class of `dense` modules that take a pattern; a subclass of it, made once."""
    if dense not in _CLASSES:
        attributes = {"dense_class": dense, "__module__": dense.__module__, "__doc__": dense.__doc__}
        _CLASSES[dense] = type(f"{dense.__name__}WithPattern", (RoutedAttention, dense), attributes)
    return _CLASSES[dense]


def _rebuilt(dense: type[nn.Module]) -> nn.Module:
    made = routed_class(dense)
    module: nn.Module = made.__new__(made)
    return module
