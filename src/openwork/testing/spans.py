"""Sets of tokens written out in full: a slow, obvious side of the rectangle protocol, to test patterns with."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from openwork.patterns.annotations import Annotations, BoolArray, IntArray
from openwork.patterns.rectangles import TokensFunction

__all__ = ["ListedSpans", "ListedTokens"]


@dataclass(frozen=True, eq=False)
class ListedTokens:
    """Tokens given by their rows: `Tokens` of the rectangle protocol.

    Attributes:
        index: Row of each token, any shape.
        positions: Position of every row.
        facts: Facts about every row, where a pattern reads any.
    """

    index: IntArray
    positions: IntArray
    facts: Annotations | None = None

    @property
    def position(self) -> IntArray:
        """Position of each token."""
        return self.positions[self.index]

    def flag(self, name: str) -> BoolArray:
        """Whether each token carries flag `name`."""
        assert self.facts is not None
        return np.asarray(self.facts.flags[name])[self.index]

    def label(self, name: str) -> IntArray:
        """Label `name` of each token."""
        assert self.facts is not None
        return np.asarray(self.facts.labels[name])[self.index]

    def links(self, name: str) -> tuple[IntArray, IntArray]:
        """Key spans that each token is linked to; one axis more than `index`, 0-0 pads."""
        assert self.facts is not None
        rows = np.asarray(self.facts.links[name])
        inside = (rows[:, 0] <= self.index[..., None]) & (self.index[..., None] < rows[:, 1])
        first, stop = np.where(inside, rows[:, 2], 0), np.where(inside, rows[:, 3], 0)
        pad = np.zeros((*self.index.shape, 1), dtype=np.int64)
        return np.concatenate([first, pad], axis=-1), np.concatenate([stop, pad], axis=-1)

    def targets(self, name: str) -> BoolArray:
        """Whether some link `name` points at each token."""
        assert self.facts is not None
        rows = np.asarray(self.facts.links[name])
        token = self.index[..., None]
        return np.asarray(((rows[:, 2] <= token) & (token < rows[:, 3])).any(axis=-1))


class ListedSpans:
    """Sets of tokens given one by one: `Spans` of the rectangle protocol, computed with loops.

    Args:
        sets: For each set, the rows of its tokens in order; -1 is a pad.
        positions: Position of every row; -1 is padding.
        facts: Facts about every row.
    """

    def __init__(self, sets: Sequence[Sequence[int]], positions: Any, facts: Annotations | None = None) -> None:
        self.sets = [list(rows) for rows in sets]
        self.positions = np.asarray(positions, dtype=np.int64)
        self.facts = facts
        self.asked: dict[Hashable, list[tuple[Any, ...]]] = {}

    def tokens(self, number: int) -> ListedTokens:
        """All slots of a set; pads read row 0."""
        return ListedTokens(np.maximum(np.array(self.sets[number], dtype=np.int64), 0), self.positions, self.facts)

    def valid(self, number: int) -> BoolArray:
        """Which slots of a set hold a token that is not padding."""
        rows = np.array(self.sets[number], dtype=np.int64)
        return (rows >= 0) & (self.positions[np.maximum(rows, 0)] >= 0)

    def _each(self, answer: Callable[[IntArray], int]) -> IntArray:
        values = [answer(self.tokens(n).position[self.valid(n)]) for n in range(len(self.sets))]
        return np.array(values, dtype=np.int64)

    @property
    def low(self) -> IntArray:
        """Smallest position in each set."""
        return self._each(lambda positions: min(positions, default=np.iinfo(np.int64).max))

    @property
    def high(self) -> IntArray:
        """Largest position in each set."""
        return self._each(lambda positions: max(positions, default=-np.iinfo(np.int64).max))

    @property
    def contiguous(self) -> BoolArray:
        """Whether the positions are `low, low + 1, ..., high`."""
        return self._each(lambda positions: bool((np.diff(positions) == 1).all())).astype(bool)

    @property
    def ordered(self) -> BoolArray:
        """Whether the positions ascend."""
        return self._each(lambda positions: bool((np.diff(positions) > 0).all())).astype(bool)

    def _numbers(self, key: Hashable, rows: list[tuple[Any, ...]]) -> IntArray:
        known = self.asked.setdefault(key, [])
        known += [row for row in dict.fromkeys(rows) if row not in known]
        return np.array([known.index(row) for row in rows], dtype=np.int64)

    @property
    def shape(self) -> IntArray:
        """A number that is equal where positions relative to the smallest are."""
        rows = []
        for n, low in enumerate(self.low):
            relative = np.where(self.valid(n), self.tokens(n).position - low, -1)
            rows.append(tuple(relative.tolist()))
        return self._numbers("shape", rows)

    def range_of(self, key: Hashable, of: TokensFunction) -> tuple[IntArray, IntArray]:
        """Smallest and largest value in each set."""
        low, high = [], []
        for n in range(len(self.sets)):
            values = np.broadcast_to(of(self.tokens(n)), len(self.sets[n]))[self.valid(n)]
            low.append(min(values, default=np.iinfo(np.int64).max))
            high.append(max(values, default=-np.iinfo(np.int64).max))
        return np.array(low, dtype=np.int64), np.array(high, dtype=np.int64)

    def content(self, key: Hashable, of: TokensFunction) -> IntArray:
        """A number that is equal where the values are equal token by token."""
        rows = []
        for n in range(len(self.sets)):
            values = np.where(self.valid(n), of(self.tokens(n)), np.iinfo(np.int64).min)
            rows.append(tuple(values.tolist()))
        return self._numbers(("content", key), rows)

    def count_below(self, position: IntArray) -> IntArray:
        """How many tokens of each set stand below `position[n]`."""
        limits = iter(np.broadcast_to(position, len(self.sets)))
        return self._each(lambda positions: int((positions < next(limits)).sum()))
