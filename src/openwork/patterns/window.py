"""`Window`: keys within a fixed distance of the query."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from openwork.errors import PatternError
from openwork.patterns.annotations import IntArray
from openwork.patterns.base import Pattern
from openwork.patterns.checks import LARGEST, shown, whole, yes_or_no
from openwork.patterns.rectangles import Spans, States, difference_range, no_tokens, states_from

__all__ = ["Window", "band_signature", "check_sides", "limits_signature"]


@dataclass(frozen=True)
class Window(Pattern):
    """Attend to keys within a fixed distance of the query.

    Query position `i` attends to key positions `j` with `i - before <= j <= i + after`, both ends included, so an
    interior query sees `before + 1 + after` keys. `None` removes the limit on that side.

    Source: local attention; the band of Longformer (arXiv 2004.05150, section 3.1).

    Args:
        before: Keys before the query, not counting its own position. `None` is unlimited.
        after: Keys after the query, not counting its own position. `None` is unlimited.

    Raises:
        PatternError: A side is negative or not an integer, or neither side has a limit.

    Examples:
        Rows are queries, columns are keys:

        >>> from openwork.testing import assert_mask
        >>> assert_mask(Window(before=2, after=0), '''
        ...     # . . . .
        ...     # # . . .
        ...     # # # . .
        ...     . # # # .
        ...     . . # # #
        ... ''')
        >>> [Window(before=2, after=0).allows(3, key) for key in range(5)]
        [False, True, True, True, False]
    """

    before: int | None
    after: int | None = 0

    def __post_init__(self) -> None:
        check_sides(self, "Window", "for all pairs use Dense()")

    @classmethod
    def from_hf(cls, sliding_window: int, *, bidirectional: bool = False) -> Window:
        """The window of a Hugging Face `sliding_window`.

        Its causal overlay is `kv > q - n`: `n` keys with the query's own. Its bidirectional overlay is
        `abs(q - kv) <= n`: `n` on each side and the own, `2 * n + 1` keys. (Some configurations, ModernBERT's
        `local_attention` among them, are halved before they reach the overlay.)

        >>> Window.from_hf(sliding_window=3), Window.from_hf(sliding_window=3, bidirectional=True)
        (Window(before=2, after=0), Window(before=3, after=3))
        """
        if sliding_window is None:
            raise PatternError("sliding_window=None is no window in Hugging Face: use Causal(), or Dense().")
        count = whole("Window.from_hf sliding_window", sliding_window, at_least=1)
        if yes_or_no("Window.from_hf bidirectional", bidirectional):
            return cls(count, count)
        return cls(count - 1, 0)

    @classmethod
    def from_flash_attention(cls, window_size: Sequence[int], *, causal: bool = False) -> Window:
        """The window of FlashAttention's `window_size=(left, right)`; flashinfer and FA4 mean the same.

        The own key is not counted, -1 is unlimited, and `causal=True` makes the right side 0. FlashAttention aligns
        the last query with the last key, as `compile_layout` does by default.

        >>> Window.from_flash_attention((3, -1)), Window.from_flash_attention((3, -1), causal=True)
        (Window(before=3, after=None), Window(before=3, after=0))
        """
        sides = tuple(window_size) if isinstance(window_size, Sequence) else (window_size,)
        if len(sides) != 2:
            raise PatternError(
                f"Window.from_flash_attention window_size must be (left, right); got {shown(window_size)}."
            )
        left, right = (
            _side(f"Window.from_flash_attention window_size {name}", side)
            for name, side in zip(("left", "right"), sides, strict=True)
        )
        if yes_or_no("Window.from_flash_attention causal", causal):
            right = 0
        if left is None and right is None:
            raise PatternError("window_size=(-1, -1) is no window in FlashAttention: use Dense(), or Causal().")
        return cls(left, right)

    @classmethod
    def from_xformers(
        cls, window_size: int | None = None, *, window_left: int | None = None, window_right: int | None = None
    ) -> Window:
        """The window of xformers' local masks, in either of its two conventions.

        `window_size` is that of `LowerTriangularFromBottomRightLocalAttentionMask` and of `make_local_attention`: the
        number of keys with the query's own. `window_left` and `window_right` are those of
        `LocalAttentionFromBottomRightMask`: keys on each side, the own not counted.

        >>> Window.from_xformers(window_size=4), Window.from_xformers(window_left=4, window_right=1)
        (Window(before=3, after=0), Window(before=4, after=1))
        """
        if (window_size is None) == (window_left is None and window_right is None):
            raise PatternError(
                f"Window.from_xformers takes window_size, or window_left and window_right; got "
                f"window_size={window_size!r}, window_left={window_left!r}, window_right={window_right!r}."
            )
        if window_size is not None:
            return cls(whole("Window.from_xformers window_size", window_size, at_least=1) - 1, 0)
        return cls(
            whole("Window.from_xformers window_left", window_left, at_least=0),
            whole("Window.from_xformers window_right", window_right, at_least=0),
        )

    @classmethod
    def from_onnx(
        cls, local_window_size: int | None = None, *, left_window_size: int = -1, right_window_size: int = -1
    ) -> Window:
        """The window of ONNX Attention, opset 25, by either name of its attributes.

        `left_window_size` and `right_window_size` are those of the released operator (onnx 1.23): keys on each side,
        the own not counted, -1 is unlimited. `local_window_size` is the attribute as it was first specified
        (onnx#8108): `0 <= q - kv < n`, that is `n` keys with the own. ONNX Runtime's GroupQueryAttention has a
        `local_window_size` of its own, which does not count the own key: `left_window_size=n, right_window_size=0`.

        >>> Window.from_onnx(local_window_size=4), Window.from_onnx(left_window_size=4, right_window_size=1)
        (Window(before=3, after=0), Window(before=4, after=1))
        """
        left = _side("Window.from_onnx left_window_size", left_window_size)
        right = _side("Window.from_onnx right_window_size", right_window_size)
        if local_window_size is None:
            if left is None and right is None:
                raise PatternError("left_window_size=-1, right_window_size=-1 is no window in ONNX: use Dense().")
            return cls(left, right)
        if not (left is None and right is None):
            raise PatternError(
                f"Window.from_onnx takes local_window_size, or left_window_size and right_window_size; got "
                f"{shown(local_window_size)}, {left_window_size!r} and {right_window_size!r}."
            )
        if isinstance(local_window_size, int) and local_window_size == -1:
            raise PatternError("local_window_size=-1 is no window in ONNX: use Causal().")
        return cls(whole("Window.from_onnx local_window_size", local_window_size, at_least=1) - 1, 0)

    @classmethod
    def from_longformer(cls, attention_window: int) -> Window:
        """The window of Longformer's `attention_window`: half of it on each side, and the own key.

        >>> Window.from_longformer(attention_window=512)
        Window(before=256, after=256)
        """
        width = whole("Window.from_longformer attention_window", attention_window, at_least=2)
        if width % 2:
            raise PatternError(f"Longformer's attention_window must be even; got {width}.")
        return cls(width // 2, width // 2)

    def allows(self, q_pos: Any, kv_pos: Any) -> Any:
        """Whether `q_pos - before <= kv_pos <= q_pos + after`."""
        offset = kv_pos - q_pos
        if self.before is None:
            return offset <= self.after
        if self.after is None:
            return offset >= -self.before
        return (offset >= -self.before) & (offset <= self.after)

    def states(self, q: Spans, k: Spans) -> States:
        """Exact for every pair of ranges: every distance between the extremes' ends is judged by its ends."""
        low, high = difference_range(q, k)  # of q - k
        empty = no_tokens(q, k)
        full = ~empty
        if self.before is not None:
            empty, full = empty | (low > self.before), full & (high <= self.before)
        if self.after is not None:
            empty, full = empty | (high < -self.after), full & (low >= -self.after)
        return states_from(empty, full)

    def signature(self, q: Spans, k: Spans) -> list[IntArray]:
        """The distance of the two blocks; for scattered keys, how many stand before each limit."""
        return band_signature(q, k, self.before, self.after)


def _side(argument: str, value: Any) -> int | None:
    """One side of a window where -1 is unlimited."""
    if isinstance(value, int | np.integer) and value == -1:
        return None
    return whole(argument, value, at_least=0, remedy="-1 is unlimited.")


def check_sides(pattern: Any, owner: str, remedy: str) -> None:
    """Check the `before` and `after` of a pattern, and store them as Python ints."""
    for side in ("before", "after"):
        value = getattr(pattern, side)
        if value is None:
            continue
        try:
            number = -2 if isinstance(value, bool | np.bool_) else operator.index(value)
        except TypeError:
            number = -2
        if number < 0:
            hint = " (FlashAttention writes unlimited as -1; here it is None.)" if number == -1 else ""
            raise PatternError(f"{owner} {side} must be 0 or more, or None for unlimited; got {shown(value)}.{hint}")
        if number > LARGEST:
            raise PatternError(
                f"{owner} {side} must be {LARGEST:,} or less, or None for unlimited; got {shown(number)}."
            )
        object.__setattr__(pattern, side, number)
    if pattern.before is None and pattern.after is None:
        raise PatternError(f"{owner} needs a limit on one side at least; {remedy}.")


def band_signature(q: Spans, k: Spans, before: int | None, after: int | None) -> list[IntArray]:
    """Signature of `q - before <= k <= q + after`, also for scattered keys.

    Only blocks that a limit crosses differently for different queries depend on the distance and on both shapes.
    """
    shifts = [
        shift
        for shift in (None if before is None else -before, None if after is None else after + 1)
        if shift is not None
    ]
    return limits_signature(k, [(q.low + shift, q.high + shift) for shift in shifts], [q.low - k.low, q.shape, k.shape])


def limits_signature(k: Spans, limits: list[tuple[IntArray, IntArray]], otherwise: list[IntArray]) -> list[IntArray]:
    """Signature of a pattern whose queries see the keys between limits that never fall as the query moves on.

    Where no key of a block stands between the limit of its first and of its last query, all queries see the same
    keys, and their number says which.

    Args:
        k: Key side of the rectangles.
        limits: For each limit, its value for the first and for the last query of each block.
        otherwise: Columns that fix the bitmask of every other block.
    """
    mixed = ~k.ordered
    counts: list[IntArray] = []
    for at_low, at_high in limits:
        first = k.count_below(at_low)
        mixed = mixed | (first != k.count_below(at_high))
        counts.append(first)
    return [
        mixed.astype(np.int64),
        *(np.where(mixed, column, 0) for column in otherwise),
        *(np.where(mixed, 0, count) for count in counts),
    ]
