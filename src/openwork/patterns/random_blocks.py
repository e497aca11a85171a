"""`RandomBlocks`: a few blocks of keys drawn by a stated function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from openwork.patterns.annotations import BoolArray, IntArray
from openwork.patterns.base import Pattern, smaller, zero_or_more
from openwork.patterns.chance import hash32
from openwork.patterns.checks import LARGEST, whole
from openwork.patterns.rectangles import EMPTY, FULL, PARTIAL, Spans, States, no_tokens

__all__ = ["RandomBlocks"]

_MOST_SLOTS = 4096
"""Blocks drawn for a row: every pair asks about every slot."""
_FEW_ROWS = 16
"""Rectangles of up to this many query blocks are always tested slot by slot."""
_MOST_ROWS = 1 << 21
"""Query blocks looked up at once for larger ones; beyond that the compiler splits them anyway."""
_MASK_BITS = 62
"""Block pairs of one rectangle that fit into one number of its signature."""


@dataclass(frozen=True)
class RandomBlocks(Pattern):
    """Attend to `count` blocks of keys drawn at random for each block of queries.

    With `i, j = q_pos // block, kv_pos // block`, the candidates C of query block `i` are the key blocks `j` in
    `[skip_first, i - skip_near)`, ascending; with `num_blocks` (bidirectional) those in `[skip_first, num_blocks)`
    with `|i - j| > skip_near`. C is cut into `count` equal stretches and slot `t` draws one block of its own:
    `C[lo + hash(seed, i, t) % (hi - lo)]` with `lo = t * len(C) // count`, `hi = (t + 1) * len(C) // count`, and
    nothing where `hi == lo`. The hash is `openwork.patterns.chance.hash32`.

    Source: the random blocks of BigBird (Zaheer et al. 2020, arXiv 2007.14062). Its code draws a permutation of
    all candidates from a global generator when the model is built; here one block is drawn from each of `count`
    stretches by a stated function, so a drawn block depends on its own row only: without `num_blocks` the pattern
    of a text does not change as the text grows, and no draw repeats.

    Args:
        block: Positions in a block.
        count: Blocks drawn for each block of queries.
        seed: Up to 64 bits; other heads may take other seeds.
        skip_first: Blocks at the start of the sequence that are not drawn.
        skip_near: Blocks next to the query's own, before it (and with `num_blocks` after it), that are not drawn.
            The own block is never drawn.
        num_blocks: Number of blocks of the sequence, for drawing in both directions; `None` draws from the past.

    Raises:
        PatternError: A value is out of range.

    Examples:
        >>> from openwork.testing import assert_mask
        >>> assert_mask(RandomBlocks(block=1, count=2, seed=0), '''
        ...     . . . . . . . .
        ...     # . . . . . . .
        ...     # # . . . . . .
        ...     # . # . . . . .
        ...     # . . # . . . .
        ...     # . . # . . . .
        ...     . . # # . . . .
        ...     . # . # . . . .
        ... ''')
    """

    block: int
    count: int
    seed: int
    skip_first: int = 0
    skip_near: int = 0
    num_blocks: int | None = None

    def __post_init__(self) -> None:
        least = {"block": 1, "count": 1, "seed": 0, "skip_first": 0, "skip_near": 0}
        most = {"count": _MOST_SLOTS, "seed": 2**64 - 1}
        for name in least:
            number = whole(
                f"RandomBlocks {name}", getattr(self, name), at_least=least[name], at_most=most.get(name, LARGEST)
            )
            object.__setattr__(self, name, number)
        if self.num_blocks is not None:
            number = whole(
                "RandomBlocks num_blocks", self.num_blocks, at_least=1, remedy="None draws from the past alone."
            )
            object.__setattr__(self, "num_blocks", number)

    def _slot(self, i: Any, t: int) -> tuple[Any, Any]:
        """The key block that slot `t` of query block `i` draws, and whether there is one; plain operators only."""
        left = zero_or_more(i - self.skip_near - self.skip_first)
        beyond = i * 0
        if self.num_blocks is not None:
            left = smaller(left, zero_or_more(beyond + self.num_blocks - self.skip_first))
            beyond = self.skip_first + zero_or_more(i + self.skip_near + 1 - self.skip_first)
            length = left + zero_or_more(self.num_blocks - beyond)
        else:
            length = left
        low, high = t * length // self.count, (t + 1) * length // self.count
        width = high - low
        some = width > 0
        draw = low + hash32(self.seed, i, t) % (width + (width == 0))
        return self.skip_first + draw + (draw >= left) * (beyond - left - self.skip_first), some

    def allows(self, q_pos: Any, kv_pos: Any) -> Any:
        """Whether the key's block was drawn for the query's block."""
        i, j = q_pos // self.block, kv_pos // self.block
        drawn, some = self._slot(i, 0)
        allowed = (j == drawn) & some
        for t in range(1, self.count):
            drawn, some = self._slot(i, t)
            allowed = allowed | ((j == drawn) & some)
        return allowed

    def _table(self, rows: IntArray) -> IntArray:
        """Key blocks drawn for each row of query blocks, `[rows, count]`; -1 where a slot draws nothing."""
        slots = [np.where(some, drawn, -1) for drawn, some in (self._slot(rows, t) for t in range(self.count))]
        return np.stack(slots, axis=1) if len(rows) else np.zeros((0, self.count), dtype=np.int64)

    def states(self, q: Spans, k: Spans) -> States:
        """Exact for contiguous sets: the draws of all their query blocks are looked up."""
        i_low, i_high = q.low // self.block, q.high // self.block
        j_low, j_high = k.low // self.block, k.high // self.block
        states = np.full(len(i_low), PARTIAL, dtype=np.int8)
        states[no_tokens(q, k) | (j_high < self.skip_first) | self._out_of_reach(i_low, i_high, j_low, j_high)] = EMPTY
        tested = np.flatnonzero(states != EMPTY)
        rows, which = np.unique(np.stack([i_low[tested], i_high[tested]]), axis=1, return_inverse=True)
        tall = rows[1] - rows[0] + 1
        if tall.sum() > _MOST_ROWS:
            few = tall <= _FEW_ROWS
            tested, which = tested[few[which]], (np.cumsum(few) - 1)[which[few[which]]]
            rows = rows[:, few]
        if len(tested):
            states[tested] = self._looked_up(rows, which, j_low[tested], j_high[tested])
        return states

    def _out_of_reach(self, i_low: IntArray, i_high: IntArray, j_low: IntArray, j_high: IntArray) -> BoolArray:
        if self.num_blocks is None:
            return j_low >= i_high - self.skip_near
        near = np.maximum(i_high - j_low, j_high - i_low) <= self.skip_near
        return np.asarray(near | (j_low >= self.num_blocks))

    def _looked_up(self, rows: IntArray, which: IntArray, j_low: IntArray, j_high: IntArray) -> States:
        """States of rectangles: `rows[:, which[n]]` are the first and last query block of rectangle `n`."""
        tall = rows[1] - rows[0] + 1
        group = np.repeat(np.arange(len(tall)), tall)
        row = np.arange(len(group)) - np.repeat(np.cumsum(tall) - tall, tall) + rows[0][group]
        distinct, place = np.unique(row, return_inverse=True)
        drawn = self._table(distinct)[place]
        beyond = int(drawn.max(initial=0)) + 1
        # one sorted list of all draws, those of each group of rows in a stretch of their own
        listed = np.sort((group[:, None] * (beyond + 1) + drawn)[drawn >= 0])
        base = which * (beyond + 1)
        stop = np.searchsorted(listed, base + np.minimum(j_high, beyond), side="right")
        hits = stop - np.searchsorted(listed, base + np.minimum(j_low, beyond), side="left")
        # the slots of a row never repeat a block, so only full rows add up to the whole rectangle
        full = hits == tall[which] * (j_high - j_low + 1)
        return np.where(full, FULL, np.where(hits > 0, PARTIAL, EMPTY)).astype(np.int8)

    def signature(self, q: Spans, k: Spans) -> list[IntArray]:
        """Which block pairs of the rectangle were drawn, and where in their blocks the tokens start."""
        i_low, j_low = q.low // self.block, k.low // self.block
        tall, wide = q.high // self.block - i_low + 1, k.high // self.block - j_low + 1
        small = ~no_tokens(q, k) & (tall <= _FEW_ROWS) & (wide <= _MASK_BITS) & (tall * wide <= _MASK_BITS)
        bits = np.zeros(len(i_low), dtype=np.int64)
        rows = np.unique(i_low[small])
        for step in range(int(tall[small].max()) if small.any() else 0):
            table = self._table(rows + step)
            here = np.flatnonzero(small & (step < tall))
            drawn = table[np.searchsorted(rows, i_low[here])] - j_low[here, None]
            inside = (drawn >= 0) & (drawn < wide[here, None])
            # slots of a row never repeat a block, so a sum of powers is a union of bits
            shift = np.where(inside, drawn + step * wide[here, None], 0)
            bits[here] += np.where(inside, np.left_shift(np.int64(1), shift), 0).sum(axis=1)
        return [
            np.where(small, bits, -1),
            np.where(small, wide, 0),
            np.where(small, q.low % self.block, q.low),
            np.where(small, k.low % self.block, k.low),
            q.shape,
            k.shape,
        ]
