"""What a sparsified model carries: plain values on its modules, so that a copy or a pickle of it is sparse, too."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from openwork.errors import PlanError
from openwork.nn.layouts import LayoutCache
from openwork.patterns import Pattern
from openwork.plan import Plan

__all__ = [
    "NAME",
    "LayerState",
    "ModelState",
    "implementation_of",
    "layer_state",
    "model_state",
    "set_layer_state",
    "set_model_state",
]

NAME = "openwork"
"""What the attention function and its mask function are called."""
_LAYOUTS = 256
"""Layouts that a model keeps: more than it has layers, so that layers with patterns of their own do not push each other
out."""
_LAYER, _MODEL = "_openwork_layer", "_openwork"


@dataclass(eq=False)
class ModelState:
    """One value for all layers of a sparsified model.

    Attributes:
        plan: What the layers compute.
        annotate: Makes the facts that the plan reads; `None` where it reads none.
        backend: Which backend of `ops.sparse_attention` computes.
        dense_name: The attention implementation that the model had, by the stack's path.
        cache: Layouts, shared by the layers.
        told_dense: Whether the user knows that the model runs dense now.
        told_mixed: Whether the user knows that packed documents were not kept apart.
        told_empty: Whether a first call has been looked at for facts.
        hooks: Handles of the hooks on the model's parts.
    """

    plan: Plan
    annotate: Any = None
    backend: str = "auto"
    dense_name: dict[str, str] = field(default_factory=dict)
    cache: LayoutCache = field(default_factory=lambda: LayoutCache(_LAYOUTS))
    told_dense: bool = False
    told_mixed: bool = False
    told_empty: bool = False
    hooks: list[Any] = field(default_factory=list)

    def __getstate__(self) -> dict[str, Any]:
        # layouts are derived: a copy makes its own
        return {**self.__dict__, "cache": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, cache=LayoutCache(_LAYOUTS))


@dataclass(eq=False)
class LayerState:
    """One value for each attention module of a sparsified model.

    Attributes:
        path: Its name in `named_modules()`.
        model: What it shares with the other layers.
        pattern: What the plan allows; `None` for a layer that is left as it is.
        decode_pattern: The same for single tokens after the prompt.
        causal: Whether the module hides later keys by itself where it is given no mask.
        own: The model's own mask for this layer, as the last call handed it over.
    """

    path: str
    model: ModelState
    pattern: Pattern | None = None
    decode_pattern: Pattern | None = None
    causal: bool = False
    own: Pattern | None = None


def implementation_of(config: Any) -> str | None:
    """The name of the attention function that a model uses now.

    The attribute is private in name only: transformers has no other one to read, `set_attn_implementation` writes it,
    and every attention layer looks it up.
    """
    name: str | None = getattr(config, "_attn_implementation", None)
    return name


def layer_state(module: nn.Module) -> LayerState:
    """What `sparsify` left on an attention module.

    Raises:
        PlanError: Nothing: the attention implementation was set by hand, or the module came into the model later.
    """
    state = module.__dict__.get(_LAYER)
    if not isinstance(state, LayerState):
        raise PlanError(
            f"{type(module).__name__} runs with attn_implementation={NAME!r} but has no plan. Call "
            "openwork.hf.sparsify(model, plan); a saved sparse model brings its plan with from_pretrained after "
            "`import openwork.hf`."
        )
    return state


def set_layer_state(module: nn.Module, state: LayerState | None) -> None:
    """Puts a state on an attention module, or takes it away."""
    module.__dict__.pop(_LAYER, None)
    if state is not None:
        module.__dict__[_LAYER] = state


def model_state(model: nn.Module) -> ModelState | None:
    """What `sparsify` left on a model; None where it is not sparse."""
    state = model.__dict__.get(_MODEL)
    return state if isinstance(state, ModelState) else None


def set_model_state(model: nn.Module, state: ModelState | None) -> None:
    """Puts a state on a model, or takes it away."""
    model.__dict__.pop(_MODEL, None)
    if state is not None:
        model.__dict__[_MODEL] = state
