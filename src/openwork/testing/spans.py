"""Sets of tokens written out in full: a slow, obvious side of the rectangle protocol, to test patterns with."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from openwork.patterns.annotations import Annotations, BoolArray, IntArray
from openwork.patterns.rectangles import TokensFunction

__all__ = ["ListedSpans", "ListedTokens"]

_HUGE = np.iinfo(np.int64).max


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
        numbers: dict[tuple[int, ...], int] = {}
        self._which = np.array([numbers.setdefault(tuple(rows), len(numbers)) for rows in self.sets], dtype=np.int64)
        self._distinct = [np.array(rows, dtype=np.int64) for rows in numbers]

    def _tokens(self, rows: IntArray) -> ListedTokens:
        return ListedTokens(np.maximum(rows, 0), self.positions, self.facts)

    def _valid(self, rows: IntArray) -> BoolArray:
        return (rows >= 0) & (self.positions[np.maximum(rows, 0)] >= 0)

    def _values(self, of: TokensFunction) -> list[IntArray]:
        """For each distinct set, the value of its valid tokens."""
        return [np.broadcast_to(of(self._tokens(rows)), rows.shape)[self._valid(rows)] for rows in self._distinct]

    def _each(self, answers: Iterable[Any]) -> IntArray:
        return np.array(list(answers), dtype=np.int64)[self._which]

    def _positions(self) -> list[IntArray]:
        return self._values(lambda tokens: tokens.position)

    @property
    def low(self) -> IntArray:
        """Smallest position in each set."""
        return self._each(min(positions, default=_HUGE) for positions in self._positions())

    @property
    def high(self) -> IntArray:
        """Largest position in each set."""
        return self._each(max(positions, default=-_HUGE) for positions in self._positions())

    @property
    def contiguous(self) -> BoolArray:
        """Whether the positions are `low, low + 1, ..., high`."""
        return self._each((np.diff(positions) == 1).all() for positions in self._positions()).astype(bool)

    @property
    def ordered(self) -> BoolArray:
        """Whether the positions ascend."""
        return self._each((np.diff(positions) > 0).all() for positions in self._positions()).astype(bool)

    def _numbered(self, of: TokensFunction, *, relative: bool) -> IntArray:
        known: dict[tuple[int, ...], int] = {}
        numbers = []
        for rows in self._distinct:
            valid = self._valid(rows)
            values = np.broadcast_to(of(self._tokens(rows)), rows.shape)
            values = values - min(values[valid], default=0) if relative else values
            row = tuple(np.where(valid, values, -_HUGE).tolist())
            numbers.append(known.setdefault(row, len(known)))
        return self._each(numbers)

    @property
    def shape(self) -> IntArray:
        """A number that is equal where positions relative to the smallest are."""
        return self._numbered(lambda tokens: tokens.position, relative=True)

    def range_of(self, key: Hashable, of: TokensFunction) -> tuple[IntArray, IntArray]:
        """Smallest and largest value in each set."""
        values = self._values(of)
        return self._each(min(v, default=_HUGE) for v in values), self._each(max(v, default=-_HUGE) for v in values)

    def content(self, key: Hashable, of: TokensFunction) -> IntArray:
        """A number that is equal where the values are equal token by token."""
        return self._numbered(of, relative=False)

    def count_below(self, position: IntArray) -> IntArray:
        """How many tokens of each set stand below `position[n]`."""
        positions = self._positions()
        limits = np.broadcast_to(position, len(self.sets))
        counts = [int((positions[n] < limit).sum()) for n, limit in zip(self._which, limits, strict=True)]
        return np.array(counts, dtype=np.int64)
