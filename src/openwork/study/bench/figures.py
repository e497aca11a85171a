"""What a step costs by arithmetic: FLOPs that the pairs need, FLOPs that are executed, memory that has to be held."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from openwork.layout import BlockLayout
from openwork.ops import explain
from openwork.study.bench.config import EAGER, MASK, SPARSE
from openwork.study.bench.subject import BenchModel, Inputs, Way
from openwork.study.shapes import LayerShape

__all__ = [
    "BACKWARD",
    "AttentionFlops",
    "attention_bytes",
    "attention_flops",
    "eager_bytes",
    "gradient_bytes",
    "kept_bytes",
    "other_flops",
]

BACKWARD = 2.5
"""FLOPs of attention's backward pass over those of its forward pass: five products where forward has two."""
_MATRIX_PASSES = 3
"""A matrix's forward pass and its backward pass, which is two products of the same size."""
_EAGER_MATRICES = 1
"""The probabilities, which attention without a fused kernel keeps for the backward pass; it needs no scores there."""


@dataclass(frozen=True)
class AttentionFlops:
    """FLOPs of all attention layers in one step.

    Attributes:
        useful: Of the pairs that are allowed.
        executed: Of what is computed: whole blocks where blocks are, every pair where a mask is.
        backends: What computes it; several where layers differ.
    """

    useful: float
    executed: float
    backends: tuple[str, ...]


def attention_flops(model: BenchModel, way: Way, batch_size: int, *, forward_only: bool) -> AttentionFlops:
    """FLOPs of all attention layers in one step: `4 x pairs x head_dim` forward, 2.5 times that backward."""
    useful = executed = 0.0
    backends: dict[str, None] = {}
    known: dict[tuple[int, LayerShape], tuple[float, float, str]] = {}
    for shape, layout in zip(model.shapes, way.layouts, strict=True):
        key = id(layout), shape
        if key not in known:
            known[key] = _layer_flops(shape, layout, way, batch_size, next(model.module.parameters()))
        layer_useful, layer_executed, backend = known[key]
        useful, executed = useful + layer_useful, executed + layer_executed
        backends[backend] = None
    passes = 1.0 if forward_only else 1.0 + BACKWARD
    return AttentionFlops(useful * passes, executed * passes, tuple(backends))


def _layer_flops(
    shape: LayerShape, layout: BlockLayout, way: Way, batch_size: int, like: Tensor
) -> tuple[float, float, str]:
    """Useful and executed FLOPs of one layer's forward pass, and what computes it."""
    heads = batch_size * shape.q_heads
    per_pair = 4 * shape.head_dim
    # never written to, so that it takes no memory
    tensors = [
        torch.empty(batch_size, count, length, shape.head_dim, dtype=like.dtype, device=like.device)
        for count, length in ((shape.q_heads, layout.q_len), *[(shape.kv_heads, layout.kv_len)] * 2)
    ]
    query, key, value = tensors
    if way.name == SPARSE:
        told = explain(query, key, value, layout, backend=way.backend)
        return told.useful_flops, told.executed_flops, told.backend
    told = explain(query, key, value, layout)
    if way.name in (MASK, EAGER):
        return told.useful_flops, float(per_pair * layout.q_len * layout.kv_len * heads), way.backend
    return told.useful_flops, told.useful_flops, told.backend if way.backend == "auto" else way.backend


def other_flops(model: BenchModel, batch_size: int, seq_len: int, *, forward_only: bool) -> float:
    """FLOPs of everything but attention's own products: 2 for each matrix number and token, 3 times with backward."""
    passes = 1 if forward_only else _MATRIX_PASSES
    return 2.0 * model.matrix_numbers * batch_size * seq_len * passes


def attention_bytes(model: BenchModel, batch_size: int, seq_len: int) -> int:
    """Query, key, value and output of the widest attention layer, in bytes."""
    size = next(model.module.parameters()).element_size()
    widest = max(2 * (shape.q_heads + shape.kv_heads) * shape.head_dim for shape in model.shapes)
    return size * widest * batch_size * seq_len


def eager_bytes(model: BenchModel, way: Way, batch_size: int) -> int:
    """What attention that keeps all scores would keep of them for the backward pass, in bytes, by arithmetic."""
    size = next(model.module.parameters()).element_size()
    pairs = sum(
        layout.q_len * layout.kv_len * shape.q_heads for shape, layout in zip(model.shapes, way.layouts, strict=True)
    )
    return _EAGER_MATRICES * size * pairs * batch_size


def gradient_bytes(model: BenchModel) -> int:
    """Gradients of all parameters, in bytes."""
    return sum(parameter.nbytes for parameter in model.module.parameters() if parameter.requires_grad)


def kept_bytes(compute: Callable[[Inputs], object], module: nn.Module, inputs: Inputs) -> int:
    """What autograd keeps of one call for its backward pass, and the gradient of the largest of it, in bytes.

    Parameters, buffers and the batch are left out. Storage that several operations keep counts once.
    """
    own = {
        tensor.untyped_storage().data_ptr() for tensor in (*module.parameters(), *module.buffers(), *inputs.values())
    }
    kept: dict[int, int] = {}
    alive: list[Any] = []

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            # a storage that is freed could give its address to another
            alive.append(storage)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        compute(inputs)
    return sum(kept.values()) + max(kept.values(), default=0)
