"""`PowersOfTwo`: keys at distances that double."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from openwork.patterns.annotations import IntArray
from openwork.patterns.base import Pattern
from openwork.patterns.rectangles import Spans, States, difference_range, distance_signature, no_tokens, states_from

__all__ = ["PowersOfTwo"]


@dataclass(frozen=True)
class PowersOfTwo(Pattern):
    """Attend to the query's own position and to keys at distances 1, 2, 4, 8, ... on both sides.

    Query position `i` attends to key positions `j` where `|i - j|` is 0 or a power of two: about `log2(length)`
    keys, and every pair is connected within as many layers.

    Source: LogSparse attention (Li et al. 2019, arXiv 1907.00235); PowerAttention (Chen et al. 2025, arXiv
    2503.03588), there causal and beside a window.

    Examples:
        >>> from openwork.testing import assert_mask
        >>> assert_mask(PowersOfTwo(), '''
        ...     # # # . # . .
        ...     # # # # . # .
        ...     # # # # # . #
        ...     . # # # # # .
        ...     # . # # # # #
        ...     . # . # # # #
        ...     . . # . # # #
        ... ''')
    """

    def allows(self, q_pos: Any, kv_pos: Any) -> Any:
        """Whether the distance is 0 or a power of two."""
        distance = abs(q_pos - kv_pos)
        return distance & (distance - 1) == 0

    def states(self, q: Spans, k: Spans) -> States:
        """Exact for contiguous sets: whether the range of distances holds 0 or a power of two."""
        low, high = difference_range(q, k)
        none = no_tokens(q, k)
        crosses = (low <= 0) & (high >= 0)
        near = np.minimum(np.abs(low), np.abs(high))
        far = np.maximum(np.abs(low), np.abs(high))
        empty = none | (~crosses & (_power_from(near) > far))
        # the only stretches of distances that are all good: those within -2..2, and single ones
        full = (far <= 2) | ((low == high) & ~empty)
        return states_from(empty, ~none & full)

    def signature(self, q: Spans, k: Spans) -> list[IntArray]:
        """The distance of the blocks, and their shapes."""
        return distance_signature(q, k)


def _power_from(distance: IntArray) -> IntArray:
    """The smallest power of two that is `distance` (1 or more) or longer."""
    mantissa, exponent = np.frexp(np.maximum(distance, 1).astype(np.float64))
    exponent = exponent - (mantissa == 0.5)
    return np.asarray(np.left_shift(np.int64(1), np.minimum(exponent, 62).astype(np.int64)))
