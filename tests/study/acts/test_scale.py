"""Act 4: the same attention three ways, timed together, with memory beside theory."""

from __future__ import annotations

import json

import pytest
import torch

import openwork as ow
from openwork.measure import release_free_memory
from openwork.ops.backends.cpu_native import absence
from openwork.study.acts import scale as scale_module
from openwork.study.acts.scale import CONTENDERS, DENSE, MASK, SPARSE, Scale, eager_bytes, measure_scale

FASTEST = "cpu" if absence() is None else "gather"
PATTERN = ow.parse_pattern("Causal() & Window(before=31)")


@pytest.fixture(scope="module")
def measured() -> Scale:
    layouts = {n: ow.compile_layout(PATTERN, q_len=n, kv_len=n) for n in (192, 384)}
    return measure_scale(
        layouts, pattern=repr(PATTERN), source="nothing", compile_s={192: 0.1, 384: 0.2}, heads=2, head_dim=16, rounds=2
    )


def test_every_way_is_measured_at_every_length(measured: Scale) -> None:
    assert measured.lengths == (192, 384)
    assert {(row.name, row.length) for row in measured.rows} == {
        (n, length) for n in CONTENDERS for length in (192, 384)
    }
    for row in measured.rows:
        assert len(row.samples_s) in (1, 2) and min(row.samples_s) > 0
        assert row.backend == (FASTEST if row.name == SPARSE else "sdpa")
    assert measured.speedup(384) == measured.row(DENSE, 384).seconds / measured.row(SPARSE, 384).seconds
    assert measured.speedup(384, MASK) == measured.row(MASK, 384).seconds / measured.row(SPARSE, 384).seconds


def test_theory_counts_pairs_and_what_has_to_be_held(measured: Scale) -> None:
    pairs = sum(min(q, 31) + 1 for q in range(384))
    assert measured.row(SPARSE, 384).theory_speedup == pytest.approx(384 * 385 / 2 / pairs)
    assert measured.row(DENSE, 384).theory_speedup == measured.row(MASK, 384).theory_speedup == 1.0
    # output and three gradients of [2, 384, 16], and one number for each query and head, in float32
    assert measured.row(DENSE, 384).theory_bytes == 4 * (4 * 2 * 384 * 16 + 2 * 384)
    assert measured.row(SPARSE, 384).theory_bytes > measured.row(DENSE, 384).theory_bytes


def test_the_three_ways_compute_what_they_say() -> None:
    layout = ow.compile_layout(PATTERN, q_len=100, kv_len=100)
    query, key, value = torch.randn(3, 1, 2, 100, 16).unbind()
    ways = scale_module._ways(layout, "cpu")
    torch.testing.assert_close(ways[MASK](query, key, value), ways[SPARSE](query, key, value))
    scores = (query @ key.mT / 4).masked_fill(~torch.ones(100, 100, dtype=torch.bool).tril(), float("-inf"))
    torch.testing.assert_close(ways[DENSE](query, key, value), scores.softmax(-1) @ value)


def test_rounds_end_with_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    layouts = {64: ow.compile_layout(PATTERN, q_len=64, kv_len=64)}
    told = []
    result = measure_scale(
        layouts, pattern="", source="", compile_s={64: 0.0}, heads=1, head_dim=8, rounds=5, seconds=0.0,
        progress=lambda done, total, what: told.append((done, total)),
    )  # fmt: skip
    assert {len(row.samples_s) for row in result.rows} == {1}
    assert told[-1] == (15, 15)


def test_eager_attention_is_arithmetic() -> None:
    assert eager_bytes(100, heads=3) == 100 * 100 * (4 * 3 * 4 + 1)


def test_the_result_survives_json(measured: Scale) -> None:
    assert Scale.from_dict(json.loads(json.dumps(measured.to_dict()))) == measured


def test_memory_that_was_freed_does_not_hide_what_the_next_pass_needs() -> None:
    if not release_free_memory():
        pytest.skip("only glibc gives freed memory back when it is asked")
    blocks = [bytearray(100_000) for _ in range(640)]
    del blocks
    release_free_memory()
    from openwork.measure import PeakMemory

    with PeakMemory() as memory:
        more = [bytearray(100_000) for _ in range(640)]
    assert len(more) == 640
    assert memory.peak_bytes is not None
    assert memory.peak_bytes - memory.start_bytes > 48_000_000
