"""`Summary`: the same few keys of every block, for every query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from openwork.errors import PatternError
from openwork.patterns.annotations import IntArray
from openwork.patterns.base import Pattern, broadcast
from openwork.patterns.checks import whole
from openwork.patterns.rectangles import Order, Spans, States, Tokens, no_tokens, states_from

__all__ = ["Summary"]


@dataclass(frozen=True)
class Summary(Pattern):
    """Attend to `count` keys near the end of every block of `block` keys.

    Key position `j` is seen by every query when `block - offset - count <= j % block < block - offset`. The blocks
    lie on the grid of positions, from 0. Other heads may take other offsets.

    Source: the "fixed" head of the Sparse Transformer (Child et al. 2019, arXiv 1904.10509, section 4.2), there
    causal and beside the query's own block. The paper sets `c` last cells of each block; its code lets each head
    take another `c` of them, which is `offset`.

    Args:
        block: Keys in a block.
        count: Keys of each block that are seen.
        offset: Keys at the end of each block that are left out.

    Raises:
        PatternError: A value is out of range, or `offset + count` exceeds `block`.

    Examples:
        >>> from openwork.testing import assert_mask
        >>> assert_mask(Summary(block=4, count=1), '''
        ...     . . . # . . . #
        ...     . . . # . . . #
        ... ''')
        >>> assert_mask(Summary(block=4, count=2, offset=1), '''
        ...     . # # . . # # .
        ...     . # # . . # # .
        ... ''')
    """

    block: int
    count: int
    offset: int = 0

    def __post_init__(self) -> None:
        for name, at_least in (("block", 1), ("count", 1), ("offset", 0)):
            object.__setattr__(self, name, whole(f"Summary {name}", getattr(self, name), at_least=at_least))
        if self.offset + self.count > self.block:
            raise PatternError(
                f"Summary offset + count must fit into block={self.block}; got offset={self.offset}, "
                f"count={self.count}. Use a count of {self.block - self.offset} or less, or a longer block."
            )

    def _is_summary(self, kv_pos: Any) -> Any:
        cell = kv_pos % self.block
        return (cell >= self.block - self.offset - self.count) & (cell < self.block - self.offset)

    def _selected(self, tokens: Tokens) -> IntArray:
        return np.asarray(self._is_summary(tokens.position), dtype=np.int64)

    def allows(self, q_pos: Any, kv_pos: Any) -> Any:
        """Whether the key is one of those that stand for its block."""
        return broadcast(self._is_summary(kv_pos), q_pos)

    def states(self, q: Spans, k: Spans) -> States:
        """Exact."""
        low, high = k.range_of(("summary", self.block, self.count, self.offset), self._selected)
        none = no_tokens(q, k)
        return states_from(none | (high < 1), ~none & (low > 0))

    def signature(self, q: Spans, k: Spans) -> list[IntArray]:
        """Where in a block the keys start, and their shape."""
        return [k.low % self.block, k.shape]

    def orders(self) -> tuple[Order, ...]:
        """The keys selected."""
        return (Order("keys", select=self._selected),)
