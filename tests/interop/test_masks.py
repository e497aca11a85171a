"""Boolean and additive masks, `nn.MultiheadAttention`'s and fairseq's, each against the function that reads them."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import openwork as ow
from openwork import interop
from openwork.errors import ArgumentError, LayoutError
from openwork.ops import sparse_attention

from .conftest import HEADS, LENGTH, NAMES, computed, inputs_for, layout, same


@pytest.mark.parametrize("name", [*NAMES, "empty rows"])
@pytest.mark.parametrize("kind", ["boolean", "additive"])
def test_torchs_sdpa_computes_the_layout_under_its_mask(kind: str, name: str) -> None:
    ours, inputs = layout(name), inputs_for(layout(name))
    mask = interop.to_boolean(ours) if kind == "boolean" else interop.to_additive(ours, empty_rows="keep")
    theirs = F.scaled_dot_product_attention(inputs.query, inputs.key, inputs.value, attn_mask=mask)
    torch.testing.assert_close(computed(ours), theirs)
    back = ow.BlockLayout.from_mask(mask) if kind == "boolean" else interop.from_additive(mask)
    assert same(back, ours)


@pytest.mark.parametrize("masked", [-torch.inf, -1e9, -1e4, float(torch.finfo(torch.float32).min)])
def test_every_librarys_minus_infinity_is_read(masked: float) -> None:
    ours = layout("strided")
    assert same(interop.from_additive(interop.to_additive(ours, masked=masked)), ours)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_dtype_is_read(dtype: torch.dtype) -> None:
    mask = interop.to_additive(layout("heads"), dtype=dtype)
    assert mask.dtype == dtype and same(interop.from_additive(mask), layout("heads"))
    half = np.where(interop.to_boolean(layout("heads")).numpy(), np.float16(0), np.float16(-np.inf))
    assert same(interop.from_additive(half), layout("heads"))


def test_multiplying_by_infinity_is_refused_where_it_breaks() -> None:
    mask = torch.ones(4, 4).tril()
    with pytest.raises(
        LayoutError, match=re.escape("bias holds NaN in 10 of 16 places. 0 * -inf is NaN, so `(1 - mask)")
    ):
        interop.from_additive((1 - mask) * -torch.inf)
    assert torch.equal(interop.to_additive(ow.BlockLayout.from_mask(mask.bool()))[0, 0].isneginf(), mask == 0)


@pytest.mark.parametrize("name", ["strided", "heads", "facts", "sequences", "mask"])
@pytest.mark.parametrize("additive", [False, True])
def test_multihead_attention_computes_the_layout_under_its_mask(additive: bool, name: str) -> None:
    torch.manual_seed(0)
    ours = layout(name)
    module = nn.MultiheadAttention(16, HEADS, batch_first=True)
    hidden = torch.randn(2, LENGTH, 16)
    mask = interop.to_multihead_attention(ours, num_heads=HEADS, batch=2)
    mask = torch.zeros(mask.shape).masked_fill(mask, -torch.inf) if additive else mask
    q, k, v = (
        x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in hidden.matmul(module.in_proj_weight.T).chunk(3, -1)
    )
    expected = module.out_proj(_attended(q, k, v, ours))
    torch.testing.assert_close(module(hidden, hidden, hidden, attn_mask=mask)[0], expected)
    assert same(interop.from_multihead_attention(mask, num_heads=HEADS), ours)


def _attended(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, ours: ow.BlockLayout) -> torch.Tensor:
    return sparse_attention(q, k, v, ours).output.transpose(1, 2).flatten(2)


def test_padding_of_multihead_attention_is_keys_that_nobody_sees() -> None:
    torch.manual_seed(0)
    module, hidden = nn.MultiheadAttention(16, HEADS, batch_first=True), torch.randn(2, LENGTH, 16)
    causal = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
    padding = torch.arange(LENGTH) >= torch.tensor([LENGTH, 100])[:, None]
    theirs = module(hidden, hidden, hidden, attn_mask=causal, key_padding_mask=padding)[0]
    q, k, v = (
        x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in hidden.matmul(module.in_proj_weight.T).chunk(3, -1)
    )
    for pad in (padding, torch.zeros(padding.shape).masked_fill(padding, -torch.inf)):
        ours = interop.from_multihead_attention(causal, pad, num_heads=HEADS)
        torch.testing.assert_close(module.out_proj(_attended(q, k, v, ours)), theirs)
    alone = interop.from_multihead_attention(key_padding_mask=padding, num_heads=HEADS)
    expected = module(hidden, hidden, hidden, key_padding_mask=padding)[0]
    torch.testing.assert_close(module.out_proj(_attended(q, k, v, alone)), expected)


def fairseq_attention(query, key, value, attn_mask=None, key_padding_mask=None) -> torch.Tensor:
    """What `fairseq.modules.MultiheadAttention.forward` (0.12.2) does between its projections."""
    batch, heads, q_len, head_dim = query.shape
    q, k, v = (x.flatten(0, 1) for x in (query * head_dim**-0.5, key, value))
    weights = torch.bmm(q, k.transpose(1, 2))
    if attn_mask is not None:
        weights = weights + attn_mask.unsqueeze(0)
    if key_padding_mask is not None:
        weights = weights.view(batch, heads, q_len, -1)
        weights = weights.masked_fill(key_padding_mask.unsqueeze(1).unsqueeze(2).to(torch.bool), float("-inf"))
        weights = weights.view(batch * heads, q_len, -1)
    return torch.bmm(torch.softmax(weights, dim=-1), v).view(batch, heads, q_len, -1)


def test_fairseqs_own_formula_computes_the_layout_under_its_mask() -> None:
    # its package does not import on Python 3.11 (mutable defaults of dataclasses), so its formula is written out
    for name in ("strided", "facts", "short"):
        ours, inputs = layout(name), inputs_for(layout(name))
        mask = interop.to_fairseq(ours)
        torch.testing.assert_close(computed(ours), fairseq_attention(inputs.query, inputs.key, inputs.value, mask))
        assert same(interop.from_fairseq(mask), ours)
        # where fairseq hands its masks on to torch, a boolean one means masked
        assert same(interop.from_fairseq(mask.isneginf()), ours) and same(
            interop.from_fairseq(mask.isneginf().byte()), ours
        )


def test_fairseqs_future_mask_and_padding_are_read() -> None:
    inputs = inputs_for(layout("strided"))
    future = torch.triu(torch.zeros(LENGTH, LENGTH).fill_(-torch.inf), 1)
    padding = (torch.arange(LENGTH) >= torch.tensor([LENGTH, 100])[:, None]).byte()
    expected = fairseq_attention(inputs.query, inputs.key, inputs.value, future, padding)
    torch.testing.assert_close(computed(interop.from_fairseq(future, padding)), expected)
    only = fairseq_attention(inputs.query, inputs.key, inputs.value, None, padding)
    torch.testing.assert_close(computed(interop.from_fairseq(key_padding_mask=padding.bool())), only)


def refused(function, *arguments, **options) -> str:
    with pytest.raises((LayoutError, ArgumentError)) as raised:
        function(*arguments, **options)
    return str(raised.value)


def test_rows_that_another_library_cannot_express_are_named() -> None:
    empty = layout("empty rows")
    assert refused(interop.to_additive, empty).startswith(
        "query 3 of sequence 0, head 0 sees no key: openwork gives it 0, a"
    )
    assert "nn.MultiheadAttention NaN" in refused(interop.to_multihead_attention, empty, num_heads=2)
    assert "empty_rows must be 'raise' or 'keep'; got 'mean'" in refused(interop.to_additive, empty, empty_rows="mean")


def test_what_does_not_fit_is_refused_in_words() -> None:
    many = layout("mask")
    assert "a whole mask of [2, 2, 150, 150] takes 90,000 bytes" in refused(interop.to_boolean, many, max_bytes=80_000)
    assert "layout must be a BlockLayout" in refused(interop.to_boolean, ow.Causal())
    assert "fairseq has one attn_mask for all, but the layout tells 2 sequences" in refused(interop.to_fairseq, many)
    message = refused(interop.to_multihead_attention, many, num_heads=3, batch=2)
    assert "the layout is for batch=2, q_heads=2; got batch=2, num_heads=3" in message
    mask = torch.zeros(3, 8, 8, dtype=torch.bool)
    assert "first size 3, which is batch * num_heads" in refused(interop.from_multihead_attention, mask, num_heads=2)
    assert "neither attn_mask nor key_padding_mask" in refused(interop.from_multihead_attention, num_heads=2)
    message = refused(interop.from_multihead_attention, mask[0], torch.zeros(2, 9, dtype=torch.bool), num_heads=2)
    assert "key_padding_mask must be [batch, kv_len]; got [2, 9] beside attn_mask [8, 8]" in message
    message = refused(interop.from_multihead_attention, mask, torch.zeros(2, 8, dtype=torch.bool), num_heads=1)
    assert "attn_mask is for batch=3, key_padding_mask for batch=2" in message
    assert "fairseq's attn_mask is [tgt_len, src_len]; got shape [3, 8, 8]" in refused(interop.from_fairseq, mask)
    assert "bias adds 0.5 at [0, 0]" in refused(interop.from_additive, torch.full((2, 2), 0.5))
