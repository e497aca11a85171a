"""A `BlockLayout` as the words that the native kernels read (csrc/layout.cpp says how they lie)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from openwork.layout.data import BlockLayout, Int32Array, Part

__all__ = ["BLOCK", "lower"]

BLOCK = 64
"""Queries and keys of a block: a row of a mask is one word."""

_MAGIC = 0x6F70656E776F726B
_HEADER, _PLANE, _PART = 16, 4, 22

Words = npt.NDArray[np.int64]


def lower(layout: BlockLayout) -> Tensor:
    """int64 `[n]`, written once for each layout."""
    # the tensor is made each time, in the modes of its caller; it is a view
    written = _written_beside_graph if torch.compiler.is_compiling() else _written
    return torch.from_numpy(written(layout))


def _written(layout: BlockLayout) -> Words:
    words: Words = layout.cached("cpu", lambda: _words(layout.reblock((BLOCK, BLOCK))))
    return words


# torch.compile breaks its graph here: it cannot trace the writing. The public spelling loads 1.3 s of compiler
_written_beside_graph = torch._disable_dynamo(_written)  # type: ignore[attr-defined]


class _Writer:
    """Tables first, arrays behind them, each from a word of its own."""

    def __init__(self, tables: int) -> None:
        self.sections: list[Words] = []
        self.length = tables
        self.known: dict[int, tuple[int, object]] = {}

    def put(self, array: npt.NDArray[Any]) -> int:
        """Where the array begins; one that is put twice lies there once."""
        if id(array) in self.known:
            return self.known[id(array)][0]
        data = np.ascontiguousarray(array).tobytes()
        section = np.frombuffer(data + bytes(-len(data) % 8), dtype=np.int64)
        # an array without elements has a place too: 0 means that there is none
        offset = self.length
        self.known[id(array)] = offset, array
        self.sections.append(section)
        self.length += len(section)
        return offset


def _words(layout: BlockLayout) -> Words:
    parts = [part for plane in layout.planes for part in plane.parts]
    planes_at = _HEADER
    parts_at = planes_at + _PLANE * len(layout.planes)
    writer = _Writer(parts_at + _PART * len(parts))
    tables = np.zeros(writer.length, dtype=np.int64)
    first = 0
    for number, plane in enumerate(layout.planes):
        row = tables[planes_at + number * _PLANE :][:_PLANE]
        stop = first + len(plane.parts)
        sees, seen = plane.row_counts() > 0, plane.seen_keys()
        row[:] = (
            first,
            stop,
            0 if sees.all() else writer.put(sees.astype(np.uint8)),
            0 if seen.all() else writer.put(seen.astype(np.uint8)),
        )
        first = stop
    for number, part in enumerate(parts):
        row = tables[parts_at + number * _PART :][:_PART]
        row[: _PART - 1] = _part_row(part, writer)
    q_positions, kv_positions = layout.q_positions, layout.kv_positions
    tables[:_HEADER] = (
        _MAGIC,
        0,
        layout.q_len,
        layout.kv_len,
        layout.q_start,
        len(layout.planes),
        len(parts),
        *layout.index.shape,
        0 if q_positions is None else len(q_positions),
        0 if kv_positions is None else len(kv_positions),
        writer.put(layout.index.astype(np.int32)),
        planes_at,
        parts_at,
        0 if q_positions is None else writer.put(q_positions.astype(np.int64)),
        0 if kv_positions is None else writer.put(kv_positions.astype(np.int64)),
    )
    tables[1] = writer.length
    return np.concatenate([tables, *writer.sections])


def _part_row(part: Part, writer: _Writer) -> list[int]:
    # what a part does not see there is nobody to read: one mark for pads, unseen keys and rows that are empty here
    q_order = np.where(part.row_counts > 0, part.q_order, -1).astype(np.int32)
    kv_order = np.where(part.key_seen, part.kv_order, -1).astype(np.int32)
    arrays: list[npt.NDArray[Any]] = [
        q_order,
        kv_order,
        part.full_offsets,
        part.full_runs,
        part.partial_offsets,
        part.partial_kv_block,
        part.partial_mask,
        part.masks,
        *_full_by_key(part),
        *_partial_by_key(part),
    ]
    sizes = [part.q_block, part.kv_block, part.q_blocks, part.kv_blocks, len(part.masks), part.masks.shape[-1]]
    return [*sizes, int(part.q_natural), int(part.kv_natural), *(writer.put(array) for array in arrays)]


def _full_by_key(part: Part) -> tuple[Int32Array, Int32Array]:
    """The full blocks by key block: offsets `[kv_blocks + 1]` and ranges of query blocks `[n, 2]`.

    A key block enters a row of blocks where the row before lacks it, and leaves where the next one lacks it: what
    changes from row to row is found from the ends of the runs, so that the cost is that of the answer.
    """
    row = np.repeat(np.arange(part.q_blocks, dtype=np.int64), np.diff(part.full_offsets))
    first, stop = (part.full_runs[:, side].astype(np.int64) for side in (0, 1))
    one = np.ones(len(row), dtype=np.int64)
    # the indicator of a row minus that of the row before, as its steps
    at_row = np.concatenate([row, row, row + 1, row + 1])
    at_column = np.concatenate([first, stop, first, stop])
    width = part.kv_blocks + 1
    places, where = np.unique(at_row * width + at_column, return_inverse=True)
    steps = np.zeros(len(places), dtype=np.int64)
    np.add.at(steps, where, np.concatenate([one, -one, -one, one]))
    places, steps = places[steps != 0], steps[steps != 0]
    level = np.cumsum(steps)[:-1]
    lengths = np.where(level != 0, np.diff(places), 0)
    begins, levels = places[:-1][lengths > 0], level[lengths > 0]
    lengths = lengths[lengths > 0]
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    cells, levels = np.repeat(begins, lengths) + within, np.repeat(levels, lengths)
    ends = []
    for sign in (1, -1):
        rows, columns = cells[levels == sign] // width, cells[levels == sign] % width
        ends.append((rows, columns))
    (in_rows, in_columns), (out_rows, out_columns) = ends
    entering, leaving = np.lexsort((in_rows, in_columns)), np.lexsort((out_rows, out_columns))
    runs = np.stack([in_rows[entering], out_rows[leaving]], axis=1).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(in_columns, minlength=part.kv_blocks))])
    return offsets.astype(np.int32), runs


def _partial_by_key(part: Part) -> tuple[Int32Array, Int32Array, Int32Array]:
    """The partial blocks by key block: offsets `[kv_blocks + 1]`, query blocks and masks `[m]`."""
    q_block = np.repeat(np.arange(part.q_blocks, dtype=np.int32), np.diff(part.partial_offsets))
    order = np.argsort(part.partial_kv_block, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(part.partial_kv_block, minlength=part.kv_blocks))])
    return offsets.astype(np.int32), q_block[order], part.partial_mask[order].astype(np.int32)
