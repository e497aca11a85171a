"""What patterns say of whole rectangles agrees with the pairs in them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openwork.patterns import (
    Annotations,
    Axis,
    Causal,
    Chunk,
    Custom,
    Dense,
    Dilated,
    Earlier,
    First,
    Grid,
    Keys,
    Linked,
    Pattern,
    PowersOfTwo,
    Queries,
    RandomBlocks,
    Same,
    Strided,
    Summary,
    Window,
)
from openwork.patterns.names import LEAVES
from openwork.patterns.rectangles import EMPTY, FULL, Order
from openwork.testing.pattern_rules import check_orders, check_signature, check_states
from openwork.testing.spans import ListedSpans
from openwork.testing.strategies import FACTS, LEAF_STRATEGIES, facts, leans_left, leans_left_rectangles, patterns

LENGTH = 60
quick = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


@st.composite
def contiguous_sets(draw: st.DrawFn, count: int = 12) -> list[list[int]]:
    sets = []
    for _ in range(count):
        first = draw(st.integers(0, LENGTH - 1))
        sets.append(list(range(first, min(LENGTH, first + draw(st.integers(0, 25))))))
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


SMALL = 6
SMALL_NOTES = Annotations(
    SMALL,
    flags={"heading": [0, 1, 0, 0, 1, 1]},
    labels={"turn": [0, 0, -1, 1, 2, 2]},
    links={"use": [[3, 5, 0, 2], [4, 6, 2, 3], [5, 6, 0, 1]]},
)
SMALL_PATTERNS = [
    Causal(),
    Window(1, 1),
    Dilated(4, 1, step=2),
    Strided(3),
    Summary(3, 1, 1),
    Chunk(2, 1),
    Chunk(2, None, 0),
    First(keys=2),
    First(queries=3),
    PowersOfTwo(),
    RandomBlocks(1, 2, 3),
    RandomBlocks(2, 1, 3, num_blocks=3),
    RandomBlocks(1, 1, 3, 1, 1, 6),
    Grid(6, 3),
    Grid((2, 3), (1, 2), offset=0),
    Grid((2, 2), 1, offset=1),
    Grid(6, 2, 3),
    Grid(5, 2, 2, causal=True),
    Axis((2, 3), 0),
    Axis((2, 2), 1, offset=1),
    Keys("heading"),
    Queries("heading"),
    Same("turn"),
    Earlier("turn"),
    Linked("use"),
]


@pytest.mark.parametrize("pattern", SMALL_PATTERNS, ids=repr)
def test_states_of_all_sets_of_a_few_tokens(pattern: Pattern) -> None:
    # every set of 6 tokens times every other, as its own rectangle
    subsets = [[row for row in range(SMALL) if bits >> row & 1] for bits in range(2**SMALL)]
    q_sets = [q for q in subsets for _ in subsets]
    k_sets = [k for _ in subsets for k in subsets]
    check_states(pattern, q_sets, k_sets, np.arange(SMALL), SMALL_NOTES)


@pytest.mark.parametrize(
    ("pattern", "block"),
    [
        (Grid(40, 7), 4),
        (Grid(40, 7), 2),
        (Grid((9, 8), 3), 8),
        (Grid((9, 8), 4), 4),
        (Grid((8, 8), (3, 3), 2), 8),
        (Grid((9, 8), 3, causal=(True, False), offset=3), 8),
        (Grid((3, 4, 5), 3), 5),
        (Axis((6, 8), 1), 4),
        (Axis((6, 8), 0), 8),
        (Axis((3, 4, 5), 1), 5),
        (Chunk(6, 1), 4),
        (RandomBlocks(3, 2, 1), 4),
        (First(keys=6), 4),
        ((Causal() | Strided(2)) & Strided(3), 4),  # one rule decides here, the other there
    ],
    ids=repr,
)
def test_signatures_tell_edges_from_the_middle(pattern: Pattern, block: int) -> None:
    rows = list(range(75))
    cut = [rows[i : i + block] for i in range(0, 72, block)]
    check_signature(pattern, cut, cut, np.arange(75))


def test_signatures_tell_blocks_of_one_shape_apart() -> None:
    check_signature(First(keys=3), [[0, 1]], [[0, 2, 9], [1, 3, 10]], np.arange(12))
    check_signature(First(queries=3), [[0, 2, 9], [1, 3, 10]], [[0, 1]], np.arange(12))


def test_tokens_without_a_label_do_not_blur_the_others() -> None:
    notes = Annotations(4, labels={"turn": [1, -1, 2, 3]})
    for pattern in (Same("turn"), Earlier("turn")):
        check_states(pattern, [[0], [0], [1, 2]], [[1, 2], [2, 3], [0, 1]], np.arange(4), notes)
        assert pattern.states(*(ListedSpans([rows], np.arange(4), notes) for rows in ([0], [1, 2]))) == [EMPTY]


@quick
@given(contiguous_sets(), contiguous_sets())
def test_a_custom_rule_is_as_sharp_as_its_rectangles(q_sets: list[list[int]], k_sets: list[list[int]]) -> None:
    check_states(Custom(leans_left, "told", leans_left_rectangles), q_sets, k_sets, np.arange(LENGTH), exact=True)


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
