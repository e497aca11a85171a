"""`explain` says what runs, why the others do not, and the cost."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import openwork as ow
from openwork.errors import BackendError
from openwork.layout.data import BlockLayout
from openwork.ops import explain, sparse_attention
from openwork.ops.backends.cpu_native import absence
from openwork.ops.explain import looks_back_only
from openwork.testing.inputs import awkward_masks, make_inputs
from openwork.testing.layouts import shuffled_layout

FASTEST = "cpu" if absence() is None else "gather"


def explained(mask, **options):
    inputs = make_inputs(batch=2, q_heads=4, kv_heads=2, q_len=mask.shape[-2], kv_len=mask.shape[-1], v_head_dim=4)
    return explain(inputs.query, inputs.key, inputs.value, BlockLayout.from_mask(mask, block_size=(16, 16)), **options)


def test_it_names_the_backend_and_the_reasons_of_the_others():
    told = explained(awkward_masks(32, 32)["window"], softcap=2.0)
    assert told.backend == FASTEST
    assert told.reasons["sdpa"] == [
        "needs v_head_dim equal to head_dim, got 4 and 8",
        "has no softcap",
        "the layout is neither dense nor causal from query 0 and key 0",
    ]
    assert told.reasons["reference"] == [f"slower than {FASTEST}, which comes first"]
    assert explained(awkward_masks(32, 32)["window"], backend="reference").reasons["gather"] == ["reference was named"]


def test_it_raises_what_the_call_would():
    with pytest.raises(BackendError, match="backend 'sdpa' cannot run"):
        explained(awkward_masks(32, 32)["window"], backend="sdpa")


def test_the_counts_are_those_of_the_mask():
    mask = awkward_masks(40, 40)["window"]
    told = explained(mask)
    blocks = np.pad(mask, (0, 8)).reshape(3, 16, 3, 16).any(axis=(1, 3)).sum() * 256
    heads, per_pair = 8, 2 * (8 + 4)
    assert told.useful_flops == mask.sum() * heads * per_pair
    assert told.executed_flops == blocks * heads * per_pair
    assert told.dense_flops == 40 * 41 // 2 * heads * per_pair
    assert told.ideal == pytest.approx(820 / mask.sum())
    assert told.density == pytest.approx(mask.mean())
    assert [part.served for part in told.parts] == [8]
    assert told.tensor_bytes == 4 * 2 * (4 * 40 * 8 + 2 * 40 * 8 + 2 * 40 * 4 + 4 * 40 * 4 + 4 * 40)


def test_the_reference_executes_every_pair():
    told = explained(awkward_masks(40, 40)["window"], backend="reference")
    assert told.executed_flops == 40 * 40 * 8 * 2 * 12


def test_the_dense_call_is_causal_only_where_nothing_looks_ahead():
    assert explained(awkward_masks(40, 40)["rows"]).dense_flops == 40 * 40 * 8 * 24
    assert explained(awkward_masks(10, 40)["causal"]).dense_flops == sum(range(31, 41)) * 8 * 24


def test_padding_is_no_part_of_the_dense_call():
    positions = np.stack([np.arange(40) - 10, np.arange(40)])
    positions[positions < 0] = -1
    pattern = ow.Causal() & ow.PerHead(ow.Window(before=4), ow.Window(before=9), ow.Dense(), ow.Same("document"))
    notes = ow.Annotations(length=40, labels={"document": np.arange(40) // 20})
    layout = ow.compile_layout(pattern, q_len=40, kv_len=40, kv_positions=positions, annotations=notes, block_size=8)
    inputs = make_inputs(batch=2, q_heads=4, kv_heads=2, q_len=40)
    told = explain(inputs.query, inputs.key, inputs.value, layout)
    assert looks_back_only(layout)
    assert told.dense_flops == 4 * (sum(range(1, 31)) + sum(range(1, 41))) * 2 * (8 + 8)
    assert told.useful_flops == layout.to_dense().sum() * 2 * (8 + 8)
    ahead = ow.compile_layout(ow.Window(before=0, after=1), q_len=40, kv_len=40, kv_positions=positions, block_size=8)
    assert not looks_back_only(ahead)
    assert explain(inputs.query, inputs.key, inputs.value, ahead).dense_flops == 4 * (30**2 + 40**2) * 2 * (8 + 8)


def test_float64_has_an_lse_of_float64():
    inputs = make_inputs(q_len=10, dtype=torch.float64)
    told = explain(inputs.query, inputs.key, inputs.value, torch.ones(10, 10, dtype=torch.bool))
    result = sparse_attention(inputs.query, inputs.key, inputs.value, torch.ones(10, 10, dtype=torch.bool))
    assert told.tensor_bytes == sum(x.nbytes for x in (inputs.query, inputs.key, inputs.value, *result))


@pytest.mark.parametrize("name", awkward_masks(1, 1))
@pytest.mark.parametrize(("q_len", "kv_len"), [(40, 40), (20, 50), (50, 20)])
def test_looking_back_is_decided_from_the_pairs(name, q_len, kv_len):
    mask = awkward_masks(q_len, kv_len)[name]
    ahead = np.arange(kv_len)[None, :] > np.arange(q_len)[:, None] + kv_len - q_len
    for layout in (BlockLayout.from_mask(mask, block_size=(8, 8)), shuffled_layout(mask, seed=1)):
        assert looks_back_only(layout) == (not (mask & ahead).any())


def test_it_prints_itself():
    layout = ow.compile_layout(ow.Causal() & ow.Window(before=15), q_len=256, kv_len=256)
    x = torch.zeros(1, 8, 256, 64)
    text = str(explain(x, x, x, layout))
    assert text.startswith(f"backend: {FASTEST}\n  not sdpa: the layout is neither dense nor causal")
    assert "ideal speed-up 8.27x" in text
    assert "part: natural order: 31808 allowed pairs in 229376 executed, for 8 heads" in text


def test_explaining_draws_no_seed():
    inputs = make_inputs(q_len=8)
    mask = torch.ones(8, 8, dtype=torch.bool)
    before = torch.get_rng_state()
    assert explain(inputs.query, inputs.key, inputs.value, mask, dropout_p=0.5).backend == FASTEST
    assert torch.equal(torch.get_rng_state(), before)
    sparse_attention(inputs.query, inputs.key, inputs.value, mask, dropout_p=0.5)
    assert not torch.equal(torch.get_rng_state(), before)


NATIVE = pytest.mark.skipif(absence() is not None, reason="no native kernels")


def dense_call(pattern, *, length, heads, dtype=torch.float32, kv_len=None, **options):
    query = torch.empty(1, heads, length, 16, dtype=dtype)
    key = torch.empty(1, heads, kv_len or length, 16, dtype=dtype)
    return explain(query, key, key, ow.compile_layout(pattern, q_len=length, kv_len=kv_len or length), **options)


@NATIVE
@pytest.mark.parametrize(
    ("pattern", "length", "heads", "dtype", "expected"),
    [
        (ow.Causal(), 512, 1, torch.float32, "cpu"),
        (ow.Causal(), 511, 1, torch.float32, "sdpa"),
        (ow.Causal(), 64, 4, torch.float32, "cpu"),
        (ow.Causal(), 63, 4, torch.float32, "sdpa"),
        (ow.Causal(), 64, 3, torch.float32, "sdpa"),
        (ow.Dense(), 1024, 8, torch.float32, "cpu"),
        (ow.Dense(), 1024, 7, torch.float32, "sdpa"),
        (ow.Dense(), 1023, 8, torch.float32, "sdpa"),
        (ow.Causal(), 64, 4, torch.float16, "cpu"),
        (ow.Dense(), 1024, 4, torch.float16, "sdpa"),
        (ow.Causal(), 1024, 4, torch.bfloat16, "sdpa"),
        (ow.Causal(), 1024, 4, torch.float64, "sdpa"),
    ],
)
def test_auto_takes_cpu_for_dense_layouts_where_it_was_measured_no_slower(pattern, length, heads, dtype, expected):
    assert dense_call(pattern, length=length, heads=heads, dtype=dtype).backend == expected


@NATIVE
def test_few_queries_over_many_keys_stay_with_torch():
    assert dense_call(ow.Dense(), length=1, kv_len=4096, heads=8).backend == "sdpa"


@NATIVE
def test_it_says_why_auto_passed_over_a_backend():
    taken = dense_call(ow.Causal(), length=512, heads=2)
    assert taken.reasons["sdpa"] == ["measured no faster than cpu (causal, float32, 512 tokens, 2 heads)"]
    assert taken.reasons["gather"] == ["slower than cpu, which comes first"]
    short = dense_call(ow.Causal(), length=32, heads=2)
    assert short.reasons["cpu"] == [
        "not measured to be as fast as sdpa (causal, float32, 32 tokens, 2 heads; it was from 64 tokens with 4 heads, "
        "512 tokens with 1 heads on)"
    ]
    half = dense_call(ow.Causal(), length=512, heads=2, dtype=torch.bfloat16)
    assert half.reasons["cpu"] == ["not measured to be as fast as sdpa for causal layouts in bfloat16"]
    assert dense_call(ow.Causal(), length=512, heads=2, backend="sdpa").reasons["cpu"] == ["sdpa was named"]


@NATIVE
def test_auto_stays_with_torch_on_machines_where_nothing_was_measured(monkeypatch):
    monkeypatch.setattr("openwork.ops.preference.chosen_isa", lambda: "neon")
    assert dense_call(ow.Causal(), length=512, heads=2).reasons["cpu"] == ["not measured beside sdpa with neon"]


def test_auto_is_torch_for_dense_layouts_without_native_kernels(monkeypatch):
    monkeypatch.setattr("openwork.ops.backends.cpu.absence", lambda: "not built")
    told = dense_call(ow.Causal(), length=1024, heads=8)
    assert told.backend == "sdpa"
    assert told.reasons["cpu"] == ["not built"]


@NATIVE
def test_the_call_runs_what_is_explained(caplog):
    x = torch.randn(1, 4, 64, 16)
    with caplog.at_level("DEBUG", logger="openwork.ops"):
        sparse_attention(x, x, x, ow.compile_layout(ow.Causal(), q_len=64, kv_len=64))
        sparse_attention(x, x, x, ow.compile_layout(ow.Dense(), q_len=64, kv_len=64))
    assert ["chose cpu" in caplog.messages[0], "chose sdpa" in caplog.messages[1]] == [True, True]
    assert "sdpa: measured no faster than cpu" in caplog.messages[0]
