"""`sparsify` and `densify`."""

from __future__ import annotations

import logging
import warnings
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch

from openwork.errors import PlanError, PlanWarning
from openwork.hf.annotate import MissingAnnotate, as_annotate
from openwork.hf.calls import CallEnd, GenerationIds
from openwork.hf.config import forget_plan, write_plan
from openwork.hf.future import sees_later_keys
from openwork.hf.guard import CallGuard
from openwork.hf.layers import Stack, inner_model, stacks_of
from openwork.hf.own import conjuncts
from openwork.hf.prompt import Generate
from openwork.hf.report import layers_of
from openwork.hf.state import (
    NAME,
    LayerState,
    ModelState,
    implementation_of,
    layer_state,
    model_state,
    set_layer_state,
    set_model_state,
)
from openwork.hf.table import pattern_of_mask
from openwork.patterns import Pattern, Window
from openwork.plan import Plan

__all__ = ["densify", "plug_loaded", "sparsify"]

_LOG = logging.getLogger("openwork.hf")

Model = TypeVar("Model", bound=torch.nn.Module)


def sparsify(model: Model, plan: Plan | Pattern | Any, annotate: Any = None, *, backend: str = "auto") -> Model:
    """The model, computing from now on only the pairs that the plan and its own mask both allow.

    A plan only removes pairs: a window to both sides stays causal on a decoder, and a model's own local layers can only
    be narrowed. Positions are the places of tokens among those that are no padding; in a packed row (`position_ids`
    that restart, no `attention_mask`) they restart. A padded query sees nothing, except behind the text of a causal
    model, where what it computes is read by nobody. Cross-attention is left alone. Where
    a model has several parts (vision and text), the one that `config.get_text_config()` describes follows the plan.

    Args:
        model: A model of transformers whose attention goes through its attention interface, or what PEFT, DDP or
            `torch.compile` made of one.
        plan: What each layer may look at; a pattern stands for all layers, and a boolean tensor `[q, k]` or
            `[heads, q, k]`, True = attend, for the pattern whose positions are its rows and columns.
        annotate: Makes the facts that the plan reads: a tokenizer, where the plan names its annotator; a pair
            `(annotator, tokenizer)`; or a function of a batch, a mapping with `input_ids` `[batch, tokens]` (all tokens
            so far) and `attention_mask`, and with `text` and `offsets` where `annotating` brought them, that returns
            `Annotations` of all tokens for each row. In `generate` it is asked again for each new token.
        backend: Which backend of `openwork.ops.sparse_attention` computes; a named one runs or raises.

    Returns:
        The same model. `model.plan` is its plan, `model.set_plan(plan)` (or `openwork.nn.set_plan`) changes it.

    Raises:
        PlanError: The model's attention cannot be replaced, or the plan does not fit it. Then nothing was changed.
        AnnotationError: The plan reads facts and nothing makes them, the tokenizer has no offsets, or the annotator
            knows the future and the model is causal.

    Examples:
        >>> import openwork as ow
        >>> from transformers import LlamaConfig, LlamaModel
        >>> sizes = dict(vocab_size=99, hidden_size=32, intermediate_size=64, num_hidden_layers=2)
        >>> model = sparsify(LlamaModel(LlamaConfig(**sizes)), ow.Causal() & ow.Window(before=255))
        >>> model(torch.arange(9)[None]).last_hidden_state.shape
        torch.Size([1, 9, 32])
        >>> densify(model).config._attn_implementation
        'sdpa'
    """
    inner = inner_model(model)
    before, resolved = getattr(inner, "plan", None), _as_plan(plan)
    plug(inner, resolved, annotate, backend)
    _tell_windows(inner)
    name = getattr(inner.config, "name_or_path", "")
    if name and before != resolved:
        _LOG.warning(
            "%s: the weights of %s were trained without this plan, so expect worse answers until they are tuned under "
            "it. `openwork study --model DIR --tune attention` measures what is lost and what tuning brings back.",
            type(inner).__name__,
            name,
        )
    return model


def _tell_windows(model: Any) -> None:
    """Says which layers have windows of their own, which a plan can only narrow."""
    windows: dict[str, list[str]] = {}
    for layer in layers_of(model):
        for part in conjuncts(layer.own):
            if isinstance(part, Window):
                windows.setdefault(repr(part), []).append(f"{layer.stack} {layer.number}".strip())
    for window, layers in windows.items():
        _LOG.info("%s has %s of its own in the layers %s.", type(model).__name__, window, ", ".join(layers))


def plug(model: Any, plan: Plan, annotate: Any = None, backend: str = "auto") -> None:
    """Gives the layers of a model their patterns, and the model its state and hooks."""
    stacks, others = _sparse_and_other(model)
    patterns = _resolve(stacks, plan)
    for stack in stacks:
        _require_switch(stack)
    annotate = as_annotate(plan, annotate, causal=any(stack.causal for stack in stacks))
    previous = model_state(model)
    state = ModelState(plan, annotate, backend)
    for stack in stacks:
        dense = _dense_implementation(stack)
        state.dense_name[stack.path] = previous.dense_name.get(stack.path, dense) if previous else dense
    if previous is not None:
        _remove_hooks(previous)
    for stack, chosen in zip(stacks, patterns, strict=True):
        _plug_stack(stack, chosen, state)
    for stack in others:
        if implementation_of(stack.module.config) == NAME:
            # a part inside a sparse one, which shares its implementation: it computes what it did
            for layer in stack.layers:
                set_layer_state(layer.module, LayerState(layer.path, state))
    if all(stack.module is not model for stack in stacks):
        _add_hooks(model, stacks[-1], state)
    set_model_state(model, state)
    write_plan(model, stacks, plan)
    model.__dict__["plan"] = plan
    model.__dict__["num_plan_layers"] = len(stacks[-1].own_layers)
    model.__dict__["set_plan"] = partial(replan, model)
    model.__dict__.pop(GenerationIds.name, None)
    if state.annotate is not None and hasattr(model, GenerationIds.name):
        model.__dict__[GenerationIds.name] = GenerationIds(model, state)
    # one that the user put there is left alone
    if hasattr(model, Generate.name) and isinstance(model.__dict__.get(Generate.name), Generate | None):
        model.__dict__[Generate.name] = Generate(model, state)


def _sparse_and_other(model: Any) -> tuple[list[Stack], list[Stack]]:
    """The stacks that follow a plan, and those that do not: the vision part of a model with a text part."""
    stacks = stacks_of(model)
    if len(stacks) == 1 or getattr(model.config, "is_encoder_decoder", False):
        return stacks, []
    text = model.config.get_text_config()
    sparse = [stack for stack in stacks if stack.module.config is text and stack.own_layers]
    if not sparse:
        parts = ", ".join(f"{stack.path} ({type(stack.module).__name__})" for stack in stacks)
        raise PlanError(f"{type(model).__name__} has several parts, {parts}; call sparsify on the one that you mean.")
    others = [stack for stack in stacks if stack not in sparse]
    if others:
        names = ", ".join(f"{stack.path} ({type(stack.module).__name__})" for stack in others)
        _LOG.info("the plan is for the text part of %s; dense stay %s.", type(model).__name__, names)
    return sparse, others


def _require_switch(stack: Stack) -> None:
    """Raises a `PlanError` where transformers does not let the implementation be set, of which it only logs."""
    module, before = stack.module, implementation_of(stack.module.config)
    module.set_attn_implementation(NAME)
    if implementation_of(module.config) != NAME:
        raise PlanError(
            f"{type(module).__name__} cannot be made sparse: this version of transformers does not let the attention "
            "implementation of this family be set. Take a newer transformers; docs/models.md says which serves it."
        )
    module.set_attn_implementation(before or "eager")


def _plug_stack(stack: Stack, chosen: list[tuple[Pattern, Pattern]], state: ModelState) -> None:
    pairs = iter(chosen)
    for layer in stack.layers:
        pattern, decode = (None, None) if layer.cross else next(pairs)
        causal = bool(getattr(layer.module, "is_causal", True))
        set_layer_state(layer.module, LayerState(layer.path, state, pattern, decode, causal))
    stack.module.set_attn_implementation(NAME)
    _add_hooks(stack.module, stack, state)


def plug_loaded(model: Any, plan: Plan) -> None:
    """`plug` for a checkpoint, which brings a plan and no annotator."""
    plug(model, plan, MissingAnnotate() if plan.needs.keys() - {"document"} else None)


def _add_hooks(module: Any, stack: Stack, state: ModelState) -> None:
    end = CallEnd([]) if state.annotate is not None else None
    state.hooks.append(module.register_forward_pre_hook(CallGuard(state, stack.module.config, end), with_kwargs=True))
    if end is not None:
        state.hooks.append(module.register_forward_hook(end, always_call=True))


def _dense_implementation(stack: Stack) -> str:
    """What the stack computes with where it is not sparse."""
    name = implementation_of(stack.module.config) or "eager"
    if name != NAME:
        return name
    # a checkpoint that was saved sparse says nothing of what it was before; the flag, which transformers does not
    # document, is what it chooses by for a checkpoint that names none
    return "sdpa" if stack.module._supports_sdpa else "eager"


def replan(model: Any, plan: Plan | Pattern) -> None:
    """Gives a sparsified model another plan; what `openwork.nn.set_plan` calls.

    Raises:
        PlanError: The plan does not fit. Then nothing was changed.
    """
    state = model_state(model)
    assert state is not None
    resolved = _as_plan(plan)
    stacks, _ = _sparse_and_other(model)
    patterns = _resolve(stacks, resolved)
    as_annotate(resolved, state.annotate, causal=False)
    for stack, chosen in zip(stacks, patterns, strict=True):
        for layer, (pattern, decode) in zip(stack.own_layers, chosen, strict=True):
            kept = layer_state(layer.module)
            kept.pattern, kept.decode_pattern = pattern, decode
    state.plan = resolved
    write_plan(model, stacks, resolved)
    model.__dict__["plan"] = resolved


def densify(model: Model) -> Model:
    """The model as it was before `sparsify`; a model that is not sparse is left as it is."""
    inner = inner_model(model)
    state = model_state(inner)
    if state is None:
        return model
    _remove_hooks(state)
    for stack in stacks_of(inner):
        if implementation_of(stack.module.config) == NAME and stack.path in state.dense_name:
            stack.module.set_attn_implementation(state.dense_name[stack.path])
        for layer in stack.layers:
            set_layer_state(layer.module, None)
    set_model_state(inner, None)
    forget_plan(inner)
    for name in ("plan", "num_plan_layers", "set_plan", GenerationIds.name):
        inner.__dict__.pop(name, None)
    if isinstance(inner.__dict__.get(Generate.name), Generate):
        del inner.__dict__[Generate.name]
    return model


def _as_plan(plan: Any) -> Plan:
    if isinstance(plan, Plan | Pattern):
        return Plan.of(plan)
    if isinstance(plan, torch.Tensor | np.ndarray):
        return Plan(default=pattern_of_mask(plan))
    raise PlanError(
        f"a plan is a Plan, a Pattern or a boolean tensor [q, k] or [heads, q, k]; got {type(plan).__name__}. Read "
        "text with openwork.parse_pattern, a file with openwork.Plan.from_json."
    )


def _remove_hooks(state: ModelState) -> None:
    for hook in state.hooks:
        hook.remove()
    state.hooks.clear()


def _resolve(stacks: list[Stack], plan: Plan) -> list[list[tuple[Pattern, Pattern]]]:
    """For each stack, for each of its own layers: its pattern, and its pattern in decoding."""
    several = {stack.kind for stack in stacks} == {"encoder", "decoder"}
    if not several and (plan.encoder is not None or plan.decoder is not None):
        raise PlanError("the plan has parts for encoder and decoder, but the model has one stack; give one plan.")
    resolved = []
    for stack in stacks:
        layers = stack.own_layers
        part = plan.part("encoder" if stack.kind == "encoder" else "decoder") if several else plan.part("decoder")
        decode = part if stack.kind == "encoder" else plan.part("decode")
        for each in (part, decode):
            for layer in layers:
                each.check(len(layers), layer.q_heads)
        if not stack.causal:
            _warn_if_backward_only(stack, part)
        count = range(len(layers))
        resolved.append([(part.for_layer(n, len(layers)), decode.for_layer(n, len(layers))) for n in count])
    return resolved


def _warn_if_backward_only(stack: Stack, plan: Plan) -> None:
    """Warns of a plan for an encoder in which no query sees a later key: most likely written for a decoder."""
    if not any(sees_later_keys(pattern) for pattern in plan.patterns):
        warnings.warn(
            f"{type(stack.module).__name__} is an encoder, but in this plan no query sees a later key. If that is not "
            "meant, give windows an after= and leave Causal() out.",
            PlanWarning,
            stacklevel=4,
        )
