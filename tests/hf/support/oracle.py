"""What a sparsified model must compute, by other means: the model's own eager attention under a dense mask.

The oracle knows nothing of openwork but `pattern.allows`. It runs a copy of the model on whole, unpadded, uncached
sequences, so positions are 0, 1, 2, ...; batches, padding, packing and caches are compared with it row by row. Each
call of the attention interface goes to the `eager_attention_forward` that the model's file holds, with the pairs that
the plan takes away masked on top of the model's own mask.
"""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from openwork import Pattern, PerHead, Plan

NAME = "openwork_oracle"
CROSS = re.compile(r"EncDecAttention|encoder_attn|crossattention|cross_attn|cross_attention|multihead_attn")


class Oracle:
    """A dense masked copy of a model, in `dtype`.

    Args:
        model: The dense model; it is copied, and not touched.
        plan: The plan, or one pattern for all layers; `None` is dense.
        dtype: What the copy computes in.
        layers: Attention layers of each stack.
    """

    def __init__(self, model: nn.Module, plan: Plan | Pattern | None, dtype: torch.dtype, layers: int) -> None:
        self.model = copy.deepcopy(model).to(dtype)
        self.plan = None if plan is None else Plan.of(plan)
        self.num_layers = layers
        self.modules: dict[str, list[nn.Module]] = {}
        self.names = {id(module): name for name, module in self.model.named_modules()}
        for module in self.model.modules():
            module.__dict__["oracle"] = self
        self.model.set_attn_implementation(NAME)
        if hasattr(self.model, "set_experts_implementation"):
            self.model.set_experts_implementation("eager")  # the others take no float64

    def __call__(self, **inputs: Any) -> Any:
        return self.model(**inputs)

    def pattern_of(self, module: nn.Module) -> Pattern | None:
        """What the plan says of a self-attention module; `None` for cross-attention."""
        name = self.names[id(module)]
        if self.plan is None or CROSS.search(name):
            return None
        stack = "decoder" if re.search(r"(^|\.)decoder(\.|$)", name) or not self.has_encoder else "encoder"
        known = self.modules.setdefault(stack, [])
        if not any(module is other for other in known):
            known.append(module)
        number = next(i for i, other in enumerate(known) if other is module)
        return self.plan.part(stack).for_layer(number, self.num_layers)

    @property
    def has_encoder(self) -> bool:
        """Whether the model is an encoder and a decoder."""
        return bool(getattr(self.model.config, "is_encoder_decoder", False))

    @property
    def seen(self) -> Mapping[str, int]:
        """How many self-attention modules of each stack were asked."""
        return {stack: len(modules) for stack, modules in self.modules.items()}


def dense(pattern: Pattern, heads: int, q_len: int, kv_len: int) -> Tensor:
    """Bool `[heads, q_len, kv_len]`: every pair asked; the last query is the last key."""
    q_pos, kv_pos = torch.arange(kv_len - q_len, kv_len)[:, None], torch.arange(kv_len)[None]
    each = [pattern.head(head) if isinstance(pattern, PerHead) else pattern for head in range(heads)]
    return torch.stack([torch.broadcast_to(one.allows(q_pos, kv_pos), (q_len, kv_len)) for one in each])


def _attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any) -> Any:
    pattern = module.oracle.pattern_of(module)
    if pattern is not None:
        heads, q_len, kv_len = query.shape[1], query.shape[2], key.shape[2]
        lowest = torch.finfo(query.dtype).min
        taken = torch.zeros(heads, q_len, kv_len, dtype=query.dtype)
        taken = taken.masked_fill(~dense(pattern, heads, q_len, kv_len), lowest)[None]
        attention_mask = taken if attention_mask is None else (attention_mask + taken).clamp(min=lowest)
    eager = sys.modules[type(module).__module__].eager_attention_forward
    return eager(module, query, key, value, attention_mask, **options)


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, eager_mask)
