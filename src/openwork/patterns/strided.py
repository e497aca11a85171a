"""`Strided`: keys a whole number of strides away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from openwork.patterns.annotations import IntArray
from openwork.patterns.base import Pattern
from openwork.patterns.checks import whole
from openwork.patterns.rectangles import (
    Order,
    Spans,
    States,
    TokensFunction,
    difference_range,
    no_tokens,
    states_from,
)

__all__ = ["Strided", "residue", "stride_states"]


@dataclass(frozen=True)
class Strided(Pattern):
    """Attend to keys whose distance from the query is a multiple of the stride, in both directions.

    Query position `i` attends to key positions `j` with `(i - j) % stride == 0`.

    Source: the "strided" head of the Sparse Transformer (Child et al. 2019, arXiv 1904.10509, section 4.2), there
    causal and beside a window.

    Args:
        stride: Distance between visible keys, 1 or more.

    Raises:
        PatternError: The stride is not an integer of 1 or more.

    Examples:
        >>> from openwork.testing import assert_mask
        >>> assert_mask(Strided(stride=3), '''
        ...     # . . # . .
        ...     . # . . # .
        ...     . . # . . #
        ...     # . . # . .
        ...     . # . . # .
        ...     . . # . . #
        ... ''')
    """

    stride: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "stride", whole("Strided stride", self.stride, at_least=1))

    def allows(self, q_pos: Any, kv_pos: Any) -> Any:
        """Whether `(q_pos - kv_pos) % stride == 0`."""
        return (q_pos - kv_pos) % self.stride == 0

    def states(self, q: Spans, k: Spans) -> States:
        """Exact for contiguous sets; by the ranges of residues for others."""
        return stride_states(q, k, self.stride)

    def signature(self, q: Spans, k: Spans) -> list[IntArray]:
        """The distance of the blocks within a stride, and their shapes."""
        return [(q.low - k.low) % self.stride, q.shape, k.shape]

    def orders(self) -> tuple[Order, ...]:
        """Sorted by residue."""
        of = residue(self.stride)
        return (Order("sort", sort_queries=of, sort_keys=of),)


def residue(stride: int) -> TokensFunction:
    """The remainder of each position by `stride`."""
    return lambda tokens: tokens.position % stride


def stride_states(q: Spans, k: Spans, stride: int) -> States:
    """States of `(q - k) % stride == 0`."""
    of = residue(stride)
    q_low, q_high = q.range_of(("residue", stride), of)
    k_low, k_high = k.range_of(("residue", stride), of)
    low, high = difference_range(q, k)
    none = no_tokens(q, k)
    no_multiple = high // stride * stride < low
    apart = (q_high < k_low) | (k_high < q_low)
    same = (q_low == q_high) & (k_low == k_high) & (q_low == k_low)
    return states_from(none | no_multiple | apart, ~none & same)
