"""The rectangle protocol: how a pattern answers for many pairs at once.

A rectangle is a set of queries times a set of keys. A pattern answers for it *empty* (no pair is allowed),
*full* (every pair is) or *partial* (some may be: the compiler looks closer). The answers are small integers, so
that they combine by Kleene logic: `&` is the minimum, `|` the maximum, `~` is `FULL - state`.

Everything here works on arrays of rectangles: entry `n` of every array speaks of rectangle `n`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from openwork.patterns.annotations import BoolArray, IntArray

__all__ = [
    "EMPTY",
    "FULL",
    "PARTIAL",
    "Order",
    "Spans",
    "States",
    "Tokens",
    "TokensFunction",
    "difference_range",
    "distance_signature",
    "no_tokens",
    "states_from",
]

EMPTY, PARTIAL, FULL = 0, 1, 2

States = npt.NDArray[np.int8]
"""One of `EMPTY`, `PARTIAL`, `FULL` for each rectangle."""


class Tokens(Protocol):
    """One side of some pairs, token by token; every array has the same shape and broadcasts with the other side."""

    @property
    def position(self) -> IntArray:
        """Position of each token; -1 for padding."""

    @property
    def index(self) -> IntArray:
        """Row of each token in the tensors (for padding slots any valid row)."""

    def flag(self, name: str) -> BoolArray:
        """Whether each token carries flag `name`."""

    def label(self, name: str) -> IntArray:
        """Label `name` of each token; below 0 is none."""

    def links(self, name: str) -> tuple[IntArray, IntArray]:
        """Key spans `[first, stop)` that each query is linked to: two arrays with a last axis more, 0-0 pads."""

    def targets(self, name: str) -> BoolArray:
        """Whether some link `name` points at each key."""


TokensFunction = Callable[[Tokens], IntArray]


class Spans(Protocol):
    """One side of `n` rectangles: `n` sets of tokens, each known by ranges. Padding tokens do not count."""

    @property
    def low(self) -> IntArray:
        """Smallest position in each set."""

    @property
    def high(self) -> IntArray:
        """Largest position in each set; below `low` where the set has no valid token."""

    @property
    def contiguous(self) -> BoolArray:
        """Whether the positions of the set are exactly `low, low + 1, ..., high`."""

    @property
    def shape(self) -> IntArray:
        """A number for each set that is equal where `position - low` is equal token by token (blocks only)."""

    @property
    def ordered(self) -> BoolArray:
        """Whether the positions of the set ascend in its order (blocks only)."""

    def range_of(self, key: Hashable, of: TokensFunction) -> tuple[IntArray, IntArray]:
        """Smallest and largest value of `of(tokens)` in each set; `key` names the function in a cache.

        For a set without valid tokens the smallest exceeds the largest.
        """

    def content(self, key: Hashable, of: TokensFunction) -> IntArray:
        """A number for each set that is equal where `of(tokens)` is equal token by token (blocks only)."""

    def count_below(self, position: IntArray) -> IntArray:
        """How many tokens of each set have a position below `position[n]` (blocks only)."""


@dataclass(frozen=True)
class Order:
    """A proposal: the pairs of `pattern` are dense when tokens stand in another order.

    Attributes:
        kind: `"keys"` (a selection of keys), `"queries"` (a selection of queries) or `"sort"` (both sides sorted, ties
            by position). Natural order needs no proposal.
        select: For `"keys"` and `"queries"`: 1 for the tokens selected, 0 for the others.
        sort_queries: For `"sort"`: the value that queries are sorted by; below 0 leaves the query out.
        sort_keys: For `"sort"`: the value that keys are sorted by; below 0 leaves the key out.
        align: For `"sort"`: start each value at a block boundary.
    """

    kind: str
    select: TokensFunction | None = None
    sort_queries: TokensFunction | None = None
    sort_keys: TokensFunction | None = None
    align: bool = False


def states_from(empty: npt.NDArray[np.bool_], full: npt.NDArray[np.bool_]) -> States:
    """States from two answers; a rectangle without pairs may be both and counts as empty."""
    states = np.where(full, FULL, PARTIAL).astype(np.int8)
    states[empty] = EMPTY
    return states


def difference_range(q: Spans, k: Spans) -> tuple[IntArray, IntArray]:
    """Smallest and largest `q_pos - kv_pos` in each rectangle; both are attained."""
    return q.low - k.high, q.high - k.low


def distance_signature(q: Spans, k: Spans) -> list[IntArray]:
    """Signature of a pattern that reads nothing but `q_pos - kv_pos`."""
    return [q.low - k.low, q.shape, k.shape]


def no_tokens(q: Spans, k: Spans) -> BoolArray:
    """Rectangles without any valid pair: padding on one side or both."""
    return (q.high < q.low) | (k.high < k.low)
