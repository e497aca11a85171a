"""The mask that transformers passes from its mask function to the attention function: its meaning, not its pairs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from openwork.hf.positions import Surroundings

__all__ = ["LazyMask"]


class LazyMask(Tensor):
    """A boolean `[batch, 1, q_len, kv_len]` that holds no memory: what it was made from travels in `surroundings`.

    It is a tensor because transformers treats it as one on the way (`.contiguous()`, `.ndim`, reentrant
    checkpointing). Whoever computes with it gets the model's own mask, built at that moment.
    """

    surroundings: Surroundings
    kv_length: int

    @staticmethod
    def __new__(cls, surroundings: Surroundings, kv_length: int, device: torch.device | str) -> LazyMask:
        """A mask for `kv_length` keys, of which `surroundings` describes those that are written."""
        shape = (surroundings.batch, 1, surroundings.q_len, kv_length)
        # the documented way to make a wrapper subclass, under a private name
        mask: LazyMask = Tensor._make_wrapper_subclass(cls, shape, dtype=torch.bool, device=torch.device(device))
        mask.surroundings = surroundings
        mask.kv_length = kv_length
        return mask

    def contiguous(self, *_: Any, **__: Any) -> LazyMask:
        """Itself: there is nothing to lay out."""
        return self

    def clone(self, *_: Any, **__: Any) -> LazyMask:
        """Itself: it cannot be changed."""
        return self

    def detach(self) -> LazyMask:
        """Itself: it has no gradient."""
        return self

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Itself on another device; in another dtype, the pairs."""
        wanted = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.dtype)]
        if all(dtype == torch.bool for dtype in wanted):
            devices = [value for value in (*args, *kwargs.values()) if isinstance(value, str | torch.device)]
            return LazyMask(self.surroundings, self.kv_length, devices[0]) if devices else self
        return self.pairs().to(*args, **kwargs)

    def pairs(self) -> Tensor:
        """Bool `[batch, 1, q_len, kv_len]`: the model's own mask, padding included."""
        make = self.surroundings.make_pairs
        assert make is not None
        pairs: Tensor = make()
        return pairs.expand(self.shape)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"LazyMask({list(self.shape)}, own={self.surroundings.own.pattern!r})"

    def __deepcopy__(self, memo: Any) -> LazyMask:
        return self

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Computes with the pairs."""

        def dense(value: Any) -> Any:
            return value.pairs() if isinstance(value, LazyMask) else value

        return func(*tree_map(dense, args), **tree_map(dense, kwargs or {}))
