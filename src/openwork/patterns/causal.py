"""`Dense` and `Causal`: every pair, and every pair that does not look ahead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from openwork.patterns.annotations import IntArray
from openwork.patterns.base import Pattern
from openwork.patterns.rectangles import Spans, States, difference_range, no_tokens, states_from
from openwork.patterns.window import band_signature

__all__ = ["Causal", "Dense"]


@dataclass(frozen=True)
class Dense(Pattern):
    """Attend to every key.

    Allowed always: query position `i` attends to every key position `j`.

    Source: full attention (Vaswani et al. 2017, arXiv 1706.03762).

    Examples:
        >>> from openwork.testing import assert_mask
        >>> assert_mask(Dense(), '''
        ...     # # # #
        ...     # # # #
        ...     # # # #
        ... ''')
    """

    def allows(self, q_pos: Any, kv_pos: Any) -> Any:
        """True."""
        return (kv_pos - q_pos) * 0 == 0

    def states(self, q: Spans, k: Spans) -> States:
        """Full."""
        empty = no_tokens(q, k)
        return states_from(empty, ~empty)

    def signature(self, q: Spans, k: Spans) -> list[IntArray]:
        """All bitmasks are equal."""
        return []


@dataclass(frozen=True)
class Causal(Pattern):
    """Attend to the query's own position and to every earlier one.

    Query position `i` attends to key positions `j <= i`. By default the last query is the last key, so with
    fewer queries than keys the triangle stands at the bottom right.

    Source: the decoder of the Transformer (Vaswani et al. 2017, arXiv 1706.03762).

    Examples:
        >>> from openwork.testing import assert_mask
        >>> assert_mask(Causal(), '''
        ...     # # # . .
        ...     # # # # .
        ...     # # # # #
        ... ''')
    """

    def allows(self, q_pos: Any, kv_pos: Any) -> Any:
        """Whether `kv_pos <= q_pos`."""
        return kv_pos <= q_pos

    def states(self, q: Spans, k: Spans) -> States:
        """Exact: the largest and the smallest distance decide."""
        low, high = difference_range(q, k)
        none = no_tokens(q, k)
        return states_from(none | (high < 0), ~none & (low >= 0))

    def signature(self, q: Spans, k: Spans) -> list[IntArray]:
        """The distance of the two blocks; for scattered keys, how many stand before the diagonal."""
        return band_signature(q, k, None, 0)
