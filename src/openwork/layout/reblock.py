"""The same layout in blocks of another size: split to the common divisor of both sizes, then join."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import gcd
from typing import Any

import numpy as np

from openwork.layout.data import BlockLayout, Int32Array, Part, unpack_masks
from openwork.layout.from_mask import as_block_size, part_from_entries
from openwork.patterns.annotations import BoolArray, IntArray

__all__ = ["reblock"]

_FULL, _EMPTY = -1, -2


def reblock(layout: BlockLayout, block_size: tuple[int, int]) -> BlockLayout:
    """`BlockLayout.reblock`, uncached."""
    block_size = as_block_size(block_size)
    orders: dict[tuple[int, int], Int32Array] = {}

    def resized(order: Int32Array, block: int) -> Int32Array:
        # orders that parts share stay shared
        key = (id(order), block)
        if key not in orders:
            orders[key] = _resize(order, block)
        return orders[key]

    planes = tuple(
        replace(
            plane,
            parts=tuple(
                _reblock_part(
                    part, block_size, resized(part.q_order, block_size[0]), resized(part.kv_order, block_size[1])
                )
                for part in plane.parts
            ),
        )
        for plane in layout.planes
    )
    return replace(layout, planes=planes, q_block=block_size[0], kv_block=block_size[1], _cache={})


def _resize(order: Int32Array, block: int) -> Int32Array:
    used = int(np.flatnonzero(order >= 0).max(initial=-1)) + 1
    resized = np.full(-(-used // block) * block, -1, dtype=np.int32)
    resized[:used] = order[:used]
    return resized


@dataclass
class _Table:
    """Entries of a part in blocks of some size: full runs, and partial blocks with their masks."""

    runs: tuple[IntArray, IntArray, IntArray]
    rows: IntArray
    keys: IntArray
    numbers: IntArray
    masks: BoolArray


def _reblock_part(part: Part, block_size: tuple[int, int], q_order: Int32Array, kv_order: Int32Array) -> Part:
    small = gcd(part.q_block, block_size[0]), gcd(part.kv_block, block_size[1])
    table = _split(part, small)
    ratio = block_size[0] // small[0], block_size[1] // small[1]
    pads = np.full((-(-len(q_order) // block_size[0])) * block_size[0], True)
    pads[: len(q_order)] = q_order < 0
    return _join(table, ratio, small, pads, q_order, kv_order)


def _split(part: Part, small: tuple[int, int]) -> _Table:
    a, b = part.q_block // small[0], part.kv_block // small[1]
    run_rows = np.repeat(np.arange(part.q_blocks), np.diff(part.full_offsets))
    first, stop = part.full_runs.astype(np.int64).T
    pads = (part.q_order < 0).reshape(-1, small[0])
    live: BoolArray = ~np.all(pads, axis=1)
    runs = [np.repeat(column, a) for column in (run_rows * a, first * b, stop * b)]
    runs[0] = runs[0] + np.tile(np.arange(a), len(run_rows))
    runs = [column[live[runs[0]]] for column in runs]
    masks = unpack_masks(part.masks, part.kv_block).reshape(-1, a, small[0], b, small[1]).transpose(0, 1, 3, 2, 4)
    masks = masks.reshape(-1, *small)
    entry_rows = np.repeat(np.arange(part.q_blocks), np.diff(part.partial_offsets))
    grid = np.arange(a)[None, :, None], np.arange(b)[None, None, :]
    shape = (part.num_partial, a, b)
    rows = np.broadcast_to(entry_rows[:, None, None] * a + grid[0], shape).reshape(-1)
    keys = np.broadcast_to(part.partial_kv_block.astype(np.int64)[:, None, None] * b + grid[1], shape).reshape(-1)
    numbers = (part.partial_mask.astype(np.int64)[:, None, None] * a + grid[0]) * b + grid[1]
    numbers = np.broadcast_to(numbers, shape).reshape(-1)
    some: BoolArray = np.any(masks, axis=(1, 2))
    every: BoolArray = np.all(masks, axis=(1, 2))
    has_pads: BoolArray = np.any(pads, axis=1)
    full = every[numbers]
    ragged = np.flatnonzero(has_pads[rows] & some[numbers])
    full[ragged] = (masks[numbers[ragged]] | pads[rows[ragged]][:, :, None]).all(axis=(1, 2))
    partial = some[numbers] & ~full
    joined = tuple(
        np.concatenate([column, extra])
        for column, extra in zip(runs, (rows[full], keys[full], keys[full] + 1), strict=True)
    )
    return _Table((joined[0], joined[1], joined[2]), rows[partial], keys[partial], numbers[partial], masks)


def _join(
    table: _Table,
    ratio: tuple[int, int],
    small: tuple[int, int],
    pads: BoolArray,
    q_order: Int32Array,
    kv_order: Int32Array,
) -> Part:
    rq, rk = ratio
    block_size = rq * small[0], rk * small[1]
    live = (~pads.reshape(-1, rq, small[0]).all(axis=2)).sum(axis=1)
    rows, first, stop = table.runs
    big = rows // rq
    # stretches of small key blocks that every query of the big block sees
    covered = _segments([(big, first, stop)])
    every = covered[3][:, 0] == live[covered[0]]
    run_row, run_first, run_stop = _touching(*(column[every] for column in covered[:3]))
    run_first, run_stop = -(-run_first // rk), run_stop // rk
    whole = run_first < run_stop
    full = run_row[whole], run_first[whole], run_stop[whole]
    touched = _segments([(big, first // rk, -(-stop // rk)), full])
    loose = (touched[3][:, 0] > 0) & (touched[3][:, 1] == 0)
    lengths = touched[2][loose] - touched[1][loose]
    loose_rows = np.repeat(touched[0][loose], lengths)
    loose_keys = np.repeat(touched[1][loose] - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())
    width = -(-len(kv_order) // block_size[1]) + 1
    blocks = np.unique(np.concatenate([loose_rows * width + loose_keys, table.rows // rq * width + table.keys // rk]))
    q_ids, k_ids = blocks // width, blocks % width
    states = _lookup(table, q_ids, k_ids, rq, rk)
    signature = np.concatenate([states.reshape(len(blocks), rq * rk), pads.reshape(-1, block_size[0])[q_ids]], axis=1)
    distinct, number = np.unique(signature, axis=0, return_inverse=True)
    tiles = np.zeros((len(distinct), rq, small[0], rk, small[1]), dtype=bool)
    table_masks = np.concatenate([table.masks, np.zeros((1, *small), bool), np.ones((1, *small), bool)])
    chosen = table_masks[distinct[:, : rq * rk]].reshape(-1, rq, rk, *small)  # -1 is the last row, -2 the one before
    tiles[:] = chosen.transpose(0, 1, 3, 2, 4)
    tiles &= ~distinct[:, rq * rk :].astype(bool).reshape(-1, rq, small[0], 1, 1)
    bits = np.packbits(tiles.reshape(-1, *block_size), axis=-1, bitorder="little")
    masks, renumber = (
        np.unique(bits.reshape(len(bits), -1), axis=0, return_inverse=True) if len(bits) else (bits, number)
    )
    return part_from_entries(
        q_order,
        kv_order,
        block_size,
        full,
        (q_ids, k_ids, renumber.reshape(-1)[number.reshape(-1)] if len(bits) else number),
        masks.reshape(-1, block_size[0], -(-block_size[1] // 8)),
    )


def _segments(kinds: list[tuple[IntArray, IntArray, IntArray]]) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """Stretches between the ends of all intervals, row by row, and how many of each kind cover them `[n, kinds]`."""
    rows = np.concatenate([row for row, _, _ in kinds for _ in (0, 1)])
    places = np.concatenate([end for _, first, stop in kinds for end in (first, stop)])
    steps = np.zeros((len(rows), len(kinds)), dtype=np.int64)
    at = 0
    for kind, (row, _, _) in enumerate(kinds):
        steps[at : at + len(row), kind], steps[at + len(row) : at + 2 * len(row), kind] = 1, -1
        at += 2 * len(row)
    order = np.lexsort((places, rows))
    rows, places, cover = rows[order], places[order], np.cumsum(steps[order], axis=0)
    kept = np.flatnonzero((rows[1:] == rows[:-1]) & (places[1:] > places[:-1]))
    return rows[kept], places[kept], places[kept + 1], cover[kept]


def _touching(rows: IntArray, first: IntArray, stop: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Joins stretches that touch."""
    starts = np.ones(len(rows), dtype=bool)
    starts[1:] = (rows[1:] != rows[:-1]) | (first[1:] != stop[:-1])
    ends = np.append(starts[1:], True)[: len(rows)]
    return rows[starts], first[starts], stop[ends]


def _lookup(table: _Table, q_ids: IntArray, k_ids: IntArray, rq: int, rk: int) -> Any:
    """State of the small blocks in each big one, `[n, rq, rk]`: a mask number, full or empty."""
    shape = (len(q_ids), rq, rk)
    rows = np.broadcast_to(q_ids[:, None, None] * rq + np.arange(rq)[None, :, None], shape)
    keys = np.broadcast_to(k_ids[:, None, None] * rk + np.arange(rk)[None, None, :], shape)
    width = int(max(table.keys.max(initial=0), table.runs[2].max(initial=0), keys.max(initial=0))) + 2
    states = np.full(shape, _EMPTY, dtype=np.int64)
    wanted = rows * width + keys
    for place, ends, values in (
        (table.rows * width + table.keys, table.rows * width + table.keys + 1, table.numbers),
        (
            table.runs[0] * width + table.runs[1],
            table.runs[0] * width + table.runs[2],
            np.full(len(table.runs[0]), _FULL),
        ),
    ):
        if len(place):
            order = np.argsort(place)
            at = np.searchsorted(place[order], wanted, side="right") - 1
            hit = (at >= 0) & (wanted < ends[order][np.maximum(at, 0)])
            states[hit] = values[order][at[hit]]
    return states
