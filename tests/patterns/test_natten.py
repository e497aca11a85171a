"""`Grid` against neighbourhood attention as its library defines it, stated here once more in loops."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openwork.errors import PatternError
from openwork.patterns import Axis, Grid, Window
from openwork.testing.strategies import LEAF_STRATEGIES


def seen_along_an_axis(x: int, length: int, kernel: int, dilation: int, causal: bool) -> set[int]:
    """Coordinates that coordinate `x` sees: slide the window over the members of its dilation group."""
    group = [y for y in range(length) if y % dilation == x % dilation]
    place = group.index(x)
    if causal:
        return set(group[max(0, place - kernel + 1) : place + 1])
    # `kernel // 2` members before the query and the rest from it on, moved inwards where it sticks out
    first = place - kernel // 2
    while first < 0:
        first += 1
    while first + kernel > len(group):
        first -= 1
    return set(group[first : first + kernel])


def natten_mask(shape: tuple[int, ...], kernel: Any, dilation: Any, causal: Any, offset: int, length: int) -> Any:
    mask = np.zeros((length, length), dtype=bool)
    tokens = {crd: offset + n for n, crd in enumerate(itertools.product(*map(range, shape)))}
    for coordinate, query in tokens.items():
        seen = [
            seen_along_an_axis(x, size, k, d, c)
            for x, size, k, d, c in zip(coordinate, shape, kernel, dilation, causal, strict=True)
        ]
        for keys in itertools.product(*seen):
            mask[query, tokens[keys]] = True
    return mask


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(LEAF_STRATEGIES[Grid], st.integers(0, 4))
def test_grids_are_natten_neighbourhoods(grid: Grid, more: int) -> None:
    length = grid.offset + math.prod(grid.shape) + more
    expected = natten_mask(grid.shape, grid.kernel, grid.dilation, grid.causal, grid.offset, length)
    found = grid.allows(np.arange(length)[:, None], np.arange(length)[None])
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(("kernel", "keys"), [(3, 9), (4, 16), (5, 25)])
def test_a_window_never_shrinks_at_an_edge(kernel: int, keys: int) -> None:
    # the published fact: every query, in a corner too, sees kernel^2 keys; even kernels do as well
    mask = Grid((7, 9), kernel).allows(np.arange(63)[:, None], np.arange(63)[None])
    assert set(mask.sum(axis=1)) == {keys}


def test_an_even_kernel_reaches_further_back() -> None:
    row = Grid(12, 4).allows(6, np.arange(12))
    assert np.flatnonzero(row).tolist() == [4, 5, 6, 7]


def test_a_causal_axis_is_a_window() -> None:
    q, k = np.arange(20)[:, None], np.arange(20)[None]
    assert np.array_equal(Grid(20, 5, causal=True).allows(q, k), Window(before=4).allows(q, k))


def test_natten_words_are_read() -> None:
    grid = Grid.from_natten((8, 9), (3, 4), dilation=2, is_causal=(True, False))
    assert grid == Grid((8, 9), (3, 4), 2, (True, False))
    with pytest.raises(PatternError, match=r"reads stride=1 only; got \(1, 2\). A mask of your own is a layout"):
        Grid.from_natten((8, 9), 3, stride=(1, 2))


def test_axes_are_rows_and_columns_of_any_grid() -> None:
    for shape, offset in (((3, 4), 0), ((3, 4), 2), ((2, 3, 4), 1), ((5,), 1)):
        size = math.prod(shape)
        coordinates = list(itertools.product(*map(range, shape)))
        for axis in range(len(shape)):
            pattern = Axis(shape, axis, offset)
            for i, j in itertools.product(range(size + offset + 2), repeat=2):
                inside = offset <= i < size + offset and offset <= j < size + offset
                expected = inside and all(
                    a == b
                    for n, (a, b) in enumerate(zip(coordinates[i - offset], coordinates[j - offset], strict=True))
                    if n != axis
                )
                assert pattern.allows(i, j) == expected
