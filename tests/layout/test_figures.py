"""What parts save, and what a million tokens cost: figures that hold on any machine are asserted here."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import openwork as ow
from openwork.errors import LayoutError
from openwork.layout.from_mask import layout_from_mask

LENGTH = 8192
WINDOW = ow.Window(before=255)


def notes(length: int, flagged: int) -> ow.Annotations:
    rng = np.random.default_rng(0)
    flags = np.zeros(length, dtype=bool)
    flags[rng.choice(length, flagged, replace=False)] = True
    return ow.Annotations(length=length, flags={"heading": flags}, labels={"topic": rng.integers(0, 64, length)})


CASES = {
    "strided": (ow.Causal() & (ow.Window(before=127) | ow.Strided(128)), 1.7, 13.5),
    "fixed": (ow.Causal() & (ow.Chunk(128) | ow.Summary(128, 8)), 1.3, 6.7),
    "scattered keys": (ow.Causal() & (WINDOW | ow.Keys("heading")), 1.5, 7.4),
    "dilated": (ow.Causal() & ow.Dilated(before=2047, step=4), 1.2, 4.1),
    "labels": (ow.Causal() & ow.Same("topic"), 2.6, 63.6),
    "natten": (ow.Grid((64, 128), (13, 13)), 3.1, 9.8),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_parts_bring_executed_pairs_near_the_useful_ones(name):
    pattern, most, plain = CASES[name]
    annotations = notes(LENGTH, LENGTH // 100)
    layout = ow.compile_layout(pattern, q_len=LENGTH, kv_len=LENGTH, annotations=annotations)
    dense = ow.bind(pattern, q_len=LENGTH, kv_len=LENGTH, annotations=annotations).to_dense()
    assert layout.allowed_pairs == dense.sum()
    np.testing.assert_array_equal(layout.to_dense(), dense)
    assert layout.executed_over_useful <= most
    blocks = layout_from_mask(dense[0, 0], (64, 64))
    assert blocks.executed_over_useful == pytest.approx(plain, rel=0.03)


def test_a_million_tokens_take_little_memory():
    length = 1 << 20
    annotations = notes(length, 2000)
    pattern = ow.Causal() & (WINDOW | ow.Keys("heading") | ow.First(keys=4))
    tracemalloc.start()
    layout = ow.compile_layout(pattern, q_len=length, kv_len=length, annotations=annotations)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200e6
    assert layout.nbytes < 20e6
    assert layout.executed_over_useful < 1.2
    window_pairs = length * 256 - 255 * 256 // 2
    assert layout.allowed_pairs > window_pairs


def test_dense_causal_is_small_at_a_million_tokens():
    layout = ow.compile_layout(ow.Causal(), q_len=1 << 20, kv_len=1 << 20)
    assert layout.nbytes < 10e6
    assert layout.allowed_pairs == (1 << 20) * ((1 << 20) + 1) // 2


def test_partial_blocks_share_their_masks():
    layout = ow.compile_layout(ow.Causal() & ow.Window(before=200), q_len=LENGTH, kv_len=LENGTH)
    assert len(layout.planes[0].parts[0].masks) == 3


def test_past_max_bytes_the_pattern_and_the_way_out_are_named():
    scattered = ow.Causal() & ow.PowersOfTwo()
    with pytest.raises(LayoutError, match=r"PowersOfTwo\(\) needs more than max_bytes=1,000\..* raise max_bytes"):
        ow.compile_layout(scattered, q_len=4096, kv_len=4096, max_bytes=1000)
