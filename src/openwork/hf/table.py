"""A boolean tensor as a pattern: the user's literal mask, whose rows and columns are positions."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from openwork.errors import PlanError
from openwork.patterns import Custom, Pattern, PerHead
from openwork.patterns.annotations import BoolArray, IntArray

__all__ = ["pattern_of_mask"]


class _Table:
    """`table[q_pos, kv_pos]` as a function; equal where the tables are equal."""

    def __init__(self, mask: BoolArray) -> None:
        self.mask = mask
        # sums over all rectangles from the first pair on answer for any rectangle at once
        sums = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), dtype=np.int64)
        sums[1:, 1:] = mask.cumsum(axis=0, dtype=np.int64).cumsum(axis=1)
        self._sums = sums
        self._digest = hashlib.blake2b(np.packbits(mask).tobytes(), digest_size=16).digest()

    def __call__(self, q_pos: Any, kv_pos: Any) -> Any:
        q, k = np.asarray(q_pos), np.asarray(kv_pos)
        if max(q.max(initial=-1) - self.mask.shape[0], k.max(initial=-1) - self.mask.shape[1]) >= 0:
            raise PlanError(
                f"the plan is a boolean tensor of {list(self.mask.shape)}, and the model was called with token "
                f"{max(q.max(initial=-1), k.max(initial=-1))}; give a mask of the longest length, or a pattern, which "
                "has none."
            )
        return self.mask[q, k]

    def rectangles(self, q_low: IntArray, q_high: IntArray, kv_low: IntArray, kv_high: IntArray) -> IntArray:
        """0, 1 or 2 for rectangles of positions, as `Custom` asks."""
        rows, columns = self.mask.shape
        q0, q1 = np.clip(q_low, 0, rows), np.clip(q_high + 1, 0, rows)
        k0, k1 = np.clip(kv_low, 0, columns), np.clip(kv_high + 1, 0, columns)
        count = self._sums[q1, k1] - self._sums[q0, k1] - self._sums[q1, k0] + self._sums[q0, k0]
        inside = (q_high < rows) & (kv_high < columns)
        size = (q1 - q0) * (k1 - k0)
        states: IntArray = np.where(count == 0, np.where(inside, 0, 1), np.where((count == size) & inside, 2, 1))
        return states

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Table) and self.mask.shape == other.mask.shape and self._digest == other._digest

    def __hash__(self) -> int:
        return hash((self.mask.shape, self._digest))


class _Rectangles:
    """The table's answer for rectangles, equal where the tables are."""

    def __init__(self, table: _Table) -> None:
        self.table = table

    def __call__(self, *corners: IntArray) -> IntArray:
        return self.table.rectangles(*corners)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Rectangles) and self.table == other.table

    def __hash__(self) -> int:
        return hash(self.table)


def pattern_of_mask(mask: Any) -> Pattern:
    """The pattern of a boolean tensor `[q, k]` or `[heads, q, k]`, True = attend; rows and columns are positions.

    Raises:
        PlanError: It is not boolean, or has another number of dimensions.

    Examples:
        >>> pattern_of_mask(np.tri(4, dtype=bool)).allows(2, 3)
        False
    """
    array = np.asarray(mask.detach().cpu() if hasattr(mask, "detach") else mask)
    if array.dtype != np.bool_:
        raise PlanError(
            f"a mask as a plan is boolean, True = attend; got {array.dtype}. Write `mask == 0` for an additive mask."
        )
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise PlanError(f"a mask as a plan is [q, k] or [heads, q, k]; got shape {list(array.shape)}.")
    if array.ndim == 3:
        return PerHead(*(pattern_of_mask(head) for head in array))
    table = _Table(np.array(array))
    return Custom(table, "mask", rectangles=_Rectangles(table))
