"""Random blocks against the definition, restated in loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from openwork.patterns import Causal, RandomBlocks, zoo
from openwork.patterns.chance import hash32
from openwork.testing.pattern_rules import check_states
from openwork.testing.strategies import LEAF_STRATEGIES


def drawn(pattern: RandomBlocks, i: int) -> list[int]:
    """Key blocks that query block `i` draws, slot by slot."""
    if pattern.num_blocks is None:
        candidates = list(range(pattern.skip_first, i - pattern.skip_near))
    else:
        candidates = [j for j in range(pattern.skip_first, pattern.num_blocks) if abs(i - j) > pattern.skip_near]
    blocks = []
    for t in range(pattern.count):
        low, high = t * len(candidates) // pattern.count, (t + 1) * len(candidates) // pattern.count
        if high > low:
            blocks.append(candidates[low + hash32(pattern.seed, i, t) % (high - low)])
    return blocks


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(LEAF_STRATEGIES[RandomBlocks])
def test_blocks_are_drawn_as_stated(pattern: RandomBlocks) -> None:
    length = 64
    expected = np.zeros((length, length), dtype=bool)
    for query in range(length):
        for block in drawn(pattern, query // pattern.block):
            expected[query, block * pattern.block : (block + 1) * pattern.block] = True
    assert np.array_equal(pattern.allows(np.arange(length)[:, None], np.arange(length)[None]), expected)


@pytest.mark.parametrize("num_blocks", [None, 40])
def test_draws_do_not_repeat_and_avoid_what_is_skipped(num_blocks: int | None) -> None:
    pattern = RandomBlocks(1, 5, seed=11, skip_first=2, skip_near=1, num_blocks=num_blocks)
    mask = pattern.allows(np.arange(40)[:, None], np.arange(40)[None])
    rows, columns = np.nonzero(mask)
    assert columns.min() >= 2 and abs(rows - columns).min() > 1
    assert set(mask.sum(axis=1)[8:]) == {5}
    assert num_blocks is not None or not (mask & ~np.tri(40, dtype=bool)).any()


def test_a_growing_text_keeps_its_draws() -> None:
    pattern = zoo.bigbird_causal(block=2, random_blocks=2, seed=5)
    long = pattern.allows(np.arange(90)[:, None], np.arange(90)[None])
    short = pattern.allows(np.arange(50)[:, None], np.arange(50)[None])
    assert np.array_equal(long[:50, :50], short)


def test_seeds_draw_differently() -> None:
    q, k = np.arange(200)[:, None], np.arange(200)[None]
    masks = [(Causal() & RandomBlocks(1, 3, seed)).allows(q, k) for seed in (0, 1, 2**32)]
    assert not np.array_equal(masks[0], masks[1]) and not np.array_equal(masks[0], masks[2])


def test_large_rectangles_stay_sound_where_looking_up_would_cost_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openwork.patterns.random_blocks._MOST_ROWS", 8)
    for pattern in (RandomBlocks(1, 2, 3), RandomBlocks(2, 1, 3, 1, 1, 30)):
        sets = [list(range(a, b)) for a, b in ((0, 40), (4, 30), (10, 14), (30, 45), (3, 4), (7, 9))]
        check_states(pattern, [q for q in sets for _ in sets], [k for _ in sets for k in sets], np.arange(60))
