"""`set_plan`: one protocol by which any model takes a plan."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from torch import nn

from openwork.errors import PlanError
from openwork.nn.attention import SparseAttention
from openwork.patterns import Pattern
from openwork.plan import Plan

__all__ = ["ModelPlan", "TakesPlan", "model_plan", "set_plan"]

_WRAPPERS = ("_orig_mod", "module")
"""Where `torch.compile`, and DistributedDataParallel and its like, keep the model that they wrap."""


@runtime_checkable
class TakesPlan(Protocol):
    """A model that knows itself how a plan is plugged in.

    It may also say, as `model_plan` does of others, what `plan` it has and how many layers that is for
    (`num_plan_layers`).
    """

    def set_plan(self, plan: Plan) -> None:
        """Uses the plan from the next call on; raises a `PlanError`, and changes nothing, where it does not fit."""


def set_plan(model: nn.Module, plan: Plan | Pattern) -> None:
    """Switches a live model to another plan; parameters, optimizer state and gradients are untouched.

    A model with a `set_plan` method of its own is asked, also where DistributedDataParallel or `torch.compile` has
    wrapped it. In any other, the `SparseAttention` modules are the layers, in the order in which `model.modules()`
    gives them.

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
    taker = _taker(model)
    if taker is not None:
        taker.set_plan(resolved)
        return
    layers = _layers(model)
    if not layers:
        raise PlanError(
            f"{type(model).__name__} has no SparseAttention layer and no set_plan method, so a plan cannot be plugged "
            "in; build it with openwork.nn.SparseAttention."
        )
    for layer in layers:
        resolved.check(len(layers), layer.q_heads)
    for number, layer in enumerate(layers):
        layer.set_pattern(resolved.for_layer(number, len(layers)))


class ModelPlan(NamedTuple):
    """What a model says of its plan.

    Attributes:
        plan: The plan in use; `None` where the model does not say.
        num_layers: Layers that a plan of it speaks of; `None` where the model does not say.
    """

    plan: Plan | None
    num_layers: int | None


def model_plan(model: nn.Module) -> ModelPlan:
    """The plan that a model uses now, and how many layers it is for: what `set_plan` changes.

    Examples:
        >>> from openwork.patterns import Causal
        >>> model = nn.Sequential(SparseAttention(32, q_heads=2), SparseAttention(32, q_heads=2))
        >>> model_plan(model)
        ModelPlan(plan=Plan(default=Causal()), num_layers=2)
    """
    taker = _taker(model)
    if taker is not None:
        plan, num_layers = getattr(taker, "plan", None), getattr(taker, "num_plan_layers", None)
        return ModelPlan(plan if isinstance(plan, Plan) else None, num_layers if isinstance(num_layers, int) else None)
    patterns = [layer.pattern for layer in _layers(model)]
    if not patterns:
        return ModelPlan(None, None)
    first, others = patterns[0], {n: pattern for n, pattern in enumerate(patterns) if pattern != patterns[0]}
    return ModelPlan(Plan(default=first, layers=others), len(patterns))


def _taker(model: nn.Module) -> TakesPlan | None:
    """The model, or the one that it wraps, that has a `set_plan` of its own."""
    inner: object = model
    while isinstance(inner, nn.Module):
        if isinstance(inner, TakesPlan):
            return inner
        inner = next((found for name in _WRAPPERS if (found := getattr(inner, name, None)) is not None), None)
    return None


def _layers(model: nn.Module) -> list[SparseAttention]:
    return [module for module in model.modules() if isinstance(module, SparseAttention)]
