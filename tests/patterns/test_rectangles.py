"""What patterns say of whole rectangles agrees with the pairs in them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openwork.patterns import (
    Annotations,
    Causal,
    Chunk,
    Dense,
    Dilated,
    First,
    Pattern,
    PowersOfTwo,
    RandomBlocks,
    Strided,
    Summary,
    Window,
)
from openwork.patterns.names import LEAVES
from openwork.patterns.rectangles import FULL, Order
from openwork.testing.pattern_rules import check_orders, check_signature, check_states
from openwork.testing.strategies import FACTS, LEAF_STRATEGIES, facts, patterns

LENGTH = 60
quick = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


@st.composite
def contiguous_sets(draw: st.DrawFn, count: int = 12) -> list[list[int]]:
    sets = []
    for _ in range(count):
        first = draw(st.integers(0, LENGTH - 1))
        sets.append(list(range(first, min(LENGTH, first + draw(st.integers(0, 15))))))
    return sets


@st.composite
def scattered_sets(draw: st.DrawFn, count: int = 12) -> list[list[int]]:
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sets = []
    for _ in range(count):
        rows = random.permutation(LENGTH)[: random.integers(0, 12)]
        step = int(random.integers(1, 12))
        regular = np.arange(random.integers(0, LENGTH), LENGTH, step)
        rows = rows if random.random() < 0.5 else regular
        rows = np.sort(rows) if random.random() < 0.5 else rows
        sets.append(rows.tolist() + [-1] * int(random.integers(0, 3)))
    return sets


positions = st.one_of(
    st.just(np.arange(LENGTH)),
    st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).integers(-1, 40, LENGTH)),
)
sets = st.one_of(contiguous_sets(), scattered_sets())


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.__name__)
@quick
@given(data=st.data())
def test_states_of_every_leaf_agree_with_its_pairs(leaf: type[Pattern], data: st.DataObject) -> None:
    pattern, notes = data.draw(LEAF_STRATEGIES[leaf]), data.draw(facts(LENGTH))
    check_states(pattern, data.draw(sets), data.draw(sets), data.draw(positions), notes)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(patterns(), facts(LENGTH), sets, sets, positions)
def test_states_of_combinations_agree_with_their_pairs(
    pattern: Pattern, notes: Annotations, q_sets: list[list[int]], k_sets: list[list[int]], where: np.ndarray
) -> None:
    check_states(pattern, q_sets, k_sets, where, notes)


EXACT = [Dense, Causal, Window, Dilated, Strided, Summary, Chunk, First, PowersOfTwo, RandomBlocks]


@pytest.mark.parametrize("leaf", EXACT, ids=lambda leaf: leaf.__name__)
@quick
@given(data=st.data())
def test_states_of_contiguous_sets_are_sharp(leaf: type[Pattern], data: st.DataObject) -> None:
    pattern = data.draw(LEAF_STRATEGIES[leaf])
    q_sets, k_sets = data.draw(contiguous_sets()), data.draw(contiguous_sets())
    check_states(pattern, q_sets, k_sets, np.arange(LENGTH), exact=True)


def test_a_residue_class_is_full_for_its_stride() -> None:
    # what makes a sorted part dense: one residue on both sides is full, two are empty
    sets = [list(range(r, LENGTH, 7)) for r in (2, 2, 3)]
    check_states(Strided(7), sets, [sets[0], sets[2], sets[2]], np.arange(LENGTH), exact=True)


@st.composite
def blocks(draw: st.DrawFn, block: int) -> list[list[int]]:
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    step = draw(st.integers(1, 6))
    order = {
        "natural": np.arange(LENGTH),
        "sorted": np.concatenate([np.arange(r, LENGTH, step) for r in range(step)]),
        "shuffled": random.permutation(LENGTH),
        "chosen": np.flatnonzero(random.random(LENGTH) < 0.5),
    }[draw(st.sampled_from(["natural", "natural", "sorted", "shuffled", "chosen"]))]
    rows = order.tolist() + [-1] * (-len(order) % block)
    return [rows[i : i + block] for i in range(0, len(rows), block)]


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.__name__)
@quick
@given(data=st.data())
def test_equal_signatures_of_every_leaf_have_equal_bitmasks(leaf: type[Pattern], data: st.DataObject) -> None:
    block = data.draw(st.integers(3, 9))
    pattern, notes = data.draw(LEAF_STRATEGIES[leaf]), data.draw(facts(LENGTH))
    check_signature(pattern, data.draw(blocks(block)), data.draw(blocks(block)), data.draw(positions), notes)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_equal_signatures_of_combinations_have_equal_bitmasks(data: st.DataObject) -> None:
    block = data.draw(st.integers(3, 9))
    pattern, notes = data.draw(patterns()), data.draw(facts(LENGTH))
    check_signature(pattern, data.draw(blocks(block)), data.draw(blocks(block)), data.draw(positions), notes)


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.__name__)
@quick
@given(data=st.data())
def test_orders_of_every_leaf_cover_its_pairs(leaf: type[Pattern], data: st.DataObject) -> None:
    check_orders(data.draw(LEAF_STRATEGIES[leaf]), data.draw(positions), data.draw(facts(LENGTH)))


def test_the_checks_can_fail() -> None:
    class Overclaims(Window):
        def states(self, q: object, k: object) -> np.ndarray:
            return np.full(1, FULL, dtype=np.int8)

        def signature(self, q: object, k: object) -> list[np.ndarray]:
            return [np.zeros(len(q.low), dtype=np.int64)]

        def orders(self) -> tuple[Order, ...]:
            return (Order("keys", select=lambda tokens: tokens.position * 0),)

    wrong = Overclaims(before=1)
    with pytest.raises(AssertionError, match="full, but it forbids"):
        check_states(wrong, [[0]], [[5]], np.arange(9))
    with pytest.raises(AssertionError, match="empty, but it allows"):
        check_states(~wrong, [[0]], [[5]], np.arange(9))
    with pytest.raises(AssertionError, match=r"says 1 of .* which is 0"):
        check_states(Causal() & ~(Causal() & Dense()), [[4, 5]], [[4, 5]], np.arange(9), exact=True)
    with pytest.raises(AssertionError, match="leaves out"):
        check_orders(wrong, np.arange(9))

    class Blurs(Overclaims):
        def states(self, q: object, k: object) -> np.ndarray:
            return np.ones(len(q.low), dtype=np.int8)

    with pytest.raises(AssertionError, match="bitmasks differ"):
        check_signature(Blurs(before=1), [[0, 1], [2, 3]], [[0, 1], [2, 3]], np.arange(9))


@quick
@given(facts(9))
def test_every_fact_is_generated(notes: Annotations) -> None:
    assert set(notes.names) == {name for names in FACTS.values() for name in names}
