"""A micro-run's model that is made of `openwork.nn.SparseAttention`: one of the study's shapes, or the user's own."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from openwork.layout import BlockLayout, compile_layout
from openwork.nn import SparseAttention, prepare_layouts
from openwork.ops.explain import looks_back_only
from openwork.patterns import Causal, Dense
from openwork.plan import Plan
from openwork.study.bench.config import DENSE, EAGER, MASK, SPARSE
from openwork.study.bench.subject import (
    MASKED_BACKEND,
    BenchModel,
    Inputs,
    Way,
    dense_mask,
    random_tokens,
    sharing_copy,
)
from openwork.study.model import matrix_numbers
from openwork.study.shapes import LayerShape

__all__ = ["HomeGrown"]

_PROBE = 64
"""Tokens at which it is looked at whether a layer's own pattern shows later keys."""


class HomeGrown(BenchModel):
    """A module whose attention layers are `SparseAttention` and whose `forward(tokens, layouts)` gives logits.

    Its dense way attends to all that its layers' own patterns leave in principle: all earlier tokens where none of
    them shows a later key, else all tokens.

    Args:
        module: The module.
        vocab_size: Number of token ids.
        title: What reports call it.
        weights: Where its numbers come from.
    """

    def __init__(self, module: nn.Module, vocab_size: int, *, title: str, weights: str) -> None:
        # dropout would draw other numbers for each way
        self.module, self.vocab_size, self.title, self.weights = module.eval(), vocab_size, title, weights
        layers = _layers(module)
        self.shapes = tuple(LayerShape(q_heads=p.q_heads, kv_heads=p.kv_heads, head_dim=p.head_dim) for p in layers)
        own = (p.pattern for p in layers)
        probes = (p if isinstance(p, BlockLayout) else compile_layout(p, q_len=_PROBE, kv_len=_PROBE) for p in own)
        self.causal = all(map(looks_back_only, probes))
        self.matrix_numbers = matrix_numbers(module, vocab_size)

    def inputs(self, batch_size: int, seq_len: int, seed: int) -> Inputs:
        """`tokens` and the `targets` that follow them."""
        drawn = random_tokens(self.vocab_size, batch_size, seq_len + 1, seed)
        device = next(self.module.parameters()).device
        return {"tokens": drawn[:, :-1].to(device), "targets": drawn[:, 1:].to(device)}

    def dense(self, seq_len: int) -> Way:
        """Causal or full attention, by the backend that `auto` chooses for it."""
        everything = Causal() if self.causal else Dense()
        return self._way(DENSE, self.module, Plan(default=everything), seq_len, "auto")

    def masked(self, plan: Plan, seq_len: int, *, eager: bool = False) -> Way:
        """The same module with `scaled_dot_product_attention(attn_mask=...)` in every layer; `reference` if eager."""
        module = sharing_copy(self.module)
        if eager:
            way = self._way(EAGER, module, self._own(plan), seq_len, "reference")
            return replace(way, held_bytes=sum(layout.q_len * layout.kv_len for layout in set(way.layouts)))
        way = self._way(MASK, module, self._own(plan), seq_len, "auto")
        started = time.perf_counter()
        device = next(module.parameters()).device
        masks = {id(layout): dense_mask(layout, device) for layout in way.layouts}
        for layer, layout in zip(_layers(module), way.layouts, strict=True):
            # an instance attribute comes before the class's method
            layer.attend = _by_mask(masks[id(layout)])  # type: ignore[method-assign]
        return replace(
            way,
            backend=MASKED_BACKEND,
            held_bytes=sum(mask.nbytes for mask in masks.values()),
            compile_s=way.compile_s + time.perf_counter() - started,
        )

    def sparse(self, plan: Plan, seq_len: int, backend: str) -> Way:
        """The same module with the plan's layouts."""
        return self._way(SPARSE, sharing_copy(self.module), self._own(plan), seq_len, backend)

    def require_fits(self, plan: Plan) -> None:
        """Raises a `PlanError` where the plan does not fit the model."""
        for shape in dict.fromkeys(self.shapes):
            plan.check(len(self.shapes), shape.q_heads)

    def to_double(self) -> HomeGrown:
        """A copy that computes in float64."""
        module = copy.deepcopy(self.module).double()
        return HomeGrown(module, self.vocab_size, title=self.title, weights=self.weights)

    def _own(self, plan: Plan) -> Plan:
        """The plan as the model uses it: one that sees no later key never does."""
        return plan.map(lambda pattern: Causal() & pattern) if self.causal else plan

    def _way(self, name: str, module: nn.Module, plan: Plan, seq_len: int, backend: str) -> Way:
        layers = _layers(module)
        for layer in layers:
            layer.backend = backend
        started = time.perf_counter()
        layouts = prepare_layouts(plan, len(layers), seq_len)
        compile_s = time.perf_counter() - started

        def forward(inputs: Inputs) -> Tensor:
            logits: Tensor = module(inputs["tokens"], layouts)
            return logits

        def loss(inputs: Inputs) -> Tensor:
            logits = forward(inputs)
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            return cross_entropy(logits.flatten(0, 1), inputs["targets"].flatten())

        return Way(
            name=name,
            module=module,
            loss=loss,
            forward=forward,
            layouts=layouts,
            held_bytes=sum(layout.nbytes for layout in {id(layout): layout for layout in layouts}.values()),
            compile_s=compile_s,
            backend=backend,
        )


def _layers(module: nn.Module) -> list[SparseAttention]:
    return [part for part in module.modules() if isinstance(part, SparseAttention)]


def _by_mask(mask: Tensor) -> Callable[..., Tensor]:
    def attend(query: Tensor, key: Tensor, value: Tensor, layout: BlockLayout) -> Tensor:
        grouped = query.shape[1] != key.shape[1]
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=grouped)

    return attend
