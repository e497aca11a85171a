"""`Dilated`: a window with gaps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from openwork.patterns.annotations import IntArray
from openwork.patterns.base import Pattern
from openwork.patterns.checks import whole
from openwork.patterns.rectangles import EMPTY, Order, Spans, States, difference_range
from openwork.patterns.strided import residue, stride_states
from openwork.patterns.window import Window, band_signature, check_sides

__all__ = ["Dilated"]


@dataclass(frozen=True)
class Dilated(Pattern):
    """Attend to every `step`-th key of a window around the query.

    Query position `i` attends to key positions `j` with `i - before <= j <= i + after` and
    `(i - j) % step == 0`. The window is counted in positions, not in visible keys: an interior query sees
    `before // step + 1 + after // step` keys.

    Source: the dilated sliding window of Longformer (Beltagy et al. 2020, arXiv 2004.05150, figure 2c). Longformer
    counts visible keys on each side; `n` of them are `before=n * step` here.

    Args:
        before: Positions before the query, not counting its own. `None` is unlimited.
        after: Positions after the query, not counting its own. `None` is unlimited.
        step: Distance between visible keys, 1 or more.

    Raises:
        PatternError: A side is negative, neither side has a limit, or the step is not an integer of 1 or more.

    Examples:
        >>> from openwork.testing import assert_mask
        >>> assert_mask(Dilated(before=4, step=2), '''
        ...     # . . . . .
        ...     . # . . . .
        ...     # . # . . .
        ...     . # . # . .
        ...     # . # . # .
        ...     . # . # . #
        ... ''')
    """

    before: int | None
    after: int | None = 0
    step: int = field(kw_only=True)

    def __post_init__(self) -> None:
        check_sides(self, "Dilated", "for every key a step away use Strided(step)")
        object.__setattr__(self, "step", whole("Dilated step", self.step, at_least=1))

    @property
    def _window(self) -> Window:
        return Window(self.before, self.after)

    def allows(self, q_pos: Any, kv_pos: Any) -> Any:
        """Whether the key is in the window and a whole number of steps away."""
        return self._window.allows(q_pos, kv_pos) & ((q_pos - kv_pos) % self.step == 0)

    def states(self, q: Spans, k: Spans) -> States:
        """Exact for contiguous sets; elsewhere by the window and by the ranges of residues."""
        low, high = difference_range(q, k)
        if self.before is not None:
            high = np.minimum(high, self.before)
        if self.after is not None:
            low = np.maximum(low, -self.after)
        states = np.minimum(self._window.states(q, k), stride_states(q, k, self.step))
        states[high // self.step * self.step < low] = EMPTY
        return states

    def signature(self, q: Spans, k: Spans) -> list[IntArray]:
        """The window's, and the distance of the blocks within a step."""
        return [*band_signature(q, k, self.before, self.after), (q.low - k.low) % self.step, q.shape, k.shape]

    def orders(self) -> tuple[Order, ...]:
        """Sorted by residue, where the window becomes a band."""
        of = residue(self.step)
        return (Order("sort", sort_queries=of, sort_keys=of),)
