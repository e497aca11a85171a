"""The queries that are still to come, as one set of tokens: what is known of them by position and declaration."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

from openwork.patterns.annotations import BoolArray, IntArray
from openwork.patterns.declarations import Declarations
from openwork.patterns.rectangles import TokensFunction

__all__ = ["FutureQueries"]

_FAR = 1 << 40
"""Further than any position or label: stands for no limit, and leaves room for arithmetic."""


class _PositionsUnknown(Exception):
    """Raised inside a leaf's function that asks for the single positions of an endless range."""


@dataclass(frozen=True)
class _Extremes:
    """Tokens that hold the smallest and the largest value of every fact that may still come, and one without any."""

    declarations: Declarations
    last_labels: dict[str, int]
    first: int

    @property
    def position(self) -> IntArray:
        raise _PositionsUnknown

    @property
    def index(self) -> IntArray:
        return np.array([self.first, _FAR])

    def flag(self, name: str) -> BoolArray:
        return np.array([False, name not in self.declarations.final_flags])

    def label(self, name: str) -> IntArray:
        # labels that never decrease bind the tokens that have one; a token without is always possible
        least = self.last_labels.get(name, 0) if name in self.declarations.nondecreasing_labels else 0
        return np.array([-1, max(0, least), _FAR])

    def links(self, name: str) -> tuple[IntArray, IntArray]:
        least = self.declarations.links_from.get(name, 0)
        # no link at all, the nearest and shortest one, the longest one
        return np.array([[0], [least], [least]]), np.array([[0], [least + 1], [_FAR]])

    def targets(self, name: str) -> BoolArray:
        return np.array([False, True])


class FutureQueries:
    """Every query from some token on, as `Spans` with one set for each of `count` rectangles.

    A pattern may be asked which rectangles are *empty*; what is unknown counts as possible.

    Args:
        first: Index of the first query to come.
        position: Smallest position that it may have.
        count: Rectangles.
        declarations: What is promised about the facts to come.
        last_labels: The label of the last token that has one, by name; below 0 where none has.
    """

    def __init__(
        self, first: int, position: int, count: int, declarations: Declarations, last_labels: dict[str, int]
    ) -> None:
        self._extremes = _Extremes(declarations, last_labels, first)
        self._count = count
        self._first = first
        self._position = position

    def _all(self, value: int) -> IntArray:
        return np.full(self._count, value, dtype=np.int64)

    @property
    def low(self) -> IntArray:
        """The next position."""
        return self._all(self._position)

    @property
    def high(self) -> IntArray:
        """No limit."""
        return self._all(_FAR)

    @property
    def contiguous(self) -> BoolArray:
        """Every position from the next on may come."""
        return np.ones(self._count, dtype=bool)

    @property
    def ordered(self) -> BoolArray:
        """Not a block."""
        return np.zeros(self._count, dtype=bool)

    @property
    def shape(self) -> IntArray:
        """Not a block: every set is its own shape."""
        return np.arange(self._count)

    def range_of(self, key: Hashable, of: TokensFunction) -> tuple[IntArray, IntArray]:
        """Smallest and largest value that may come; no limits where it depends on single positions."""
        try:
            values = np.asarray(of(self._extremes), dtype=np.int64)
        except _PositionsUnknown:
            return self._all(-_FAR), self._all(_FAR)
        return self._all(int(values.min())), self._all(int(values.max()))

    def content(self, key: Hashable, of: TokensFunction) -> IntArray:
        """Not a block: no two sets are alike."""
        return np.arange(self._count)

    def count_below(self, position: IntArray) -> IntArray:
        """Not a block: nothing is counted."""
        return self._all(0)
