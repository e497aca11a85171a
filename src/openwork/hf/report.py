"""`layers_of`: what each attention layer of a sparsified model really computes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from openwork.errors import PlanError
from openwork.hf.layers import Layer, inner_model, stacks_of
from openwork.hf.own import both, conjuncts
from openwork.hf.state import LayerState, layer_state, model_state
from openwork.patterns import Causal, Dense, Pattern, Window

__all__ = ["SparseLayer", "layers_of", "own_pattern"]


@dataclass(frozen=True)
class SparseLayer:
    """One attention layer under a plan.

    Attributes:
        path: Its name in `named_modules()`.
        stack: `"encoder"`, `"decoder"`, or `""` where the model has one stack.
        number: Its number in the stack, which plans count by.
        q_heads: Query heads.
        kv_heads: Key heads.
        head_dim: Channels per head.
        own: The model's own mask for the layer: causality, and a window of its own. Before the first call this is
            what the layer's attributes say, after it what transformers handed over.
        plan: What the plan allows.
        pattern: What is computed: the plan AND the model's own mask.
        decode: The same for single tokens after the prompt.
    """

    path: str
    stack: str
    number: int
    q_heads: int | None
    kv_heads: int | None
    head_dim: int | None
    own: Pattern
    plan: Pattern
    pattern: Pattern
    decode: Pattern

    @property
    def causal(self) -> bool:
        """Whether the layer hides later keys by itself."""
        return any(isinstance(part, Causal) for part in conjuncts(self.own))


def layers_of(model: nn.Module) -> tuple[SparseLayer, ...]:
    """What each layer of a sparsified model computes; layers that the plan leaves alone are not among them.

    Raises:
        PlanError: The model is not sparse.

    Examples:
        >>> import openwork as ow
        >>> from openwork.hf import sparsify
        >>> from transformers import MistralConfig, MistralModel
        >>> config = MistralConfig(vocab_size=9, hidden_size=32, intermediate_size=8, num_hidden_layers=1, head_dim=8,
        ...                        num_attention_heads=4, num_key_value_heads=2, sliding_window=16)
        >>> layers_of(sparsify(MistralModel(config), ow.First(keys=4) | ow.Window(before=7)))[0].pattern
        (First(keys=4) | Window(before=7, after=0)) & Causal() & Window(before=15, after=0)
    """
    model = inner_model(model)
    if model_state(model) is None:
        raise PlanError(f"{type(model).__name__} is not sparse; call openwork.hf.sparsify(model, plan) first.")
    return tuple(_read(model))


def _read(model: nn.Module) -> Iterator[SparseLayer]:
    for stack in stacks_of(model):
        own_layers = [(layer, layer_state(layer.module)) for layer in stack.own_layers if _has_pattern(layer)]
        for number, (layer, state) in enumerate(own_layers):
            own = own_pattern(layer, state)
            assert state.pattern is not None
            decode = state.pattern if state.decode_pattern is None else state.decode_pattern
            kv_heads = _count(layer.module, "num_key_value_heads", "num_key_value_heads") or layer.q_heads
            head_dim = _head_dim(layer)
            yield SparseLayer(
                layer.path,
                stack.kind,
                number,
                layer.q_heads,
                kv_heads,
                head_dim,
                own,
                state.pattern,
                both(state.pattern, own),
                both(decode, own),
            )


def _has_pattern(layer: Layer) -> bool:
    state = layer.module.__dict__.get("_openwork_layer")
    return isinstance(state, LayerState) and state.pattern is not None


def own_pattern(layer: Layer, state: LayerState) -> Pattern:
    """The layer's own mask, as it was last handed over, or else as its attributes tell it."""
    if state.own is not None:
        return state.own
    window = getattr(layer.module, "sliding_window", _window_of_all(getattr(layer.module, "config", None)))
    size = window if isinstance(window, int) and window > 0 else None
    if state.causal:
        return Causal() if size is None else Causal() & Window.from_hf(size)
    return Dense() if size is None else Window.from_hf(size, bidirectional=True)


def _window_of_all(config: Any) -> int | None:
    """The window of a model all of whose layers have it, as Mistral's."""
    if getattr(config, "layer_types", None) is not None or not getattr(config, "use_sliding_window", True):
        return None
    window: int | None = getattr(config, "sliding_window", None)
    return window


def _count(module: Any, *names: str) -> int | None:
    for owner in (module, getattr(module, "config", None)):
        for name in names:
            value = getattr(owner, name, None)
            if isinstance(value, int) and value > 0:
                return value
    return None


def _head_dim(layer: Layer) -> int | None:
    found = _count(layer.module, "head_dim", "attention_head_size")
    hidden = _count(layer.module, "hidden_size", "d_model", "n_embd", "embed_dim")
    return found if found or not hidden or not layer.q_heads else hidden // layer.q_heads
