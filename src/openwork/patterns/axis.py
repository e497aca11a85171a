"""`Axis`: the row or the column of the query in a grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from openwork.errors import PatternError
from openwork.patterns.annotations import IntArray
from openwork.patterns.base import Pattern
from openwork.patterns.checks import whole
from openwork.patterns.grid import Raster
from openwork.patterns.rectangles import Order, Spans, States, Tokens, difference_range, no_tokens, states_from

__all__ = ["Axis"]


@dataclass(frozen=True, init=False)
class Axis(Pattern):
    """Attend along one axis of a grid: to keys that differ from the query in that coordinate only.

    With `step = prod(shape[axis + 1:])` and `span = step * shape[axis]`, and positions counted from `offset`, query
    `i` sees key `j` when `i // span == j // span` and `i % step == j % step`. In two dimensions `axis=1` is the
    query's row and `axis=0` its column. The first `offset` tokens and those after the grid match nothing.

    Source: axial attention (Ho et al. 2019, arXiv 1912.12180).

    Args:
        shape: Length of each axis, 1 to 3 of them; the last one is contiguous in the sequence.
        axis: The axis to attend along, from 0.
        offset: Tokens before the grid.

    Raises:
        PatternError: A value is out of range.

    Examples:
        >>> from openwork.testing import assert_mask
        >>> assert_mask(Axis((2, 3), axis=1), '''
        ...     # # # . . .
        ...     # # # . . .
        ...     # # # . . .
        ...     . . . # # #
        ...     . . . # # #
        ...     . . . # # #
        ... ''')
        >>> assert_mask(Axis((2, 3), axis=0, offset=1), '''
        ...     . . . . . . .
        ...     . # . . # . .
        ...     . . # . . # .
        ...     . . . # . . #
        ...     . # . . # . .
        ...     . . # . . # .
        ...     . . . # . . #
        ... ''')
    """

    shape: tuple[int, ...]
    axis: int
    offset: int = 0

    def __init__(self, shape: int | Sequence[int], axis: int, offset: int = 0) -> None:
        raster = Raster.of("Axis", shape, offset)
        axis = whole("Axis axis", axis, at_least=0)
        if axis >= len(raster.shape):
            raise PatternError(
                f"Axis axis={axis} does not exist: shape {raster.shape} has axes 0 to {len(raster.shape) - 1}."
            )
        for name, value in (("shape", raster.shape), ("axis", axis), ("offset", raster.offset)):
            object.__setattr__(self, name, value)

    @cached_property
    def _raster(self) -> Raster:
        return Raster(self.shape, self.offset)

    @property
    def _step(self) -> int:
        return self._raster.steps[self.axis]

    @property
    def _span(self) -> int:
        return self._step * self.shape[self.axis]

    def allows(self, q_pos: Any, kv_pos: Any) -> Any:
        """Whether all coordinates but one agree."""
        q, k = q_pos - self.offset, kv_pos - self.offset
        inside = self._raster.inside(q_pos) & self._raster.inside(kv_pos)
        return inside & (q // self._span == k // self._span) & (q % self._step == k % self._step)

    def _line(self, tokens: Tokens) -> IntArray:
        """Number of the row or column; -1 outside the grid."""
        token = tokens.position - self.offset
        return np.where(self._raster.inside(tokens.position), token // self._span * self._step + token % self._step, -1)

    def states(self, q: Spans, k: Spans) -> States:
        """By the ranges of row or column numbers, and by the distances that occur."""
        key = ("line", self.shape, self.axis, self.offset)
        (q_low, q_high), (k_low, k_high) = q.range_of(key, self._line), k.range_of(key, self._line)
        low, high = difference_range(q, k)
        none = no_tokens(q, k)
        empty = none | (np.minimum(q_high, k_high) < 0) | (q_high < k_low) | (k_high < q_low)
        empty |= high // self._step * self._step < low
        one = (q_low == q_high) & (k_low == k_high) & (q_low == k_low) & (q_low >= 0)
        return states_from(empty, ~none & one)

    def signature(self, q: Spans, k: Spans) -> list[IntArray]:
        """The distance of the blocks, and where in a span of the axis they start; translation-invariant."""
        inside = self._raster.all_inside(q) & self._raster.all_inside(k)
        distance = q.low - k.low
        if math.prod(self.shape[: self.axis]) == 1:  # one span: lines are residues
            columns = [distance % self._step]
        else:
            columns = [distance, (q.low - self.offset) % self._span]
        outside = [np.where(inside, 0, side.low) for side in (q, k)]
        return [inside.astype(np.int64), q.shape, k.shape, *outside, *(np.where(inside, c, 0) for c in columns)]

    def orders(self) -> tuple[Order, ...]:
        """Sorted by row or column."""
        return (Order("sort", sort_queries=self._line, sort_keys=self._line),)
