"""`Chunk`: the query's own chunk, and its neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from openwork.patterns.annotations import IntArray
from openwork.patterns.base import Pattern
from openwork.patterns.checks import whole
from openwork.patterns.rectangles import Spans, States, no_tokens, states_from
from openwork.patterns.window import Window, check_sides, limits_signature

__all__ = ["Chunk"]


@dataclass(frozen=True)
class Chunk(Pattern):
    """Attend to the keys of the query's own chunk of positions, and of chunks beside it.

    Query position `i` attends to key positions `j` with `i // size - before <= j // size <= i // size + after`.
    Nothing crosses the border of the chunks, so neighbours may be far apart in what they see.

    Source: block-local attention (Blockwise, Qiu et al. 2019, arXiv 1911.02972); the chunked layers of Llama 4
    (there causal, `size=8192`).

    Args:
        size: Positions in a chunk.
        before: Chunks before the query's own. `None` is unlimited.
        after: Chunks after the query's own. `None` is unlimited.

    Raises:
        PatternError: The size is not an integer of 1 or more, a side is negative, or neither side has a limit.

    Examples:
        >>> from openwork.testing import assert_mask
        >>> assert_mask(Chunk(2), '''
        ...     # # . . . .
        ...     # # . . . .
        ...     . . # # . .
        ...     . . # # . .
        ...     . . . . # #
        ...     . . . . # #
        ... ''')
        >>> assert_mask(Chunk(2, before=1), '''
        ...     # # . . . .
        ...     # # . . . .
        ...     # # # # . .
        ...     # # # # . .
        ...     . . # # # #
        ...     . . # # # #
        ... ''')
    """

    size: int
    before: int | None = 0
    after: int | None = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", whole("Chunk size", self.size, at_least=1))
        check_sides(self, "Chunk", "for all pairs use Dense()")

    def allows(self, q_pos: Any, kv_pos: Any) -> Any:
        """Whether the key's chunk is at most `before` chunks before and `after` chunks after the query's."""
        return Window(self.before, self.after).allows(q_pos // self.size, kv_pos // self.size)

    def states(self, q: Spans, k: Spans) -> States:
        """Exact for contiguous sets: the chunks of the first and the last token decide."""
        low = q.low // self.size - k.high // self.size
        high = q.high // self.size - k.low // self.size
        empty = no_tokens(q, k)
        full = ~empty
        if self.before is not None:
            empty, full = empty | (low > self.before), full & (high <= self.before)
        if self.after is not None:
            empty, full = empty | (high < -self.after), full & (low >= -self.after)
        return states_from(empty, full)

    def signature(self, q: Spans, k: Spans) -> list[IntArray]:
        """How many keys stand before each limit; else where the blocks start in a chunk, and their distance."""
        shifts = [] if self.before is None else [-self.before]
        shifts += [] if self.after is None else [self.after + 1]
        limits = [((q.low // self.size + s) * self.size, (q.high // self.size + s) * self.size) for s in shifts]
        otherwise = [q.low % self.size, q.low - k.low, q.shape, k.shape]
        return limits_signature(k, limits, otherwise)
