"""From a pattern and two ordered sides to a part: split what is partial, stop where it is empty or full."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openwork.errors import LayoutError
from openwork.layout.data import MaskArray, Part
from openwork.layout.from_mask import part_from_entries, unique_rows
from openwork.layout.side import FAN, NodeSpans, Side
from openwork.layout.tokens import SideTokens
from openwork.patterns.annotations import BoolArray, IntArray
from openwork.patterns.base import Pattern
from openwork.patterns.rectangles import EMPTY, FULL, PARTIAL, States

__all__ = ["Budget", "compile_part", "count_executed", "visible_keys"]

_CHUNK = 1 << 19
"""Rectangles judged at a time: bounds scratch memory."""
_MASK_PAIRS = 1 << 17
"""Pairs evaluated at a time when bitmasks are made."""
_NO_ROWS = np.zeros(0, dtype=np.int64)


@dataclass
class Budget:
    """Bytes that a layout may still take; spending past it raises before the memory is used."""

    max_bytes: int
    pattern: Pattern
    spent: int = 0

    def spend(self, nbytes: int) -> None:
        """Takes `nbytes` off the budget.

        Raises:
            LayoutError: The layout would pass `max_bytes`.
        """
        self.spent += int(nbytes)
        if self.spent > self.max_bytes:
            raise LayoutError(
                f"the layout of {self.pattern!r} needs more than max_bytes={self.max_bytes:,}. Its allowed pairs are "
                "scattered over too many blocks: narrow it with a window, use larger blocks, or raise max_bytes."
            )


@dataclass
class _Found:
    """Rectangles of nodes, one list entry for each chunk: full ones with their level, partial blocks."""

    full: list[tuple[int, IntArray, IntArray]]
    partial: list[tuple[IntArray, IntArray]]


def _judge(pattern: Pattern, q: NodeSpans, k: NodeSpans) -> States:
    states = pattern.states(q, k)
    # a full block runs untested, so it holds no key that is a pad, and no padding query
    loose = (states == FULL) & (k.has_pad | q.has_padding_token)
    states = np.where(loose, PARTIAL, states).astype(np.int8)
    states[(q.high < q.low) | (k.high < k.low)] = EMPTY
    return states


def _children(ids: IntArray, nodes: int) -> tuple[IntArray, BoolArray]:
    child = ids[:, None] * FAN + np.arange(FAN)
    return child, child < nodes


def _descend(pattern: Pattern, q_side: Side, k_side: Side, budget: Budget, q_blocks: IntArray | None = None) -> _Found:
    """Splits from the top; with `q_blocks`, only these query blocks, and only the key side is split."""
    found = _Found([], [])
    if q_side.blocks == 0 or k_side.blocks == 0:
        return found
    if q_blocks is None:
        top = max(q_side.depth, k_side.depth)
        stack = [(top, np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64))]
    else:
        stack = [(k_side.depth, q_blocks, np.zeros(len(q_blocks), dtype=np.int64))]
    while stack:
        level, q_ids, k_ids = stack.pop()
        if len(q_ids) > _CHUNK:
            half = len(q_ids) // 2
            stack += [(level, q_ids[half:], k_ids[half:]), (level, q_ids[:half], k_ids[:half])]
            continue
        q_level = level if q_blocks is None else 0
        states = _judge(pattern, NodeSpans(q_side, q_level, q_ids), NodeSpans(k_side, level, k_ids))
        full, partial = states == FULL, states == PARTIAL
        if full.any():
            found.full.append((level, q_ids[full], k_ids[full]))
        if not partial.any():
            continue
        q_ids, k_ids = q_ids[partial], k_ids[partial]
        if level == 0:
            budget.spend(16 * len(q_ids))
            found.partial.append((q_ids, k_ids))
        else:
            stack.append((level - 1, *_split(q_ids, k_ids, q_side, k_side, level, split_queries=q_blocks is None)))
    return found


def _split(
    q_ids: IntArray, k_ids: IntArray, q_side: Side, k_side: Side, level: int, *, split_queries: bool
) -> tuple[IntArray, IntArray]:
    k_child, k_real = _children(k_ids, k_side.nodes(level - 1))
    if split_queries:
        q_child, q_real = _children(q_ids, q_side.nodes(level - 1))
    else:
        q_child, q_real = q_ids[:, None], np.ones((len(q_ids), 1), dtype=bool)
    real = q_real[:, :, None] & k_real[:, None, :]
    shape = real.shape
    return np.broadcast_to(q_child[:, :, None], shape)[real], np.broadcast_to(k_child[:, None, :], shape)[real]


def _groups(columns: list[IntArray], count: int) -> tuple[IntArray, IntArray]:
    """First member and group number of rows that are equal in every column."""
    numbers = np.zeros(count, dtype=np.int64)
    first = np.zeros(min(count, 1), dtype=np.int64)
    for column in columns:
        if (column == column[:1]).all():
            continue
        _, values = np.unique(column, return_inverse=True)
        _, first, numbers = np.unique(
            numbers * (int(values.max()) + 1) + values, return_index=True, return_inverse=True
        )
    return first, numbers.reshape(-1)


def _evaluate(
    pattern: Pattern, q_side: Side, k_side: Side, q_ids: IntArray, k_ids: IntArray
) -> tuple[MaskArray, IntArray]:
    """Bitmasks of blocks, packed `[n, q_block * bytes]`, and for each: 0 empty, 1 partial, 2 full."""
    q_block, kv_block = q_side.block, k_side.block
    width = -(-kv_block // 8)
    masks = np.zeros((len(q_ids), q_block * width), dtype=np.uint8)
    kinds = np.zeros(len(q_ids), dtype=np.int64)
    step = max(1, _MASK_PAIRS // (q_block * kv_block))
    for start in range(0, len(q_ids), step):
        chunk = slice(start, start + step)
        q, q_valid = q_side.block_tokens(q_ids[chunk, None])
        k, k_valid = k_side.block_tokens(k_ids[chunk, None])
        q = q_side.tokens.view(q.index.transpose(0, 2, 1))
        q_valid = q_valid.transpose(0, 2, 1)
        allowed = np.broadcast_to(pattern.pairs(q, k), (len(q_valid), q_block, kv_block)) & q_valid & k_valid
        q_pads = (q_side.order.reshape(-1, q_block)[q_ids[chunk]] < 0)[:, :, None]
        some, every = allowed.any(axis=(1, 2)), (allowed | q_pads).all(axis=(1, 2))
        kinds[chunk] = np.where(some & every, FULL, np.where(some, PARTIAL, EMPTY))
        masks[chunk] = np.packbits(allowed, axis=-1, bitorder="little").reshape(len(allowed), -1)
    return masks, kinds


def _resolve_partial(
    pattern: Pattern, q_side: Side, k_side: Side, q_ids: IntArray, k_ids: IntArray, budget: Budget
) -> tuple[IntArray, MaskArray]:
    """For each partial block: -2 empty, -1 full, or its row in the table of distinct masks."""
    signature = pattern.signature(NodeSpans(q_side, 0, q_ids), NodeSpans(k_side, 0, k_ids))
    if signature is None:
        first, group = np.arange(len(q_ids)), np.arange(len(q_ids))
    else:
        first, group = _groups([*signature, q_side.valid_bits[q_ids], k_side.valid_bits[k_ids]], len(q_ids))
    budget.spend(len(first) * q_side.block * -(-k_side.block // 8))
    masks, kinds = _evaluate(pattern, q_side, k_side, q_ids[first], k_ids[first])
    partial = kinds == PARTIAL
    table, numbers = unique_rows(masks[partial])
    of_group = np.where(kinds == FULL, -1, -2)
    of_group[partial] = numbers
    return of_group[group], table


def compile_part(pattern: Pattern, q_side: Side, k_side: Side, budget: Budget) -> Part | None:
    """The part that holds exactly the pairs of `pattern` among the tokens of two sides; None if there are none."""
    found = _descend(pattern, q_side, k_side, budget)
    rows, first, stop = [], [], []
    for level, q_ids, k_ids in found.full:
        size = FAN**level
        q_first, k_first = q_ids * size, k_ids * size
        lengths = np.minimum(q_first + size, q_side.blocks) - q_first
        budget.spend(24 * int(lengths.sum()))
        row = np.repeat(q_first, lengths) + np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        rows.append(row)
        first.append(np.repeat(k_first, lengths))
        stop.append(np.repeat(np.minimum(k_first + size, k_side.blocks), lengths))
    q_ids, k_ids = (np.concatenate([_NO_ROWS, *(pair[i] for pair in found.partial)]) for i in (0, 1))
    masks = np.zeros((0, q_side.block * -(-k_side.block // 8)), dtype=np.uint8)
    numbers = _NO_ROWS
    if len(q_ids):
        numbers, masks = _resolve_partial(pattern, q_side, k_side, q_ids, k_ids, budget)
        full = numbers == -1
        rows.append(q_ids[full])
        first.append(k_ids[full])
        stop.append(k_ids[full] + 1)
    entries = numbers >= 0
    runs = tuple(np.concatenate([_NO_ROWS, *column]) for column in (rows, first, stop))
    if not len(runs[0]) and not entries.any():
        return None
    return part_from_entries(
        q_side.order,
        k_side.order,
        (q_side.block, k_side.block),
        (runs[0], runs[1], runs[2]),
        (q_ids[entries], k_ids[entries], numbers[entries]),
        masks.reshape(-1, q_side.block, -(-k_side.block // 8)),
    )


def count_executed(pattern: Pattern, q_side: Side, k_side: Side, q_blocks: IntArray, budget: Budget) -> int:
    """Blocks that the part of `pattern` would run for some of its query blocks."""
    found = _descend(pattern, q_side, k_side, budget, q_blocks)
    blocks = 0
    for level, _, k_ids in found.full:
        size = FAN**level
        blocks += int((np.minimum((k_ids + 1) * size, k_side.blocks) - k_ids * size).sum())
    for q_ids, k_ids in found.partial:
        numbers, _ = _resolve_partial(pattern, q_side, k_side, q_ids, k_ids, budget)
        blocks += int((numbers != -2).sum())
    return blocks


def visible_keys(pattern: Pattern, query: SideTokens, k_side: Side, budget: Budget) -> IntArray:
    """Indices of the keys, among those of a side in natural order, that a single query sees; ascending."""
    q_side = Side(query, np.zeros(1, dtype=np.int32), 1)
    found = _descend(pattern, q_side, k_side, budget, np.zeros(1, dtype=np.int64))
    seen = [_NO_ROWS]
    for level, _, k_ids in found.full:
        size = FAN**level * k_side.block
        seen += [np.arange(k * size, min((k + 1) * size, len(k_side.order))) for k in k_ids.tolist()]
    for _, k_ids in found.partial:
        keys, valid = k_side.block_tokens(k_ids)
        allowed = np.broadcast_to(pattern.pairs(query.view(np.zeros((1, 1), dtype=np.int64)), keys), valid.shape)
        seen.append(keys.index[allowed & valid])
    return np.sort(np.concatenate(seen))
