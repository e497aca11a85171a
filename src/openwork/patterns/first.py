"""`First`: the first keys for every query, or every key for the first queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from openwork.errors import PatternError
from openwork.patterns.annotations import IntArray
from openwork.patterns.base import Pattern, broadcast
from openwork.patterns.checks import whole
from openwork.patterns.rectangles import Order, Spans, States, Tokens, no_tokens, states_from

__all__ = ["First"]


@dataclass(frozen=True, kw_only=True, repr=False)
class First(Pattern):
    """Attend to the first keys of the sequence, or from the first queries to everything.

    `First(keys=n)` allows key positions `j < n` for every query: sink tokens, a prefix, global keys.
    `First(queries=n)` allows every key for query positions `i < n`: global rows.

    Source: sink tokens of StreamingLLM (Xiao et al. 2023, arXiv 2309.17453); global tokens of BigBird-ITC (Zaheer
    et al. 2020, arXiv 2007.14062), which are `First(keys=n) | First(queries=n)`.

    Args:
        keys: Number of keys that every query sees.
        queries: Number of queries that see every key.

    Raises:
        PatternError: Not exactly one of the two is given, or it is not an integer of 1 or more.

    Examples:
        >>> from openwork.testing import assert_mask
        >>> assert_mask(First(keys=2), '''
        ...     # # . . .
        ...     # # . . .
        ...     # # . . .
        ...     # # . . .
        ...     # # . . .
        ... ''')
        >>> assert_mask(First(queries=1), '''
        ...     # # # #
        ...     . . . .
        ...     . . . .
        ...     . . . .
        ... ''')
    """

    keys: int | None = None
    queries: int | None = None

    def __post_init__(self) -> None:
        if (self.keys is None) == (self.queries is None):
            raise PatternError(
                f"First takes either keys= or queries=; got keys={self.keys!r}, queries={self.queries!r}. "
                f"For both write First(keys=n) | First(queries=n)."
            )
        side = "keys" if self.queries is None else "queries"
        object.__setattr__(self, side, whole(f"First {side}", getattr(self, side), at_least=1))

    @property
    def _count(self) -> int:
        count = self.queries if self.keys is None else self.keys
        assert count is not None
        return count

    def _selected(self, tokens: Tokens) -> IntArray:
        return (tokens.position < self._count).astype(np.int64)

    def allows(self, q_pos: Any, kv_pos: Any) -> Any:
        """Whether the key, or the query, is among the first."""
        if self.keys is None:
            return broadcast(q_pos < self._count, kv_pos)
        return broadcast(kv_pos < self._count, q_pos)

    def states(self, q: Spans, k: Spans) -> States:
        """Exact."""
        side = q if self.keys is None else k
        none = no_tokens(q, k)
        return states_from(none | (side.low >= self._count), ~none & (side.high < self._count))

    def signature(self, q: Spans, k: Spans) -> list[IntArray]:
        """Where the border falls in the block."""
        side = q if self.keys is None else k
        return [side.low, side.shape]

    def orders(self) -> tuple[Order, ...]:
        """The keys, or the queries, selected."""
        return (Order("queries" if self.keys is None else "keys", select=self._selected),)

    def __repr__(self) -> str:
        return f"First(queries={self.queries})" if self.keys is None else f"First(keys={self.keys})"
