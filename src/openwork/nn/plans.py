"""`set_plan`: one protocol by which any model takes a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

from torch import nn

from openwork.errors import PlanError
from openwork.nn.pattern_layer import PatternLayer, num_q_heads_of
from openwork.patterns import Pattern
from openwork.plan import Plan

__all__ = ["ModelPlan", "TakesPlan", "layer_patterns", "model_plan", "set_plan"]

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

    A model with a `set_plan` of its own is asked, also where DistributedDataParallel, `torch.compile` or PEFT has
    wrapped it. In any other, the `SparseAttention` modules and those that `replace_attention` made are the layers, in
    the order in which `model.modules()` gives them.

    Args:
        model: A model whose attention layers take patterns.
        plan: What each layer uses from the next call on; a pattern stands for all layers. Parts for an encoder and a
            decoder are those of `nn.Transformer`, or of any `nn.TransformerEncoder` and `nn.TransformerDecoder`.

    Raises:
        PlanError: The model has no such layer, or the plan does not fit it. Then nothing was changed.

    Examples:
        >>> from openwork.nn import SparseAttention
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
            "in; build it with openwork.nn.SparseAttention, or let openwork.nn.replace_attention take its layers."
        )
    patterns = layer_patterns(model, resolved, layers)
    for layer, rules in zip(layers, patterns, strict=True):
        layer.check_pattern(*rules)
    for layer, rules in zip(layers, patterns, strict=True):
        layer.set_pattern(*rules)


def layer_patterns(model: nn.Module, plan: Plan, layers: Sequence[Any]) -> list[tuple[Pattern, Pattern | None]]:
    """For each layer its pattern, and what single tokens upon a cache see where the plan says so.

    Args:
        model: The model that the layers are in.
        plan: The plan.
        layers: Its attention layers, in their order.

    Raises:
        PlanError: The plan does not fit.
    """
    if plan.encoder is None and plan.decoder is None:
        return _of_stack(plan, layers)
    found: dict[int, tuple[Pattern, Pattern | None]] = {}
    for part, kind in (("encoder", nn.TransformerEncoder), ("decoder", nn.TransformerDecoder)):
        inside = {id(module) for stack in model.modules() if isinstance(stack, kind) for module in stack.modules()}
        stack = [layer for layer in layers if id(layer) in inside]
        if stack:
            of_part = plan.part(part)
            if part == "decoder":
                of_part = replace(of_part, decode=plan.decode)
            found |= dict(zip(map(id, stack), _of_stack(of_part, stack), strict=True))
    if len(found) < len({id(layer) for layer in layers}):
        plan.check(len(layers))  # says that the model is one stack
    return [found[id(layer)] for layer in layers]


def _of_stack(plan: Plan, layers: Sequence[Any]) -> list[tuple[Pattern, Pattern | None]]:
    for layer in layers:
        plan.check(len(layers), num_q_heads_of(layer))
    decode = None if plan.decode is None else plan.part("decode")
    return [
        (plan.for_layer(number, len(layers)), None if decode is None else decode.for_layer(number, len(layers)))
        for number in range(len(layers))
    ]


class ModelPlan(NamedTuple):
    """What a model says of its plan.

    Attributes:
        plan: The plan in use; `None` where the model does not say, or a layer uses a mask and no pattern.
        num_layers: Layers that a plan of it speaks of; `None` where the model does not say.
    """

    plan: Plan | None
    num_layers: int | None


def model_plan(model: nn.Module) -> ModelPlan:
    """The plan that a model uses now, and how many layers it is for: what `set_plan` changes.

    Examples:
        >>> from openwork.nn import SparseAttention
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
    decode = [layer.pattern if layer.decode_pattern is None else layer.decode_pattern for layer in _layers(model)]
    if not all(isinstance(each, Pattern) for each in patterns + decode):
        return ModelPlan(None, len(patterns))
    plan = _plan_of(patterns)
    return ModelPlan(plan if decode == patterns else replace(plan, decode=_plan_of(decode)), len(patterns))


def _plan_of(patterns: Sequence[Any]) -> Plan:
    return Plan(default=patterns[0], layers={n: each for n, each in enumerate(patterns) if each != patterns[0]})


def _taker(model: nn.Module) -> TakesPlan | None:
    """The model, or the one that it wraps, that has a `set_plan` of its own."""
    inner: object = model
    while isinstance(inner, nn.Module):
        # asked for as an attribute, which PEFT's models hand on to the model inside
        if callable(getattr(inner, "set_plan", None)):
            return cast(TakesPlan, inner)
        inner = next((found for name in _WRAPPERS if (found := getattr(inner, name, None)) is not None), None)
    return None


def _layers(model: nn.Module) -> list[PatternLayer]:
    return [module for module in model.modules() if isinstance(module, PatternLayer)]
