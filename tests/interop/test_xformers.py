"""Attention biases of xformers through `materialize`; against xformers itself where it is installed."""

from __future__ import annotations

import importlib
import re
import warnings

import pytest
import torch

import openwork as ow
from openwork import interop
from openwork.errors import ArgumentError, LayoutError

from .conftest import LENGTH, computed, inputs_for, layout, same


def biases():
    try:
        with warnings.catch_warnings():
            # it says that its kernels are for another torch; its biases need none
            warnings.simplefilter("ignore")
            return importlib.import_module("xformers.ops.fmha.attn_bias")
    except ImportError:
        pytest.skip("xformers is not installed: it asks for one exact torch, so no extra can name it")


class Materialized:
    """The protocol that xformers' biases share."""

    def __init__(self, layout: ow.BlockLayout, scale: float = 1.0) -> None:
        self.layout, self.scale = layout, scale

    def materialize(self, shape, dtype=torch.float32, device="cpu") -> torch.Tensor:
        mask = interop.to_additive(self.layout, dtype=dtype)
        return (mask if len(shape) == 4 else mask[0, 0]).to(device) + 1.0 - self.scale


@pytest.mark.parametrize("name", ["strided", "heads", "mask", "short"])
def test_what_a_bias_materializes_is_the_layout(name: str) -> None:
    ours = layout(name)
    sizes = {"q_len": ours.q_len, "kv_len": ours.kv_len, "batch": ours.batch, "heads": ours.heads}
    read = interop.from_xformers(Materialized(ours), **sizes)
    assert same(read, ours)
    inputs = inputs_for(ours)
    mask = interop.to_additive(ours)
    theirs = torch.softmax(inputs.query @ inputs.key.mT * 8**-0.5 + mask, dim=-1) @ inputs.value
    torch.testing.assert_close(computed(read), theirs)


def test_xformers_own_biases_mean_what_our_patterns_mean() -> None:
    xformers, square = biases(), {"q_len": LENGTH, "kv_len": LENGTH}
    lower = interop.from_xformers(xformers.LowerTriangularMask(), **square)
    assert same(lower, ow.compile_layout(ow.Causal(), **square))
    # a window of 9 keys with its own: the causal one counts the query itself, the other does not
    local = xformers.LowerTriangularFromBottomRightLocalAttentionMask(9)
    assert same(
        interop.from_xformers(local, q_len=40, kv_len=LENGTH),
        ow.compile_layout(ow.Causal() & ow.Window(before=8), q_len=40, kv_len=LENGTH),
    )
    both = xformers.LocalAttentionFromBottomRightMask(window_left=9, window_right=4)
    assert same(interop.from_xformers(both, **square), ow.compile_layout(ow.Window(before=9, after=4), **square))
    lengths = [40, 40, 40, 30]
    packed = interop.from_xformers(xformers.BlockDiagonalCausalMask.from_seqlens(lengths), **square)
    documents = ow.Annotations(LENGTH, labels={"document": [i // 40 for i in range(LENGTH)]})
    expected = ow.compile_layout(ow.Causal() & ow.Same("document"), **square, annotations=documents)
    assert same(packed, expected)


def test_xformers_alibi_is_refused() -> None:
    with_bias = biases().LowerTriangularMaskWithTensorBias(torch.full((1, 1, 8, 8), 0.5))
    with pytest.raises(LayoutError, match=re.escape("bias adds 0.5 at")):
        interop.from_xformers(with_bias, q_len=8, kv_len=8)


def test_what_is_no_mask_is_refused_in_words() -> None:
    with pytest.raises(
        ArgumentError, match=re.escape("has materialize(shape, dtype=, device=); got NoneType. None is Dense()")
    ):
        interop.from_xformers(None, q_len=8, kv_len=8)
    with pytest.raises(LayoutError, match=r"bias adds 0\.5"):
        interop.from_xformers(Materialized(layout("strided"), scale=0.5), q_len=LENGTH, kv_len=LENGTH)
    tensor = interop.to_additive(layout("strided"))
    assert same(interop.from_xformers(tensor, q_len=LENGTH, kv_len=LENGTH), layout("strided"))
