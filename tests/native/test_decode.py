"""Native decoding: long lists in chunks, many heads on one key head, every instruction set, any number of threads."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from openwork.ops import decode_attention
from openwork.ops.backends import cpu_decode
from openwork.ops.backends.cpu_native import VARIABLE
from openwork.testing.tolerance import assert_no_worse_than

pytestmark = pytest.mark.native


def case(*, batch=2, q_heads=4, kv_heads=2, kv_len=3000, head_dims=(24, 7), dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    head_dim, v_head_dim = head_dims
    shapes = (batch, q_heads, 1, head_dim), (batch, kv_heads, kv_len, head_dim), (batch, kv_heads, kv_len, v_head_dim)
    query, key, value = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    random = np.random.default_rng(4)
    # of very different lengths: more than two chunks, a few keys, exactly a chunk, none
    lengths = [2500, 3, 1024, 0, 65, 64, 1, 2049]
    visible = [
        [random.permutation(kv_len)[: lengths[(b * q_heads + h) % len(lengths)]] for h in range(q_heads)]
        for b in range(batch)
    ]
    return query, key, value, visible


def in_torch(tensors, visible, dtype, **options):
    """What decoding gives without native code, which computes no gradients."""
    query, key, value = (x.to(dtype) for x in tensors)
    result = decode_attention(query.requires_grad_(), key, value, visible, **options)
    return result.output.detach(), result.lse.detach()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("softcap", [None, 3.0])
# rows that are widened first, and rows that are read where they lie
@pytest.mark.parametrize("head_dims", [(24, 7), (64, 64), (16, 96)], ids=str)
def test_every_instruction_set_decodes_lists_of_any_length(isa, dtype, softcap, head_dims, monkeypatch):
    monkeypatch.setenv(VARIABLE, isa)
    *tensors, visible = case(dtype=dtype, head_dims=head_dims)
    found = decode_attention(*tensors, visible, softcap=softcap)
    assert found.output.dtype == dtype
    low, exact = (in_torch(tensors, visible, wide, softcap=softcap) for wide in (dtype, torch.float64))
    for name, one, other, true in zip(("output", "lse"), found, low, exact, strict=True):
        assert_no_worse_than(one, other, true, name=name, magnitude=1.0, ulps=4)


@pytest.mark.parametrize("heads", [7, 64, 65, 130])
def test_more_heads_on_one_key_head_than_a_block_has_rows(heads):
    *tensors, _ = case(batch=1, q_heads=heads, kv_heads=1, kv_len=100, head_dims=(64, 32))
    visible = [[np.arange(20, 95)]]
    found = decode_attention(*tensors, visible)
    low, exact = (in_torch(tensors, visible, wide) for wide in (torch.float32, torch.float64))
    for name, one, other, true in zip(("output", "lse"), found, low, exact, strict=True):
        assert_no_worse_than(one, other, true, name=name, magnitude=1.0, ulps=4)


def test_the_bits_are_the_same_for_any_number_of_threads():
    *tensors, visible = case()
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append(decode_attention(*tensors, visible))
    for result in results[1:]:
        assert torch.equal(result.output, results[0].output)
        assert torch.equal(result.lse, results[0].lse)


def test_native_code_decodes_where_no_gradient_is_asked_for(monkeypatch):
    taken = []
    monkeypatch.setattr(
        "openwork.ops.decode.native_decode", lambda *a, **k: taken.append(1) or cpu_decode.decode(*a, **k)
    )
    *tensors, visible = case(kv_len=3000)
    decode_attention(*tensors, visible)
    assert taken == [1]
    tensors[1].requires_grad_()
    decode_attention(*tensors, visible)
    assert taken == [1]
    with torch.no_grad():
        decode_attention(*tensors, visible)
    assert taken == [1, 1]


def test_rows_of_any_stride_are_read():
    query, key, value, visible = case()
    spread = torch.empty(2, 3000, 2, 48)[..., ::2].transpose(1, 2).copy_(key)
    wide = torch.empty(2, 3000, 2, 7).transpose(1, 2).copy_(value)
    plain, strided = decode_attention(query, key, value, visible), decode_attention(query, spread, wide, visible)
    assert not spread.is_contiguous()
    assert torch.equal(plain.output, strided.output)
