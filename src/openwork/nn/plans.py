"""`set_plan`: one protocol by which any model takes a plan."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import nn

from openwork.errors import PlanError
from openwork.nn.attention import SparseAttention
from openwork.patterns import Pattern
from openwork.plan import Plan

__all__ = ["TakesPlan", "set_plan"]


@runtime_checkable
class TakesPlan(Protocol):
    """A model that knows itself how a plan is plugged in."""

    def set_plan(self, plan: Plan) -> None:
        """Uses the plan from the next call on; raises a `PlanError`, and changes nothing, where it does not fit."""


def set_plan(model: nn.Module, plan: Plan | Pattern) -> None:
    """Switches a live model to another plan; parameters, optimizer state and gradients are untouched.

    A model with a `set_plan` method of its own is asked. In any other, the `SparseAttention` modules are the layers,
    in the order in which `model.modules()` gives them.

    Args:
        model: A model whose attention layers take patterns.
        plan: What each layer uses from the next call on; a pattern stands for all layers.

    Raises:
        PlanError: The model has no such layer, or the plan does not fit it. Then nothing was changed.

    Examples:
        >>> from openwork.patterns import Causal, Window
        >>> model = nn.Sequential(SparseAttention(32, q_heads=2), SparseAttention(32, q_heads=2))
        >>> set_plan(model, Plan(default=Causal(), layers={0: Causal() & Window(before=3)}))
        >>> model[0].pattern
        Causal() & Window(before=3, after=0)
    """
    resolved = Plan.of(plan)
    if isinstance(model, TakesPlan):
        model.set_plan(resolved)
        return
    layers = [module for module in model.modules() if isinstance(module, SparseAttention)]
    if not layers:
        raise PlanError(
            f"{type(model).__name__} has no SparseAttention layer and no set_plan method, so a plan cannot be plugged "
            "in; build it with openwork.nn.SparseAttention."
        )
    for layer in layers:
        resolved.check(len(layers), layer.q_heads)
    for number, layer in enumerate(layers):
        layer.set_pattern(resolved.for_layer(number, len(layers)))
