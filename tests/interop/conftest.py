"""Layouts that say all that a layout can: parts with orders of their own, heads, sequences, padding, facts."""

from __future__ import annotations

import numpy as np
import torch

import openwork as ow
from openwork.ops import sparse_attention
from openwork.testing import AttentionInputs, make_inputs, random_mask

LENGTH, HEADS = 150, 2


def layout(name: str) -> ow.BlockLayout:
    """One of `NAMES`; every query sees a key, unless the name says otherwise."""
    local, square = ow.Causal() & ow.Window(before=20), {"q_len": LENGTH, "kv_len": LENGTH}
    if name == "strided":
        return ow.compile_layout(ow.Causal() & (ow.Strided(16) | ow.Window(before=3)), **square, block_size=(16, 32))
    if name == "heads":
        return ow.compile_layout(ow.PerHead(local, ow.Window(before=9, after=30)), **square)
    if name == "facts":
        flags = {"heading": np.arange(LENGTH) % 37 == 0}
        pattern = ow.Causal() & (ow.Window(before=20) | ow.Keys("heading"))
        return ow.compile_layout(pattern, **square, annotations=ow.Annotations(LENGTH, flags=flags))
    if name == "sequences":
        documents = [ow.Annotations(LENGTH, labels={"document": np.arange(LENGTH) // size}) for size in (40, 64)]
        return ow.compile_layout(ow.Causal() & ow.Same("document"), **square, annotations=documents)
    if name == "short":
        return ow.compile_layout(local, q_len=40, kv_len=LENGTH)
    if name == "mask":
        return ow.BlockLayout.from_mask(random_mask(2, HEADS, LENGTH, LENGTH, density=0.2) | np.eye(LENGTH, dtype=bool))
    assert name == "empty rows"
    mask = random_mask(LENGTH, LENGTH, density=0.2)
    mask[[3, 70]] = False
    return ow.BlockLayout.from_mask(mask)


NAMES = ["strided", "heads", "facts", "sequences", "short", "mask"]


def inputs_for(layout: ow.BlockLayout) -> AttentionInputs:
    return make_inputs(batch=2, q_heads=HEADS, q_len=layout.q_len, kv_len=layout.kv_len)


def computed(layout: ow.BlockLayout) -> torch.Tensor:
    inputs = inputs_for(layout)
    return sparse_attention(inputs.query, inputs.key, inputs.value, layout).output


def same(ours: ow.BlockLayout, theirs: ow.BlockLayout) -> bool:
    """Whether both allow the same pairs, sequences and heads spread out."""
    shapes = np.broadcast_shapes(ours.index.shape, theirs.index.shape)
    a, b = (np.broadcast_to(x.to_dense(), (*shapes, x.q_len, x.kv_len)) for x in (ours, theirs))
    return a.shape == b.shape and bool((a == b).all())
