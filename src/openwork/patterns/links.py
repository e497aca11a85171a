"""`Linked`: pairs that an explicit link joins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from openwork.patterns.annotations import IntArray
from openwork.patterns.base import Pattern
from openwork.patterns.checks import fact_name
from openwork.patterns.flags import needs_binding
from openwork.patterns.rectangles import Order, Spans, States, Tokens, no_tokens, states_from

__all__ = ["Linked"]

_FAR = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Linked(Pattern):
    """Attend to the keys that links `name` lead to from the query.

    Query `i` sees key `j` when some link `(q_first, q_stop, kv_first, kv_stop)` has `q_first <= i < q_stop` and
    `kv_first <= j < kv_stop`. Links speak of indices, not of positions.

    Source: ours. In source code, a use of a name (from its last token through its arguments) leads to the first
    line of its definition.

    Args:
        name: Name of the links.

    Raises:
        PatternError: The name is not a non-empty string.

    Examples:
        >>> from openwork.patterns import Annotations
        >>> from openwork.testing import assert_mask
        >>> notes = Annotations(length=6, links={"use": [[3, 5, 0, 2], [5, 6, 1, 2], [5, 6, 3, 4]]})
        >>> assert_mask(Linked("use"), '''
        ...     . . . . . .
        ...     . . . . . .
        ...     . . . . . .
        ...     # # . . . .
        ...     # # . . . .
        ...     . # . # . .
        ... ''', annotations=notes)
    """

    name: str

    def __post_init__(self) -> None:
        fact_name("Linked", self.name)

    @property
    def needs(self) -> Mapping[str, str]:  # type: ignore[override]
        """The links, by name."""
        return {self.name: "links"}

    def allows(self, q_pos: Any, kv_pos: Any) -> Any:
        """Raises: positions alone do not decide; bind the pattern."""
        raise needs_binding(self)

    def pairs(self, q: Tokens, k: Tokens) -> Any:
        """Whether a link of the query holds the key."""
        first, stop = q.links(self.name)
        row = k.index
        allowed = (first[..., 0] <= row) & (row < stop[..., 0])
        for link in range(1, first.shape[-1]):
            allowed = allowed | ((first[..., link] <= row) & (row < stop[..., link]))
        return allowed

    def states(self, q: Spans, k: Spans) -> States:
        """Empty where the links of all queries together miss the keys; full where each query's longest holds all."""
        nearest, _ = q.range_of(("link first", self.name), self._first_target)
        _, furthest = q.range_of(("link stop", self.name), self._last_target)
        _, long_first = q.range_of(("long link first", self.name), lambda tokens: self._longest(tokens)[0])
        long_stop, _ = q.range_of(("long link stop", self.name), lambda tokens: self._longest(tokens)[1])
        first_row, last_row = k.range_of("index", lambda tokens: tokens.index)
        _, target = k.range_of(("target", self.name), self._is_target)
        none = no_tokens(q, k)
        empty = none | (nearest > last_row) | (furthest <= first_row) | (target < 1)
        return states_from(empty, ~none & (long_first <= first_row) & (long_stop > last_row))

    def _first_target(self, tokens: Tokens) -> IntArray:
        first, stop = tokens.links(self.name)
        nearest: IntArray = np.where(stop > first, first, _FAR).min(axis=-1)
        return nearest

    def _last_target(self, tokens: Tokens) -> IntArray:
        first, stop = tokens.links(self.name)
        furthest: IntArray = np.where(stop > first, stop, 0).max(axis=-1)
        return furthest

    def _longest(self, tokens: Tokens) -> tuple[IntArray, IntArray]:
        first, stop = tokens.links(self.name)
        longest = (stop - first).argmax(axis=-1)[..., None]
        first, stop = (np.take_along_axis(side, longest, axis=-1)[..., 0] for side in (first, stop))
        some = stop > first
        return np.where(some, first, _FAR), np.where(some, stop, 0)

    def _is_target(self, tokens: Tokens) -> IntArray:
        return tokens.targets(self.name).astype(np.int64)

    def signature(self, q: Spans, k: Spans) -> list[IntArray]:
        """The tokens themselves: blocks that links cross are hardly ever alike."""
        return [side.content("index", lambda tokens: tokens.index) for side in (q, k)]

    def orders(self) -> tuple[Order, ...]:
        """Queries sorted by their first target, beside the keys that are targets."""
        return (Order("sort", sort_queries=self._sort_queries, sort_keys=self._sort_keys),)

    def _sort_queries(self, tokens: Tokens) -> IntArray:
        first = self._first_target(tokens)
        return np.where(first == _FAR, -1, first)

    def _sort_keys(self, tokens: Tokens) -> IntArray:
        return np.where(tokens.targets(self.name), tokens.index, -1)
