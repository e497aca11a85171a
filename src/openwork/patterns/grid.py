"""`Grid`: neighbourhoods in an image, a video or a sequence, as NATTEN defines them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import numpy as np

from openwork.errors import PatternError
from openwork.patterns.annotations import BoolArray, IntArray
from openwork.patterns.base import Pattern, smaller, zero_or_more
from openwork.patterns.checks import LARGEST, per_axis, shown, whole
from openwork.patterns.rectangles import EMPTY, Order, Spans, States, Tokens, TokensFunction, no_tokens, states_from

__all__ = ["Grid", "Raster"]

_LONGEST_AXIS = 2**24
"""Longest axis of a grid: the compiler keeps a few numbers for each coordinate."""
_TILES = {1: (64,), 2: (8, 8), 3: (4, 4, 4)}
"""Tile of 64 tokens, by number of axes."""


@dataclass(frozen=True)
class Raster:
    """Tokens of a grid in row-major order, after `offset` others; what `Grid` and `Axis` share."""

    shape: tuple[int, ...]
    offset: int

    @classmethod
    def of(cls, owner: str, shape: Any, offset: Any) -> Raster:
        """Checks the arguments of pattern `owner`."""
        try:
            lengths = (shape,) if isinstance(shape, str) else tuple(shape)
        except TypeError:  # a number, a tensor of one number among them
            lengths = (shape,)
        if not 1 <= len(lengths) <= 3:
            raise PatternError(f"{owner} shape must have 1 to 3 axes; got {shown(shape)}.")
        raster = cls(
            tuple(whole(f"{owner} shape", length, at_least=1, at_most=_LONGEST_AXIS) for length in lengths),
            whole(f"{owner} offset", offset, at_least=0),
        )
        if raster.offset + raster.size > LARGEST:
            raise PatternError(
                f"{owner} shape must hold {LARGEST:,} tokens or fewer, its offset included; got {shown(shape)}."
            )
        return raster

    @property
    def size(self) -> int:
        """Tokens of the grid."""
        return math.prod(self.shape)

    @property
    def steps(self) -> tuple[int, ...]:
        """Tokens between neighbours along each axis."""
        return tuple(math.prod(self.shape[axis + 1 :]) for axis in range(len(self.shape)))

    def inside(self, position: Any) -> Any:
        """Whether the token is one of the grid's."""
        return (position >= self.offset) & (position < self.offset + self.size)

    def coordinate(self, position: Any, axis: int) -> Any:
        """Coordinate along `axis`; without meaning outside the grid."""
        return (position - self.offset) // self.steps[axis] % self.shape[axis]

    def clipped(self, axis: int) -> TokensFunction:
        """Coordinate of the nearest token of the grid, so that ranges are right for mixed sets too."""
        return lambda tokens: self.coordinate(np.clip(tokens.position, self.offset, self.offset + self.size - 1), axis)

    def all_inside(self, side: Spans) -> BoolArray:
        """Whether every token of the set is one of the grid's."""
        return (side.low >= self.offset) & (side.high < self.offset + self.size)

    def none_inside(self, side: Spans) -> BoolArray:
        """Whether all tokens of the set stand before the grid, or all after it."""
        return (side.high < self.offset) | (side.low >= self.offset + self.size)


@dataclass(frozen=True, init=False)
class Grid(Pattern):
    """Attend to the neighbourhood of the query in a grid of 1 to 3 axes, row by row in the sequence.

    Along each axis of length `L`, with `kernel` K and `dilation` D, a query at coordinate `x` sees keys at
    coordinates `y` with `y % D == x % D`. Among those, counted by `p = x // D` of `G = ceil((L - x % D) / D)`, it
    sees K: from `start = min(max(p - K // 2, 0), G - K)` to `start + K - 1`. The window moves inwards at the edges
    and never shrinks. On a causal axis it sees `p - K + 1` to `p` instead, and fewer at the start. A key is seen when
    all axes agree. The first `offset` tokens (class, registers) and those after the grid match nothing.

    Source: neighbourhood attention (Hassani et al. 2022, arXiv 2204.07143), dilated (2209.15001); the edge rule and
    causal axes are those of the NATTEN library, even kernels reach `K // 2` back. Where the first paper and the
    library differ on even kernels, this follows the library.

    Args:
        shape: Length of each axis; the last one is contiguous in the sequence.
        kernel: Keys seen along each axis.
        dilation: Distance between them.
        causal: Whether an axis looks back only.
        offset: Tokens before the grid.

    `kernel`, `dilation` and `causal` are given once for all axes, or for each.

    Raises:
        PatternError: A value is out of range, or a kernel times its dilation exceeds an axis.

    Examples:
        >>> from openwork.testing import assert_mask
        >>> assert_mask(Grid(6, kernel=3), '''
        ...     # # # . . .
        ...     # # # . . .
        ...     . # # # . .
        ...     . . # # # .
        ...     . . . # # #
        ...     . . . # # #
        ... ''')
        >>> assert_mask(Grid((2, 4), kernel=(2, 3), causal=(True, False)), '''
        ...     # # # . . . . .
        ...     # # # . . . . .
        ...     . # # # . . . .
        ...     . # # # . . . .
        ...     # # # . # # # .
        ...     # # # . # # # .
        ...     . # # # . # # #
        ...     . # # # . # # #
        ... ''')
    """

    shape: tuple[int, ...]
    kernel: tuple[int, ...]
    dilation: tuple[int, ...] = (1,)
    causal: tuple[bool, ...] = (False,)
    offset: int = 0

    def __init__(
        self,
        shape: int | Sequence[int],
        kernel: int | Sequence[int],
        dilation: int | Sequence[int] = 1,
        causal: bool | Sequence[bool] = False,
        offset: int = 0,
    ) -> None:
        raster = Raster.of("Grid", shape, offset)
        axes = len(raster.shape)
        kernels = per_axis("Grid kernel", kernel, axes, at_least=1)
        dilations = per_axis("Grid dilation", dilation, axes, at_least=1)
        causals = tuple(causal) if isinstance(causal, Sequence) else (causal,) * axes
        if len(causals) != axes or not all(isinstance(each, bool | np.bool_) for each in causals):
            raise PatternError(
                f"Grid causal must be True or False, once or for each of {axes} axes; got {shown(causal)}."
            )
        for axis, (length, size, step) in enumerate(zip(raster.shape, kernels, dilations, strict=True)):
            if size * step > length:
                raise PatternError(
                    f"Grid kernel={size} with dilation={step} does not fit axis {axis} of length {length}; "
                    f"kernel * dilation may be {length} at most."
                )
        for name, value in (
            ("shape", raster.shape),
            ("kernel", kernels),
            ("dilation", dilations),
            ("causal", tuple(map(bool, causals))),
            ("offset", raster.offset),
        ):
            object.__setattr__(self, name, value)

    @classmethod
    def from_natten(
        cls,
        shape: int | Sequence[int],
        kernel_size: int | Sequence[int],
        *,
        dilation: int | Sequence[int] = 1,
        stride: int | Sequence[int] = 1,
        is_causal: bool | Sequence[bool] = False,
    ) -> Grid:
        """The neighbourhood of NATTEN's `na1d`, `na2d` and `na3d`, in their words.

        Args:
            shape: Lengths of the axes of NATTEN's tensors, which it reads from them.
            kernel_size: As in NATTEN.
            dilation: As in NATTEN.
            stride: 1 only: larger strides share one window among queries, which no pattern here does.
            is_causal: As in NATTEN.

        Examples:
            >>> Grid.from_natten((8, 8), kernel_size=3, is_causal=(True, False))
            Grid(shape=(8, 8), kernel=(3, 3), dilation=(1, 1), causal=(True, False), offset=0)
        """
        axes = len(Raster.of("Grid.from_natten", shape, 0).shape)
        if set(per_axis("Grid.from_natten stride", stride, axes, at_least=1)) != {1}:
            raise PatternError(
                f"Grid.from_natten reads stride=1 only; got {shown(stride)}. A mask of your own is a layout: "
                f"BlockLayout.from_mask."
            )
        return cls(shape, kernel_size, dilation, is_causal)

    @cached_property
    def _raster(self) -> Raster:
        return Raster(self.shape, self.offset)

    @property
    def _axes(self) -> range:
        return range(len(self.shape))

    def _start(self, x: Any, axis: int) -> Any:
        """First key seen along an axis, counted within the query's dilation group; plain operators only."""
        kernel, dilation = self.kernel[axis], self.dilation[axis]
        place = x // dilation
        if self.causal[axis]:
            return place - kernel + 1
        group = (self.shape[axis] - x % dilation + dilation - 1) // dilation
        return smaller(zero_or_more(place - kernel // 2), group - kernel)

    def allows(self, q_pos: Any, kv_pos: Any) -> Any:
        """Whether the key is in the query's neighbourhood along every axis."""
        allowed = self._raster.inside(q_pos) & self._raster.inside(kv_pos)
        for axis in self._axes:
            x, y = self._raster.coordinate(q_pos, axis), self._raster.coordinate(kv_pos, axis)
            dilation = self.dilation[axis]
            start = self._start(x, axis)
            seen = (y // dilation >= start) & (y // dilation < start + self.kernel[axis])
            if dilation > 1:
                seen = seen & (y % dilation == x % dilation)
            allowed = allowed & seen
        return allowed

    def _extent(self, side: Spans, axis: int) -> tuple[IntArray, IntArray]:
        raster = self._raster
        return side.range_of(("coordinate", raster.shape, raster.offset, axis), raster.clipped(axis))

    def _group(self, side: Spans, axis: int) -> tuple[IntArray, IntArray]:
        raster, dilation = self._raster, self.dilation[axis]
        of = raster.clipped(axis)
        return side.range_of(
            ("coordinate group", raster.shape, raster.offset, axis, dilation), lambda tokens: of(tokens) % dilation
        )

    def states(self, q: Spans, k: Spans) -> States:
        """By the box around each set; exact where the sets are boxes."""
        none = no_tokens(q, k)
        inside = self._raster.all_inside(q) & self._raster.all_inside(k)
        states = states_from(none | self._raster.none_inside(q) | self._raster.none_inside(k), inside & ~none)
        here = np.flatnonzero(states != EMPTY)  # sets without tokens have no coordinates
        for axis in self._axes:
            sides = [*self._extent(q, axis), *self._extent(k, axis)]
            groups = [*self._group(q, axis), *self._group(k, axis)] if self.dilation[axis] > 1 else None
            answer = self._axis_states(axis, [s[here] for s in sides], groups and [g[here] for g in groups])
            states[here] = np.minimum(states[here], answer)
        return states

    def _axis_states(self, axis: int, sides: list[IntArray], groups: list[IntArray] | None) -> States:
        q_low, q_high, k_low, k_high = sides
        first, last, reach_first, reach_last = self._windows[axis]
        # queries still to come have no known coordinates: any on the axis
        q_low, q_high = np.maximum(q_low, 0), np.minimum(q_high, self.shape[axis] - 1)
        empty = (k_high < reach_first[q_low]) | (k_low > reach_last[q_high])
        # within one dilation group windows move monotonically, so the ends decide
        full = (k_low >= first[q_high]) & (k_high <= last[q_low])
        if groups is not None:
            q_least, q_most, k_least, k_most = groups
            empty |= (q_most < k_least) | (k_most < q_least)
            full &= (q_least == q_most) & (k_least == k_most) & (q_least == k_least)
        return states_from(empty, full)

    @cached_property
    def _windows(self) -> list[tuple[IntArray, IntArray, IntArray, IntArray]]:
        """For each axis, the first and last coordinate that each sees, and any from it on, or up to it, sees."""
        windows = []
        for axis in self._axes:
            x = np.arange(self.shape[axis])
            first = self._start(x, axis) * self.dilation[axis] + x % self.dilation[axis]
            last = first + (self.kernel[axis] - 1) * self.dilation[axis]
            windows.append((first, last, np.minimum.accumulate(first[::-1])[::-1], np.maximum.accumulate(last)))
        return windows

    def signature(self, q: Spans, k: Spans) -> list[IntArray]:
        """The boxes' distance, where in them the blocks start, and how near the edges are; translation-invariant."""
        raster = self._raster
        inside = raster.all_inside(q) & raster.all_inside(k)
        columns = [inside.astype(np.int64), q.shape, k.shape]
        columns += [np.where(inside, 0, side.low) for side in (q, k)]
        for axis in self._axes:
            (q_low, q_high), (k_low, _) = self._extent(q, axis), self._extent(k, axis)
            # relative to the box, a shape of positions and its first token fix all coordinates
            starts = [raster.coordinate(side.low, axis) - low for side, low in ((q, q_low), (k, k_low))]
            reach = self.kernel[axis] * self.dilation[axis]
            interior = (q_low >= reach) & (q_high < self.shape[axis] - reach)
            edge = np.where(interior | self.causal[axis], -1, q_low)
            columns += [np.where(inside, column, 0) for column in (*starts, q_low - k_low, edge)]
            if self.dilation[axis] > 1:
                columns.append(np.where(inside, q_low % self.dilation[axis], 0))
        return columns

    def orders(self) -> tuple[Order, ...]:
        """Sorted by tiles of 64 tokens, within each dilation group; a sequence without dilation is a band."""
        if len(self.shape) == 1 and self.dilation == (1,):
            return ()
        # counted: aligned tiles execute up to a quarter less where tiles are cut at the edges, and more where small
        # dilation groups would be padded; whole tiles of 64 fit blocks of 64 by themselves
        cut = any(length % tile for length, tile in zip(self.shape, _TILES[len(self.shape)], strict=True))
        align = cut and set(self.dilation) == {1}
        return (Order("sort", sort_queries=self._tile, sort_keys=self._tile, align=align),)

    def _tile(self, tokens: Tokens) -> IntArray:
        raster = self._raster
        groups, tiles = [], []
        for axis, tile in zip(self._axes, _TILES[len(self.shape)], strict=True):
            x, dilation = raster.coordinate(tokens.position, axis), self.dilation[axis]
            groups.append((x % dilation, dilation))
            tiles.append((x // dilation // tile, -(-self.shape[axis] // (dilation * tile))))
        number = reduce(lambda total, part: total * part[1] + part[0], groups + tiles, np.int64(0))
        return np.where(raster.inside(tokens.position), number, -1)
