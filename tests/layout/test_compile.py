"""The compiler against the dense enumeration, over generated patterns, lengths, positions, facts, heads and batches."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import openwork as ow
from openwork.errors import AnnotationWarning
from openwork.layout import Plane, parts
from openwork.testing import layout_contract
from openwork.testing.strategies import facts, patterns, per_head

# an empty flag is a warning, and generated facts may well be empty
pytestmark = pytest.mark.filterwarnings("ignore::openwork.errors.AnnotationWarning")


@st.composite
def positions(draw: st.DrawFn, length: int) -> np.ndarray:
    """Positions with padding on either side, gaps, restarts, or in no order at all."""
    kind = draw(st.sampled_from(["left", "right", "restart", "gaps", "shuffled"]))
    row = np.arange(length)
    if kind in ("left", "right"):
        pad = draw(st.integers(0, length))
        row = np.where(row < pad, -1, row - pad) if kind == "left" else np.where(row >= length - pad, -1, row)
    elif kind == "restart":
        start = draw(st.integers(1, max(1, length)))
        row = row % start
    elif kind == "gaps":
        row = np.cumsum(np.random.default_rng(draw(st.integers(0, 999))).integers(0, 4, length))
    else:
        row = np.random.default_rng(draw(st.integers(0, 999))).permutation(length)
    return row


@st.composite
def surroundings(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of `compile_layout`: lengths wide and tall, where queries sit, positions, facts, batch."""
    kv_len = draw(st.integers(1, 75))
    where = draw(st.sampled_from(["last", "start", "positions", "key positions"]))
    q_len = draw(st.integers(1, kv_len if where in ("last", "key positions") else 75))
    batch = draw(st.integers(1, 3))
    arguments: dict[str, Any] = {
        "q_len": q_len,
        "kv_len": kv_len,
        "block_size": draw(st.tuples(st.integers(1, 17), st.integers(1, 17))),
        "annotations": [draw(facts(kv_len)) for _ in range(batch)],
    }
    if where == "start":
        arguments["q_start"] = draw(st.integers(0, 80))
    if where in ("start", "positions"):
        most = min(q_len, kv_len)
        arguments["q_annotations"] = [_for_keys(draw(facts(q_len)), most, kv_len) for _ in range(batch)]
    if where == "positions":
        arguments["q_positions"] = np.stack([draw(positions(q_len)) for _ in range(batch)])
    if where in ("positions", "key positions"):
        arguments["kv_positions"] = np.stack([draw(positions(kv_len)) for _ in range(batch)])
    return arguments


def _for_keys(notes: ow.Annotations, most: int, kv_len: int) -> ow.Annotations:
    """Facts about queries alone, whose links lead to keys."""
    links = {name: np.minimum(rows, [10**6, 10**6, most, most]) for name, rows in notes.links.items()}
    return ow.Annotations(notes.length, notes.flags, notes.labels, links, kv_length=kv_len)


@pytest.mark.slow
@settings(max_examples=1500)
@given(pattern=patterns(), arguments=surroundings())
def test_a_layout_is_the_dense_enumeration(pattern, arguments):
    bound = {name: value for name, value in arguments.items() if name != "block_size"}
    layout_contract(ow.compile_layout(pattern, **arguments), ow.bind(pattern, **bound).to_dense())


@pytest.mark.slow
@settings(max_examples=300)
@given(pattern=per_head(), arguments=surroundings())
def test_every_head_has_its_own_pattern(pattern, arguments):
    bound = {name: value for name, value in arguments.items() if name != "block_size"}
    layout = ow.compile_layout(pattern, **arguments)
    layout_contract(layout, ow.bind(pattern, **bound).to_dense())
    assert layout.heads == len(pattern.patterns)


@pytest.mark.slow
@settings(max_examples=400)
@given(
    pattern=patterns(max_leaves=4),
    length=st.integers(150, 330),
    data=st.data(),
    block=st.sampled_from([4, 8, 16, 32]),
)
def test_longer_sequences_take_parts_and_levels(pattern, length, data, block):
    notes = data.draw(facts(length))
    pattern = ow.Causal() & pattern
    layout = ow.compile_layout(pattern, q_len=length, kv_len=length, block_size=block, annotations=notes)
    dense = ow.bind(pattern, q_len=length, kv_len=length, annotations=notes).to_dense()
    layout_contract(layout, dense)
    other = layout.reblock((block * 2, 7))
    np.testing.assert_array_equal(other.to_dense(), dense)


@pytest.mark.slow
@settings(max_examples=500)
@given(pattern=st.one_of(patterns(), per_head(max_heads=2)), arguments=surroundings())
def test_whatever_the_parts_every_pair_is_in_exactly_one(pattern, arguments):
    """Short sequences are hardly ever worth a second part: here every order that a pattern proposes is taken."""
    bound = {name: value for name, value in arguments.items() if name != "block_size"}
    with patch.object(parts, "_ROW_COST", -1000):
        layout = ow.compile_layout(pattern, **arguments)
    dense = ow.bind(pattern, **bound).to_dense()
    layout_contract(layout, dense)
    for row, column in np.ndindex(*layout.index.shape):
        times = sum(one_part.astype(int) for one_part in dense_parts(layout.plane(row, column)))
        np.testing.assert_array_equal(times, dense[row, column])


def dense_parts(plane: Plane) -> Iterator[np.ndarray]:
    yield np.zeros((plane.q_len, plane.kv_len), dtype=bool)
    for part in plane.parts:
        alone = np.zeros((plane.q_len, plane.kv_len), dtype=bool)
        part.add_to_dense(alone)
        yield alone


def test_generated_patterns_are_cut_into_parts_when_each_order_is_taken():
    """The property above is about something: what generated patterns look like is compiled to several parts."""
    pattern = ow.Causal() & (ow.Window(before=3) | ow.Keys("flag") | ow.Strided(8) | ow.Linked("use"))
    notes = ow.Annotations(length=40, flags={"flag": np.arange(40) % 9 == 2}, links={"use": [[30, 35, 3, 6]]})
    with patch.object(parts, "_ROW_COST", -1000):
        layout = ow.compile_layout(pattern, q_len=40, kv_len=40, block_size=8, annotations=notes)
    assert len(layout.planes[0].parts) == 4
    layout_contract(layout, ow.bind(pattern, q_len=40, kv_len=40, annotations=notes).to_dense())


@settings(max_examples=300)
@given(pattern=patterns(), arguments=surroundings(), data=st.data())
def test_bound_answers_single_rows_as_it_answers_all(pattern, arguments, data):
    bound = ow.bind(pattern, **{name: value for name, value in arguments.items() if name != "block_size"})
    row = data.draw(st.integers(0, bound.batch - 1))
    q_idx = data.draw(st.integers(0, arguments["q_len"] - 1))
    kv_idx = data.draw(st.integers(0, arguments["kv_len"] - 1))
    assert bound.sequence(row).allows(q_idx, kv_idx) == bool(bound.to_dense()[row, 0, q_idx, kv_idx])


def test_the_oracle_sees_a_wrong_layout():
    """The checks above can fail: one pair more, one pair less, or a pair in two parts is noticed."""
    pattern = ow.Causal() & (ow.Window(before=3) | ow.Strided(8))
    layout = ow.compile_layout(pattern, q_len=40, kv_len=40, block_size=8)
    dense = ow.bind(pattern, q_len=40, kv_len=40).to_dense()
    for q_idx, kv_idx in ((39, 39), (3, 30)):
        wrong = dense.copy()
        wrong[0, 0, q_idx, kv_idx] ^= True
        with pytest.raises(AssertionError):
            layout_contract(layout, wrong)
    twice = ow.BlockLayout(40, 40, (ow.layout.Plane(layout.planes[0].parts * 2, 40, 40, 1600),), layout.index, 8, 8)
    with pytest.raises(AssertionError):
        layout_contract(twice, dense)


def test_warnings_are_about_empty_facts_alone():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ow.compile_layout(
            ow.Keys("a"), q_len=3, kv_len=3, annotations=ow.Annotations(length=3, flags={"a": [False] * 3})
        )
    assert [w.category for w in caught] == [AnnotationWarning]
