"""`replace_attention`: the attention layers of a model of the user's own take a plan, and stay what they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
from torch import Tensor, nn

from openwork.errors import PlanError
from openwork.layout import BlockLayout
from openwork.nn.multihead import SparseMultiheadAttention
from openwork.nn.pattern_layer import PatternLayer, Rule, check_rules, num_q_heads_of
from openwork.nn.plans import layer_patterns
from openwork.nn.routed import routed_class
from openwork.patterns import Pattern
from openwork.plan import Plan

__all__ = ["replace_attention", "restore_attention"]


def replace_attention(
    model: nn.Module,
    plan: Plan | Pattern | Any,
    *,
    kind: type[nn.Module] | tuple[type[nn.Module], ...] = (),
    skip: Sequence[str] = (),
    backend: str = "auto",
) -> nn.Module:
    """Lets a model's attention layers compute only what a plan allows; parameters and state dict stay as they are.

    Each of these is a layer, numbered in the order of `model.modules()`:

    - `nn.MultiheadAttention`, alone and as the self-attention of `nn.TransformerEncoderLayer` and
      `nn.TransformerDecoderLayer`; it becomes a `SparseMultiheadAttention`. The decoder layer's cross-attention stays
      dense.
    - Attention as timm writes it: a module with a `qkv` and a `proj` layer and `num_heads`, whose `forward` calls
      torch's `scaled_dot_product_attention`. Its own code runs, and that call gets the pattern.
    - Modules of the classes in `kind`, which call `scaled_dot_product_attention` likewise.

    A plan only removes pairs: masks and causality that the model brings still hold. The modules stay the same objects,
    so hooks, optimizers and whatever else refers to them keep working. On a model that was replaced before, the plan
    takes the place of the old one.

    Args:
        model: The model, changed in place.
        plan: A `Plan`; a `Pattern`, or a boolean tensor `[q, k]` or `[heads, q, k]`, True = attend, for all layers.
        kind: Classes of your own attention modules.
        skip: Names of modules to leave dense, as `model.named_modules()` has them or the last part of such a name.
        backend: Which backend of `ops.sparse_attention` computes.

    Returns:
        The model.

    Raises:
        PlanError: Nothing was found, a name in `skip` is nowhere, the plan does not fit, a pattern reads annotations
            (these modules have no argument for them), or a module has keys that are no tokens. Then nothing was
            changed.

    Examples:
        >>> from openwork.patterns import Causal, Window
        >>> model = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2)
        >>> before = list(model.state_dict())
        >>> _ = replace_attention(model, Causal() & Window(before=15))
        >>> model.layers[1].self_attn.pattern
        Causal() & Window(before=15, after=0)
        >>> list(model.state_dict()) == before
        True
    """
    found = list(_layers(model, kind if isinstance(kind, tuple) else (kind,), tuple(skip)))
    if not found:
        raise PlanError(
            f"{type(model).__name__} has no attention layer that can be replaced (nn.MultiheadAttention, or qkv "
            "and proj "
            "as timm writes it); name the class of your own that calls scaled_dot_product_attention: kind=MyAttention."
        )
    rules = _rules(model, plan, [module for _, module in found])
    for (name, module), (rule, decode) in zip(found, rules, strict=True):
        _check(name, module, rule, decode)
    for (_, module), (rule, decode) in zip(found, rules, strict=True):
        _replace(module, rule, decode, backend)
    for module in cast("Iterator[Any]", model.modules()):
        # in evaluation torch's encoder packs padded batches into nested tensors before its layers see them
        if isinstance(module, nn.TransformerEncoder) and module.__dict__.get("use_nested_tensor"):
            module.__dict__.update(use_nested_tensor=False, _openwork_nested=True)
    return model


def restore_attention(model: nn.Module) -> nn.Module:
    """Undoes `replace_attention`: every layer is of its own class again, and dense; parameters are untouched.

    Args:
        model: The model, changed in place. Layers that were never replaced stay as they are.

    Returns:
        The model.
    """
    for module in cast("Iterator[Any]", model.modules()):
        if module.__dict__.pop("_openwork_nested", False):
            module.use_nested_tensor = True
        dense = module.__dict__.pop("_openwork_dense_class", None)
        if dense is not None:
            for name in ("pattern", "decode_pattern", "backend", "_maker"):
                module.__dict__.pop(name, None)
            module.__class__ = dense
    return model


def _layers(
    model: nn.Module, kinds: tuple[type[nn.Module], ...], skip: tuple[str, ...]
) -> Iterator[tuple[str, nn.Module]]:
    """Layers to replace, or replaced already, by name."""
    named = list(model.named_modules())
    for wanted in skip:
        if not any(_is_in(name, wanted) for name, _ in named):
            raise PlanError(f"skip names {wanted!r}, but the model has no module of that name.")
    cross = {id(module.multihead_attn) for _, module in named if isinstance(module, nn.TransformerDecoderLayer)}
    for name, module in named:
        if id(module) in cross or any(_is_in(name, wanted) for wanted in skip):
            continue
        if isinstance(module, (nn.MultiheadAttention, PatternLayer, *kinds)) or _like_timm(module):
            yield name, module


def _is_in(name: str, wanted: str) -> bool:
    """Whether the module is the wanted one, or in it."""
    parts, own = name.split("."), wanted.split(".")
    if parts[: len(own)] == own:
        return True
    return len(own) == 1 and own[0] in parts


def _like_timm(module: nn.Module) -> bool:
    qkv, proj = getattr(module, "qkv", None), getattr(module, "proj", None)
    return (
        isinstance(qkv, nn.Linear)
        and isinstance(proj, nn.Linear)
        and isinstance(getattr(module, "num_heads", None), int)
    )


def _rules(model: nn.Module, plan: Any, layers: list[nn.Module]) -> list[tuple[Rule, Rule | None]]:
    """For each layer its pattern, or the layout of a mask, and what single tokens upon a cache see."""
    if isinstance(plan, Tensor | np.ndarray):
        layout = BlockLayout.from_mask(plan)
        if layout.batch > 1:
            raise PlanError(f"a mask for all layers is [q, k] or [heads, q, k]; got shape {list(plan.shape)}.")
        return [(layout, None)] * len(layers)
    return [*layer_patterns(model, Plan.of(plan), layers)]


def _check(name: str, module: nn.Module, rule: Rule, decode: Rule | None) -> None:
    where = name or type(module).__name__
    if isinstance(module, PatternLayer):
        module.check_pattern(rule, decode)
        return
    check_rules((rule, decode), where, num_q_heads_of(module), takes_annotations=False)
    if isinstance(module, nn.MultiheadAttention) and type(module) is not nn.MultiheadAttention:
        raise PlanError(
            f"{where} is a {type(module).__name__}, a kind of nn.MultiheadAttention that may compute something else; "
            f"skip=[{name!r}] leaves it dense."
        )
    if isinstance(module, nn.MultiheadAttention) and (module.bias_k is not None or module.add_zero_attn):
        raise PlanError(
            f"{where} has add_bias_kv or add_zero_attn: keys that are no token of the sequence, of which no pattern "
            f"speaks. skip=[{name!r}] leaves it dense."
        )
    if taken := [each for each in ("pattern", "decode_pattern", "backend") if hasattr(module, each)]:
        raise PlanError(f"{where} has an attribute {taken[0]!r} of its own; rename it, or skip=[{name!r}].")


def _replace(module: Any, rule: Rule, decode: Rule | None, backend: str) -> None:
    if not isinstance(module, PatternLayer):
        module._openwork_dense_class = type(module)
        multihead = type(module) is nn.MultiheadAttention
        # the same object in another class: whatever refers to it, hooks and optimizers among it, keeps working
        module.__class__ = SparseMultiheadAttention if multihead else routed_class(type(module))
    if isinstance(module, SparseMultiheadAttention):
        module.prepare(rule, backend)
    else:
        module.backend = backend
    module.set_pattern(rule, decode)
