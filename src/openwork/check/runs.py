"""The keys of each query as runs of slots in the order of a part, and as look-ups in a table of runs that double.

A part of a layout stands in an order in which its keys are dense, so each query's keys are few runs of slots there.
The OR of all rows in a run of `n` slots is that of two runs of `2^l <= n` slots, one from its start and one to its
end: two look-ups in a table whose level `l` holds the OR of `2^l` rows from each slot on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from openwork.layout.data import Int32Array, Part, Plane, unpack_masks
from openwork.patterns.annotations import IntArray

__all__ = ["Lookups", "PartRuns", "plane_runs"]

_PAIRS_AT_ONCE = 1 << 24
_MOST_KEPT = 1 << 24
"""Runs of a part that are kept; of a part with more (scattered pairs) they are found anew for each layer."""
_MANY_RUNS = 12
"""Runs of a query from which natural order is tried in place of a part's own."""
_MOST_SORTED = 1 << 23
"""Pairs that are worth sorting for that."""


@dataclass(frozen=True, eq=False)
class Lookups:
    """Where the rows of some queries are found in the table; queries with the most look-ups come first.

    Attributes:
        queries: int64 `[n]`, queries with a run.
        begin: int64 `[n]`, where the look-ups of each start in `level` and `slot`.
        count: int64 `[n]`, how many each has.
        level: uint8 `[m]`, level of the table.
        slot: int32 `[m]`, slot in that level.
        run_query: int64 `[r]`, the entry of `queries` that each run belongs to, ascending.
        first: int32 `[r]`, first slot of each run.
        stop: int32 `[r]`, the slot behind its last.
    """

    queries: IntArray
    begin: IntArray
    count: IntArray
    level: np.ndarray[tuple[int], np.dtype[np.uint8]]
    slot: Int32Array
    run_query: IntArray
    first: Int32Array
    stop: Int32Array

    @cached_property
    def levels(self) -> int:
        """Levels of the table that are read."""
        return int(self.level.max()) + 1 if len(self.level) else 0


@dataclass(frozen=True, eq=False)
class PartRuns:
    """A part as runs.

    Attributes:
        order: int64 `[slots]`, the key at each slot; a slot that holds none is in no run and has 0.
        natural: Whether slot `s` holds key `s`.
        chunks: Its look-ups, where they are few enough to be kept.
        part: The part, where they are not.
    """

    order: IntArray
    natural: bool
    chunks: tuple[Lookups, ...] = ()
    part: Part | None = None

    def lookups(self) -> Iterator[Lookups]:
        """The look-ups of all queries, each query in one of the pieces."""
        if self.part is None:
            yield from self.chunks
            return
        for first, stop in _chunks(self.part):
            yield _lookups(*_runs(self.part, first, stop))

    @cached_property
    def levels(self) -> int:
        """Levels of the table that are read."""
        if self.part is not None:
            return max(1, len(self.order)).bit_length()
        return max((chunk.levels for chunk in self.chunks), default=0)


def plane_runs(plane: Plane) -> tuple[PartRuns, ...]:
    """The parts of a plane as runs."""
    return tuple(_part_runs(part) for part in plane.parts)


def _part_runs(part: Part) -> PartRuns:
    natural = part.kv_natural
    order = np.maximum(part.kv_order, 0).astype(np.int64)
    kept, total = [], 0
    for first, stop in _chunks(part):
        runs = _runs(part, first, stop)
        kept.append(runs)
        total += len(runs[0])
        if total > _MOST_KEPT:
            return PartRuns(order, natural, part=part)
    query, start, end = (np.concatenate(arrays) for arrays in zip(*kept, strict=True)) if kept else [_NONE] * 3
    if not natural and total > _MANY_RUNS * len(np.unique(query)) and part.allowed_pairs <= _MOST_SORTED:
        in_place = _in_natural_order(order, query, start, end)
        if len(in_place[0]) < total:
            length = int(order.max(initial=-1)) + 1
            return PartRuns(np.arange(length), True, (_lookups(*in_place),))
    return PartRuns(order, natural, (_lookups(query, start, end),))


_NONE = np.zeros(0, dtype=np.int64)


def _chunks(part: Part) -> Iterator[tuple[int, int]]:
    """Stretches of query blocks whose partial blocks are few enough to be unpacked at once."""
    most = max(1, _PAIRS_AT_ONCE // (part.q_block * part.kv_block))
    first = 0
    while first < part.q_blocks:
        limit = int(part.partial_offsets[first]) + most
        stop = max(first + 1, int(np.searchsorted(part.partial_offsets, limit, side="right")) - 1)
        stop = min(stop, part.q_blocks)
        yield first, stop
        first = stop


def _runs(part: Part, block_first: int, block_stop: int) -> tuple[IntArray, IntArray, IntArray]:
    """Query, first slot and the slot behind the last of each run, of the queries in some blocks, by query."""
    pieces = [_full(part, block_first, block_stop), _partial(part, block_first, block_stop)]
    q_slot, first, stop = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
    real = part.q_order[q_slot] >= 0
    return _merged(part.q_order[q_slot[real]].astype(np.int64), first[real], stop[real])


def _merged(query: IntArray, first: IntArray, stop: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Runs by query and slot, those that touch made one."""
    order = np.lexsort((first, query))
    query, first, stop = query[order], first[order], stop[order]
    starts = np.ones(len(query), dtype=bool)
    starts[1:] = (query[1:] != query[:-1]) | (first[1:] != stop[:-1])
    ends = np.r_[starts[1:], True] if len(query) else starts
    return query[starts], first[starts], stop[ends]


def _full(part: Part, block_first: int, block_stop: int) -> tuple[IntArray, IntArray, IntArray]:
    offsets = part.full_offsets[block_first : block_stop + 1].astype(np.int64)
    runs = part.full_runs[offsets[0] : offsets[-1]].astype(np.int64) * part.kv_block
    owner = np.repeat(np.arange(block_first, block_stop), np.diff(offsets))
    q_slot = owner[:, None] * part.q_block + np.arange(part.q_block)
    first, stop = (np.repeat(column, part.q_block) for column in runs.T)
    return q_slot.reshape(-1), first, stop


def _partial(part: Part, block_first: int, block_stop: int) -> tuple[IntArray, IntArray, IntArray]:
    offsets = part.partial_offsets[block_first : block_stop + 1].astype(np.int64)
    entries = slice(int(offsets[0]), int(offsets[-1]))
    owner = np.repeat(np.arange(block_first, block_stop), np.diff(offsets))
    used, mask = np.unique(part.partial_mask[entries], return_inverse=True)
    bits = unpack_masks(part.masks[used], part.kv_block)
    edges = np.diff(np.pad(bits.view(np.int8), ((0, 0), (0, 0), (1, 1))), axis=2).reshape(-1, part.kv_block + 1)
    row, first = np.nonzero(edges == 1)
    stop = np.nonzero(edges == -1)[1]
    # the runs of row `i` of mask `m` are those from begin[m * q_block + i] on
    count = np.bincount(row, minlength=len(edges))
    begin = np.cumsum(count) - count
    rows = (mask.reshape(-1)[:, None] * part.q_block + np.arange(part.q_block)).reshape(-1)
    q_slot = (owner[:, None] * part.q_block + np.arange(part.q_block)).reshape(-1)
    base = np.repeat(part.partial_kv_block[entries].astype(np.int64) * part.kv_block, part.q_block)
    each = _expand(begin[rows], count[rows])
    return (
        np.repeat(q_slot, count[rows]),
        np.repeat(base, count[rows]) + first[each],
        base.repeat(count[rows]) + stop[each],
    )


def _expand(begin: IntArray, count: IntArray) -> IntArray:
    """The numbers `begin[i] .. begin[i] + count[i] - 1`, one `i` after the other."""
    ends = np.cumsum(count)
    total = int(ends[-1]) if len(ends) else 0
    numbers: IntArray = np.arange(total) + np.repeat(begin - (ends - count), count)
    return numbers


def _in_natural_order(
    order: IntArray, query: IntArray, first: IntArray, stop: IntArray
) -> tuple[IntArray, IntArray, IntArray]:
    """The same pairs as runs of keys."""
    keys = order[_expand(first, stop - first)]
    return _merged(np.repeat(query, stop - first), keys, keys + 1)


def _lookups(query: IntArray, first: IntArray, stop: IntArray) -> Lookups:
    """Runs, by query, as look-ups."""
    length = stop - first
    level = np.frexp(length.astype(np.float64))[1].astype(np.int64) - 1
    twice = length != (1 << level)
    run = np.repeat(np.arange(len(length)), 1 + twice)
    second = np.r_[False, run[1:] == run[:-1]] if len(run) else np.zeros(0, dtype=bool)
    slot = np.where(second, stop[run] - (1 << level[run]), first[run])
    starts = np.flatnonzero(np.diff(query, prepend=-1))
    queries = query[starts]
    number = np.cumsum(np.diff(query, prepend=-1) != 0) - 1
    count = np.bincount(number, weights=1 + twice, minlength=len(queries)).astype(np.int64)
    begin = np.cumsum(count) - count
    most_first = np.argsort(-count, kind="stable")
    rank = np.empty_like(most_first)
    rank[most_first] = np.arange(len(most_first))
    return Lookups(
        queries[most_first],
        begin[most_first],
        count[most_first],
        level[run].astype(np.uint8),
        slot.astype(np.int32),
        rank[number],
        first.astype(np.int32),
        stop.astype(np.int32),
    )
