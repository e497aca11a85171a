"""One side of a part: tokens in an order, cut into blocks, with a pyramid of ranges above them.

Level 0 of the pyramid is the blocks, and a node of level `l + 1` is `FAN` consecutive nodes of level `l`. Whatever a
pattern asks of a set of tokens (`Spans`) is a smallest and largest value, so each question costs one pass over the
tokens and is then known for every node of every level.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from openwork.layout.data import Int32Array
from openwork.layout.tokens import SideTokens, TokenView
from openwork.patterns.annotations import BoolArray, IntArray
from openwork.patterns.rectangles import TokensFunction

__all__ = ["FAN", "NodeSpans", "Side"]

FAN = 4
_HUGE = np.iinfo(np.int64).max


class Side:
    """Tokens of one side in an order, and what is known of each node of the pyramid.

    Args:
        tokens: All tokens of the side.
        order: int32 `[blocks * block]`, rows of the tokens; -1 pads.
        block: Tokens in a block.
    """

    def __init__(self, tokens: SideTokens, order: Int32Array, block: int) -> None:
        self.tokens = tokens
        self.order = order
        self.block = block
        self.blocks = len(order) // block
        slots = tokens.view(order)
        self._slots = slots
        self.valid: BoolArray = (order >= 0) & (slots.position >= 0)
        self.whole = bool(self.valid.all())
        self._pyramids: dict[Hashable, list[tuple[IntArray, IntArray]]] = {}
        self._contents: dict[Hashable, IntArray] = {}

    @cached_property
    def position(self) -> IntArray:
        """int64 `[blocks, block]`: positions in the order; padding and pads hold whatever."""
        return self._slots.position.reshape(self.blocks, self.block)

    @cached_property
    def depth(self) -> int:
        """Levels above the blocks until one node is left."""
        depth, nodes = 0, self.blocks
        while nodes > 1:
            depth, nodes = depth + 1, -(-nodes // FAN)
        return depth

    def nodes(self, level: int) -> int:
        """Number of nodes at `level`; 1 above the top."""
        nodes = self.blocks
        for _ in range(min(level, self.depth)):
            nodes = -(-nodes // FAN)
        return max(nodes, 1)

    def pyramid(self, key: Hashable, of: TokensFunction | None, values: IntArray | None = None) -> Any:
        """Smallest and largest value in each node, a pair of arrays for each level."""
        if key not in self._pyramids:
            if values is None:
                assert of is not None
                values = np.broadcast_to(np.asarray(of(self._slots), dtype=np.int64), self.order.shape)
            self._pyramids[key] = self._reduce(values.reshape(self.blocks, self.block))
        return self._pyramids[key]

    def _reduce(self, values: IntArray) -> list[tuple[IntArray, IntArray]]:
        if self.whole:
            low, high = values.min(axis=1), values.max(axis=1)
        else:
            valid = self.valid.reshape(values.shape)
            low = np.where(valid, values, _HUGE).min(axis=1)
            high = np.where(valid, values, -_HUGE).max(axis=1)
        levels = [(low, high)]
        for _ in range(self.depth):
            missing = -len(low) % FAN
            low = np.pad(low, (0, missing), constant_values=_HUGE).reshape(-1, FAN).min(axis=1)
            high = np.pad(high, (0, missing), constant_values=-_HUGE).reshape(-1, FAN).max(axis=1)
            levels.append((low, high))
        return levels

    def _runs(self, key: str, breaks: npt.NDArray[np.bool_]) -> Any:
        """Pyramid of run numbers: a node is unbroken where its smallest run number is its largest."""
        numbers = np.zeros(len(self.order), dtype=np.int64)
        numbers[self.valid] = np.concatenate([[0], np.cumsum(breaks)]) if self.valid.any() else 0
        return self.pyramid(("runs", key), None, numbers)

    @cached_property
    def contiguous(self) -> Any:
        """Pyramid of runs in which each position is the one before it plus 1."""
        positions = self.position.reshape(-1)[self.valid]
        return self._runs("contiguous", positions[1:] != positions[:-1] + 1)

    @cached_property
    def ascending(self) -> Any:
        """Pyramid of runs in which positions ascend."""
        positions = self.position.reshape(-1)[self.valid]
        return self._runs("ascending", positions[1:] <= positions[:-1])

    @cached_property
    def valid_bits(self) -> IntArray:
        """int64 `[blocks]`: equal where the same slots hold valid tokens; 0 where all do."""
        if self.whole:
            return np.zeros(self.blocks, dtype=np.int64)
        return _row_numbers(self.valid.reshape(self.blocks, self.block), plain=self.valid_count == self.block)

    @cached_property
    def valid_count(self) -> IntArray:
        """int64 `[blocks]`: valid tokens in each block."""
        count: IntArray = self.valid.reshape(self.blocks, self.block).sum(axis=1)
        return count

    @cached_property
    def pyramid_of_pads(self) -> tuple[list[BoolArray], list[BoolArray]]:
        """For each level: nodes with a slot that is not a valid token, and nodes with a padding token."""
        result: list[list[BoolArray]] = []
        for slots in (~self.valid, ~self.valid & (self.order >= 0)):
            some: BoolArray = np.any(slots.reshape(self.blocks, self.block), axis=1)
            levels = [some]
            for _ in range(self.depth):
                some = np.any(np.pad(some, (0, -len(some) % FAN)).reshape(-1, FAN), axis=1)
                levels.append(some)
            result.append(levels)
        return result[0], result[1]

    @cached_property
    def shapes(self) -> IntArray:
        """int64 `[blocks]`: equal where positions relative to the smallest are equal; 0 for 0, 1, 2, ..."""
        low, _ = self.pyramid("position", lambda tokens: tokens.position)[0]
        first, last = self.contiguous[0]
        relative = np.where(self.valid.reshape(self.position.shape), self.position - low[:, None], -1)
        return _row_numbers(relative, plain=(first == last) & (self.valid_count == self.block))

    def contents(self, key: Hashable, of: TokensFunction) -> IntArray:
        """int64 `[blocks]`: equal where `of(tokens)` is equal token by token."""
        if key not in self._contents:
            values = np.broadcast_to(np.asarray(of(self._slots), dtype=np.int64), self.order.shape)
            rows = np.where(self.valid, values, -_HUGE).reshape(self.blocks, self.block)
            self._contents[key] = _row_numbers(rows, plain=np.zeros(self.blocks, dtype=bool))
        return self._contents[key]

    def block_tokens(self, blocks: IntArray) -> tuple[TokenView, BoolArray]:
        """Tokens of some blocks, `[n, block]`, and which of them are valid."""
        rows = self.order.reshape(self.blocks, self.block)[blocks]
        return self.tokens.view(rows), self.valid.reshape(self.blocks, self.block)[blocks]


def _row_numbers(rows: npt.NDArray[Any], plain: BoolArray) -> IntArray:
    """A number for each row, equal where rows are equal; rows known to be `plain` (all alike) get 0."""
    numbers = np.zeros(len(rows), dtype=np.int64)
    others = np.flatnonzero(~plain)
    if len(others):
        bits = np.ascontiguousarray(rows[others])
        keys = bits.view(np.dtype((np.void, bits.dtype.itemsize * bits.shape[1]))).reshape(-1)
        numbers[others] = np.unique(keys, return_inverse=True)[1].reshape(-1) + 1
    return numbers


class NodeSpans:
    """Some nodes of one level of a side: `Spans` of the rectangle protocol."""

    def __init__(self, side: Side, level: int, ids: IntArray) -> None:
        self._side = side
        self._level = min(level, side.depth)
        self._ids = ids

    @cached_property
    def _position(self) -> tuple[IntArray, IntArray]:
        return self.range_of("position", lambda tokens: tokens.position)

    @property
    def low(self) -> IntArray:
        """Smallest position in each set."""
        return self._position[0]

    @property
    def high(self) -> IntArray:
        """Largest position in each set."""
        return self._position[1]

    @cached_property
    def contiguous(self) -> BoolArray:
        """Whether the positions are exactly `low, low + 1, ..., high`."""
        first, last = self._side.contiguous[self._level]
        unbroken: BoolArray = (first == last)[self._ids]
        return unbroken

    @cached_property
    def ordered(self) -> BoolArray:
        """Whether the positions ascend in the order."""
        first, last = self._side.ascending[self._level]
        unbroken: BoolArray = (first == last)[self._ids]
        return unbroken

    @cached_property
    def shape(self) -> IntArray:
        """A number that is equal where positions relative to `low` are equal (blocks only)."""
        return self._side.shapes[self._ids]

    def range_of(self, key: Hashable, of: TokensFunction) -> tuple[IntArray, IntArray]:
        """Smallest and largest value of `of(tokens)` in each set."""
        low, high = self._side.pyramid(key, of)[self._level]
        return low[self._ids], high[self._ids]

    def content(self, key: Hashable, of: TokensFunction) -> IntArray:
        """A number that is equal where `of(tokens)` is equal token by token (blocks only)."""
        return self._side.contents(key, of)[self._ids]

    def count_below(self, position: IntArray) -> IntArray:
        """How many tokens of each set have a position below `position[n]` (blocks only)."""
        size = self.high - self.low + 1
        counts: IntArray = np.clip(position - self.low, 0, size)
        others = np.flatnonzero(~self.contiguous)
        if len(others):
            blocks = self._ids[others]
            below = self._side.position[blocks] < position[others, None]
            if not self._side.whole:
                below &= self._side.valid.reshape(self._side.blocks, -1)[blocks]
            counts[others] = below.sum(axis=1)
        return counts

    @cached_property
    def has_pad(self) -> BoolArray:
        """Whether some slot holds no valid token."""
        return self._side.pyramid_of_pads[0][self._level][self._ids]

    @cached_property
    def has_padding_token(self) -> BoolArray:
        """Whether some token of the order is padding."""
        return self._side.pyramid_of_pads[1][self._level][self._ids]
