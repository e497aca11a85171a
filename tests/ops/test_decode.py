"""Decoding reads the listed keys and no others, and means what the operation means."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import openwork as ow
from openwork.errors import ArgumentError
from openwork.layout.data import BlockLayout
from openwork.ops import decode_attention, sparse_attention
from openwork.testing.inputs import make_inputs, random_mask
from openwork.testing.tolerance import assert_no_worse_than

BATCH, Q_HEADS, KV_HEADS, KV_LEN = 3, 4, 2, 50


def masks(kind):
    """bool [batch, q_heads, kv_len]; one query sees nothing."""
    mask = random_mask(BATCH, Q_HEADS, KV_LEN, density=0.3, seed=2)
    mask[1, :, 20:] = False
    mask[0, 2, 40:] = False
    if kind == "shared-heads":
        mask[:] = mask[:, :1]
    if kind == "grouped-heads":
        mask[:, 1], mask[:, 3] = mask[:, 0], mask[:, 2]
    if kind == "shared-all":
        mask[:] = mask[:1, :1]
    mask[2, 3] = False if kind == "per-head" else mask[2, 3]
    return mask


def visible_of(mask, kind):
    heads = 1 if kind in ("shared-heads", "shared-all") else Q_HEADS
    sequences = 1 if kind == "shared-all" else BATCH
    return [[np.flatnonzero(mask[b, h]) for h in range(heads)] for b in range(sequences)]


def inputs_for(dtype=torch.float32):
    return make_inputs(
        batch=BATCH, q_heads=Q_HEADS, kv_heads=KV_HEADS, q_len=1, kv_len=KV_LEN, v_head_dim=5, dtype=dtype
    )


@pytest.mark.parametrize("kind", ["per-head", "grouped-heads", "shared-heads", "shared-all"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("options", [{}, {"scale": 0.4, "softcap": 2.0}, {"sink": True}, {"alibi": True}], ids=str)
def test_decoding_is_the_operation_with_one_query(kind, dtype, options):
    options = dict(options)
    if options.pop("sink", False):
        options["sink_logits"] = torch.tensor([0.5, -1.0, 2.0, 0.0])
    if options.pop("alibi", False):
        options["alibi_slopes"] = torch.tensor([0.5, 0.25, 0.125, 0.0625])
    mask = masks(kind)
    inputs = inputs_for(dtype)
    found = decode_attention(inputs.query, inputs.key, inputs.value, visible_of(mask, kind), **options)
    layout = BlockLayout.from_mask(mask[:, :, None, :])
    low = sparse_attention(inputs.query, inputs.key, inputs.value, layout, backend="reference", **options)
    wide = (x.double() for x in (inputs.query, inputs.key, inputs.value))
    exact = sparse_attention(*wide, layout, backend="reference", **options)
    ulps = 100 if dtype == torch.float64 else 2
    for name in ("output", "lse"):
        one, other, true = (getattr(result, name) for result in (found, low, exact))
        assert_no_worse_than(one, other, true, name=name, magnitude=1.0, ulps=ulps)


def test_a_list_may_lie_in_memory_as_it_likes_and_be_in_any_order():
    inputs = make_inputs(batch=1, q_heads=2, kv_heads=1, q_len=1, kv_len=400, head_dim=64)
    keys = np.arange(3, 400, 3)
    every_third = np.arange(400)[3::3]
    assert not every_third.flags.c_contiguous
    forms = [every_third, keys[::-1], keys.astype(np.int32), keys.astype(np.uint16),
             torch.from_numpy(keys), np.random.default_rng(0).permutation(keys), keys.tolist()]  # fmt: skip
    expected = decode_attention(inputs.query, inputs.key, inputs.value, [[keys]])
    for form in forms:
        found = decode_attention(inputs.query, inputs.key, inputs.value, [[form]])
        torch.testing.assert_close(found.output, expected.output)
        torch.testing.assert_close(found.lse, expected.lse)


def test_unlisted_keys_may_hold_anything():
    mask = masks("per-head")
    inputs = inputs_for()
    visible = visible_of(mask, "per-head")
    clean = decode_attention(inputs.query, inputs.key, inputs.value, visible)
    seen = torch.from_numpy(mask.reshape(BATCH, KV_HEADS, -1, KV_LEN).any(axis=2))[..., None]
    key, value = (torch.where(seen, x, torch.nan) for x in (inputs.key, inputs.value))
    found = decode_attention(inputs.query, key, value, visible)
    assert torch.equal(found.output, clean.output)
    assert torch.equal(found.lse, clean.lse)


def test_a_query_without_keys_gives_zero_and_no_gradient():
    inputs = inputs_for()
    query, key = inputs.query.requires_grad_(), inputs.key.requires_grad_()
    result = decode_attention(query, key, inputs.value, visible_of(masks("per-head"), "per-head"))
    assert (result.output[2, 3] == 0).all()
    assert result.lse[2, 3].item() == -torch.inf
    (result.output.sum() + result.lse[result.lse.isfinite()].sum()).backward()
    assert (query.grad[2, 3] == 0).all()
    assert key.grad.isfinite().all()


def test_no_keys_at_all():
    inputs = inputs_for()
    result = decode_attention(inputs.query, inputs.key, inputs.value, [[[]]])
    assert (result.output == 0).all() and (result.lse == -torch.inf).all()


def test_decoding_token_by_token_equals_the_whole_sequence():
    pattern = ow.Causal() & (ow.Window(before=5) | ow.First(keys=2))
    inputs = make_inputs(q_len=24, q_heads=4, kv_heads=2)
    layout = ow.compile_layout(pattern, q_len=24, kv_len=24)
    whole = sparse_attention(inputs.query, inputs.key, inputs.value, layout, backend="reference")
    decoder = ow.decoder(pattern)
    for token in range(24):
        decoder.append()
        step = decode_attention(inputs.query[:, :, token : token + 1], inputs.key, inputs.value, decoder.visible())
        torch.testing.assert_close(step.output[:, :, 0], whole.output[:, :, token])
        torch.testing.assert_close(step.lse[:, :, 0], whole.lse[:, :, token])


def test_positions_of_sequences_of_different_lengths():
    inputs = inputs_for()
    lengths = [50, 30, 41]
    slopes = torch.tensor([0.5, 0.25, 0.125, 0.0625])
    visible = [[np.arange(length)] for length in lengths]
    q_positions = torch.tensor(lengths) - 1
    found = decode_attention(
        inputs.query, inputs.key, inputs.value, visible, alibi_slopes=slopes, q_positions=q_positions,
        kv_positions=torch.arange(KV_LEN).expand(BATCH, -1),
    )  # fmt: skip
    for b, length in enumerate(lengths):
        alone = sparse_attention(
            inputs.query[b : b + 1], inputs.key[b : b + 1, :, :length], inputs.value[b : b + 1, :, :length],
            torch.ones(1, length, dtype=torch.bool), alibi_slopes=slopes, backend="reference",
        )  # fmt: skip
        torch.testing.assert_close(found.output[b], alone.output[0])


MESSAGES = [
    ({"visible": [[[0]], [[0]]]}, r"visible must be a list of 3 sequences, or of 1 for all; got 2 sequences."),
    ({"visible": torch.zeros(3)}, "visible must be a list of 3 sequences, or of 1 for all; got Tensor."),
    ({"visible": [[[0], [1]]]}, r"visible\[0\] must be a list of q_heads=4 arrays, or of 1 for all; got 2."),
    ({"visible": [[[0, 50]]]}, r"visible\[0\]\[0\] names key 50; the keys are 0 to 49."),
    ({"visible": [[[-1]]]}, r"visible\[0\]\[0\] names key -1; the keys are 0 to 49."),
    ({"visible": [[[3, 3]]]}, r"visible\[0\]\[0\] names a key twice; it would count twice."),
    ({"visible": [[[0.5]]]}, r"visible\[0\]\[0\] must be a list of key indices; got float64 of shape \[1\]."),
    ({"q_positions": torch.zeros(3)}, r"q_positions must be an integer tensor \[3\]; got torch.float32 \[3\]."),
    ({"kv_positions": [1]}, r"kv_positions must be an integer tensor \[3, 50\]; got list."),
    ({"query": torch.zeros(3, 4, 2, 8)}, "decode_attention takes one query for each sequence; query has q_len=2."),
]


@pytest.mark.parametrize(("given", "message"), MESSAGES, ids=lambda value: value if isinstance(value, str) else "")
def test_messages(given, message):
    inputs = inputs_for()
    arguments = {"query": inputs.query, "key": inputs.key, "value": inputs.value, "visible": [[[0]]], **given}
    with pytest.raises(ArgumentError, match=message):
        decode_attention(**arguments)


def test_integers_are_refused():
    zeros = torch.zeros(1, 1, 1, 4, dtype=torch.int32)
    with pytest.raises(ArgumentError, match=r"decode_attention needs a floating-point dtype; got torch.int32."):
        decode_attention(zeros, zeros, zeros, [[[0]]])
