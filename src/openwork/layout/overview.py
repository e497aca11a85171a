"""A large layout seen from afar: allowed pairs counted in the cells of a coarse grid."""

from __future__ import annotations

import numpy as np

from openwork.layout.data import Part, Plane, unpack_masks
from openwork.patterns.annotations import IntArray

__all__ = ["cell_counts", "cell_edges"]

_ENTRIES_AT_ONCE = 4096


def cell_edges(length: int, cells: int) -> IntArray:
    """Where `cells` nearly equal cells of `length` tokens begin, and where the last ends: int64 `[cells + 1]`.

    >>> cell_edges(10, 4).tolist()
    [0, 2, 5, 7, 10]
    """
    return np.arange(cells + 1, dtype=np.int64) * length // cells


def cell_counts(plane: Plane, q_cells: int, kv_cells: int) -> IntArray:
    """Allowed pairs in each cell of a grid over the plane: int64 `[q_cells, kv_cells]`.

    Time follows the number of blocks of the layout, not `q_len * kv_len`.

    Args:
        plane: The plane of one sequence and head.
        q_cells: Rows of the grid, at most `plane.q_len`.
        kv_cells: Columns of the grid, at most `plane.kv_len`.

    Examples:
        >>> import openwork as ow
        >>> layout = ow.compile_layout(ow.Causal(), q_len=4, kv_len=4)
        >>> cell_counts(layout.planes[0], 2, 2).tolist()
        [[3, 0], [4, 3]]
    """
    counts = np.zeros((q_cells, kv_cells), dtype=np.int64)
    q_edges, kv_edges = cell_edges(plane.q_len, q_cells), cell_edges(plane.kv_len, kv_cells)
    for part in plane.parts:
        q_cell = _cells(part.q_order.astype(np.int64), q_edges).reshape(part.q_blocks, part.q_block)
        kv_cell = _cells(part.kv_order.astype(np.int64), kv_edges).reshape(part.kv_blocks, part.kv_block)
        _add_full(counts, part, q_cell, kv_cell)
        _add_partial(counts, part, q_cell, kv_cell)
    return counts


def _cells(order: IntArray, edges: IntArray) -> IntArray:
    """The cell of each index, -1 for a pad."""
    cells = np.searchsorted(edges, order, side="right") - 1
    return np.where(order < 0, -1, cells)


def _add_full(counts: IntArray, part: Part, q_cell: IntArray, kv_cell: IntArray) -> None:
    q_cells, kv_cells = counts.shape
    # how often each cell of keys occurs in the first n key blocks
    seen = np.zeros((part.kv_blocks + 1, kv_cells), dtype=np.int64)
    block = np.repeat(np.arange(part.kv_blocks), part.kv_block)
    real = kv_cell.reshape(-1) >= 0
    np.add.at(seen, (block[real] + 1, kv_cell.reshape(-1)[real]), 1)
    seen = np.cumsum(seen, axis=0)
    owner = np.repeat(np.arange(part.q_blocks), np.diff(part.full_offsets))
    columns = np.zeros((part.q_blocks, kv_cells), dtype=np.int64)
    for start in range(0, len(owner), _ENTRIES_AT_ONCE):
        some = slice(start, start + _ENTRIES_AT_ONCE)
        first, stop = part.full_runs[some].T
        np.add.at(columns, owner[some], seen[stop] - seen[first])
    rows = np.zeros((part.q_blocks, q_cells), dtype=np.int64)
    block = np.repeat(np.arange(part.q_blocks), part.q_block)
    real = q_cell.reshape(-1) >= 0
    np.add.at(rows, (block[real], q_cell.reshape(-1)[real]), 1)
    counts += rows.T @ columns


def _add_partial(counts: IntArray, part: Part, q_cell: IntArray, kv_cell: IntArray) -> None:
    owner = np.repeat(np.arange(part.q_blocks), np.diff(part.partial_offsets))
    for start in range(0, len(owner), _ENTRIES_AT_ONCE):
        some = slice(start, start + _ENTRIES_AT_ONCE)
        allowed = unpack_masks(part.masks[part.partial_mask[some]], part.kv_block)
        entry, row, column = np.nonzero(allowed)
        np.add.at(counts, (q_cell[owner[some][entry], row], kv_cell[part.partial_kv_block[some][entry], column]), 1)
