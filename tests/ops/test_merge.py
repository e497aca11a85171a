"""Merging results over disjoint keys is attention over their union."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from openwork.errors import ArgumentError
from openwork.ops import AttentionResult, merge, sparse_attention
from openwork.testing.inputs import awkward_masks, make_inputs, random_mask
from openwork.testing.tolerance import assert_no_worse_than


def split(mask, pieces, seed=0):
    owner = np.random.default_rng(seed).integers(pieces, size=mask.shape)
    return [mask & (owner == number) for number in range(pieces)]


@pytest.mark.parametrize("name", awkward_masks(1, 1))
@pytest.mark.parametrize("pieces", [2, 3])
def test_merged_pieces_are_the_whole(name, pieces):
    mask = awkward_masks(40, 50)[name]
    inputs = make_inputs(q_len=40, kv_len=50, q_heads=4, kv_heads=2)
    arguments = inputs.query, inputs.key, inputs.value
    exact = sparse_attention(*(x.double() for x in arguments), mask, backend="reference")
    reference = sparse_attention(*arguments, mask, backend="reference")
    merged = merge(*(sparse_attention(*arguments, piece) for piece in split(mask, pieces)))
    assert_no_worse_than(merged.output, reference.output, exact.output, name="output", magnitude=1.0)
    assert_no_worse_than(merged.lse, reference.lse, exact.lse, name="lse", magnitude=1.0)


def test_merging_has_exact_gradients_where_rows_are_empty():
    mask = random_mask(6, 8, density=0.2, seed=1)
    mask[2] = False
    inputs = make_inputs(q_len=6, kv_len=8, head_dim=3, dtype=torch.float64)
    leaves = tuple(x.requires_grad_() for x in (inputs.query, inputs.key, inputs.value))

    def merged(*arguments):
        result = merge(*(sparse_attention(*arguments, piece, backend="gather") for piece in split(mask, 2)))
        return result.output, torch.where(result.lse.isfinite(), result.lse, 0.0)

    assert torch.autograd.gradcheck(merged, leaves)


def test_low_precision_keeps_its_dtype():
    inputs = make_inputs(q_len=16, dtype=torch.bfloat16)
    pieces = split(np.tri(16, dtype=bool), 2)
    merged = merge(*(sparse_attention(inputs.query, inputs.key, inputs.value, piece) for piece in pieces))
    assert merged.output.dtype == torch.bfloat16
    assert merged.lse.dtype == torch.float32


def test_one_result_is_itself():
    result = AttentionResult(torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 2))
    assert merge(result) is result


def test_messages():
    result = AttentionResult(torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 2))
    with pytest.raises(ArgumentError, match=r"merge needs at least one result; got none."):
        merge()
    with pytest.raises(ArgumentError, match=r"merge takes results of sparse_attention; argument 1 is Tensor."):
        merge(result, result.output)
    other = AttentionResult(torch.zeros(1, 1, 3, 4), torch.zeros(1, 1, 3))
    with pytest.raises(ArgumentError, match=r"output 1 is \[1, 1, 3, 4\] torch.float32, output 0 is \[1, 1, 2, 4\]"):
        merge(result, other)
