"""Dense attention of transformers that is given a plan's pairs as a mask, layer by layer, and what it sees on the way.

This is what people do who have a mask and no sparse kernel. Its pairs come from elsewhere than those of
`openwork.hf`: the model's own mask is the one that transformers makes for `sdpa`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from openwork.study.bench.subject import sharing_copy

__all__ = ["Masks", "masking", "use_masks"]

MASKED = "openwork_masks"
"""The name under which transformers knows this attention; one that starts no check of its own for a built-in one."""


@dataclass(eq=False)
class Masks:
    """The masks of one model at one length.

    Attributes:
        plan_masks: Attention module to bool `[1, heads or 1, q_len, kv_len]`; a module without one keeps its own mask.
        eager: Whether the model's own eager function computes, as for models that torch's operation cannot serve.
        ready: Attention module to what it computes with, its own mask included; filled by the first call.
        warm: Whether a call has filled them.
    """

    plan_masks: dict[nn.Module, Tensor] = field(default_factory=dict)
    eager: bool = False
    ready: dict[nn.Module, Tensor | None] = field(default_factory=dict)
    warm: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of the masks that are kept, each once."""
        kept = {id(mask): mask.nbytes for mask in self.ready.values() if mask is not None}
        return sum(kept.values())


_MASKS: ContextVar[Masks] = ContextVar("masks of the model that is being called")
_MASK_OPTIONS = {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}


def masking(model: PreTrainedModel, masks: Masks) -> PreTrainedModel:
    """A copy with the same parameters that computes with masks while they are in use."""
    AttentionInterface.register(MASKED, _attention)
    AttentionMaskInterface.register(MASKED, _mask)
    module = sharing_copy(model)
    assert isinstance(module, PreTrainedModel)
    module.set_attn_implementation(MASKED)
    return module


@contextmanager
def use_masks(masks: Masks) -> Iterator[None]:
    """Lets a model of `masking` that is called inside compute with these masks."""
    token = _MASKS.set(masks)
    try:
        yield
        masks.warm = True
    finally:
        _MASKS.reset(token)


def _mask(*arguments: Any, **options: Any) -> Tensor | None:
    """The model's own mask as pairs; nothing where each layer has kept what it needs of it."""
    if _MASKS.get().warm:
        return None
    make = AttentionMaskInterface()["sdpa"]  # type: ignore[no-untyped-call]
    own: Tensor | None = make(*arguments, **{**options, **_MASK_OPTIONS})
    return own


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, Any]:
    masks = _MASKS.get()
    if module not in masks.ready:
        own = _own(module, query, key, attention_mask, options)
        masks.ready[module] = _joined(own, masks.plan_masks.get(module), query, masks)
    compute = _eager(module) if masks.eager else AttentionInterface()["sdpa"]  # type: ignore[no-untyped-call]
    options["is_causal"] = False
    result: tuple[Tensor, Any] = compute(module, query, key, value, masks.ready[module], **options)
    return result


def _own(
    module: nn.Module, query: Tensor, key: Tensor, attention_mask: Tensor | None, options: dict[str, Any]
) -> Tensor | None:
    """Bool `[1, 1, q_len, kv_len]`: what the model itself allows; `None` for every pair."""
    if attention_mask is not None:
        return attention_mask[:1].bool()
    told = options.get("is_causal")
    if query.shape[2] == 1 or not (getattr(module, "is_causal", True) if told is None else told):
        return None
    return torch.ones(1, 1, query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()


def _joined(own: Tensor | None, plan: Tensor | None, query: Tensor, masks: Masks) -> Tensor | None:
    """Both masks; the same tensor for layers that mean the same, as whoever makes one mask for a model has it."""
    if own is None and plan is None:
        return None
    joined = own if plan is None else plan if own is None else own & plan
    assert joined is not None
    if masks.eager:
        low = torch.finfo(query.dtype).min
        joined = torch.zeros(joined.shape, dtype=query.dtype, device=query.device).masked_fill_(~joined, low)
    for known in masks.ready.values():
        if known is not None and known.shape == joined.shape and known.equal(joined):
            return known
    return joined


def _eager(module: nn.Module) -> Callable[..., Any]:
    # each modeling file has its own, which adds a mask to the scores
    function: Callable[..., Any] = vars(sys.modules[type(module).__module__])["eager_attention_forward"]
    return function
