"""Pairs of a plane that break a rule, counted from its blocks: what is past, or of one document, is never looked at.

A rule compares one number of the query with one number of the key (positions, or labels). A block is known by the
smallest and largest number on each side, so that most blocks are settled without asking their pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from openwork.layout.data import Int32Array, Part, Plane, unpack_masks
from openwork.patterns.annotations import BoolArray, IntArray
from openwork.patterns.rectangles import EMPTY, FULL, PARTIAL, States, states_from

__all__ = ["ACROSS", "FUTURE", "Rule", "count_pairs", "first_pairs", "keys_of"]

_PAIRS_AT_ONCE = 1 << 22
_HUGE = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Rule:
    """What a pair must not be; tokens whose number is below 0 break no rule.

    Attributes:
        name: `"future"` (the key's number exceeds the query's) or `"across"` (they differ).
    """

    name: str

    def breaks(self, q: IntArray, k: IntArray) -> BoolArray:
        """Whether each pair of numbers breaks the rule."""
        against = k > q if self.name == "future" else k != q
        broken: BoolArray = against & (q >= 0) & (k >= 0)
        return broken

    def states(self, q: tuple[IntArray, IntArray], k: tuple[IntArray, IntArray]) -> States:
        """`FULL` where all pairs of a rectangle break the rule, `EMPTY` where none does; from smallest and largest."""
        (q_low, q_high), (k_low, k_high) = q, k
        nothing = (q_low > q_high) | (k_low > k_high)
        if self.name == "future":
            return states_from(nothing | (k_high <= q_low), k_low > q_high)
        alike = (q_low == q_high) & (k_low == k_high) & (q_low == k_low)
        return states_from(nothing | alike, (k_low > q_high) | (k_high < q_low))


FUTURE = Rule("future")
ACROSS = Rule("across")


def count_pairs(plane: Plane, rule: Rule, q_values: IntArray, k_values: IntArray) -> IntArray:
    """How many allowed pairs of each query break a rule: int64 `[q_len]`.

    Args:
        plane: The plane of one sequence and head.
        rule: The rule.
        q_values: The number of each query, int64 `[q_len]`.
        k_values: The number of each key, int64 `[kv_len]`.
    """
    counts = np.zeros(plane.q_len, dtype=np.int64)
    for part in plane.parts:
        rows = _PartCount(part, rule, q_values, k_values).rows()
        real = part.q_order >= 0
        counts[part.q_order[real]] += rows.reshape(-1)[real]
    return counts


def first_pairs(
    plane: Plane, rule: Rule, q_values: IntArray, k_values: IntArray, counts: IntArray, limit: int
) -> list[tuple[int, int]]:
    """The first `limit` pairs `(q_idx, kv_idx)` that break the rule, by query, then by key."""
    found: list[tuple[int, int]] = []
    for query in np.flatnonzero(counts)[:limit]:
        keys = keys_of(plane, int(query))
        broken = keys[rule.breaks(q_values[query], k_values[keys])]
        found += [(int(query), int(key)) for key in broken[: limit - len(found)]]
    return found[:limit]


def keys_of(plane: Plane, query: int) -> IntArray:
    """The keys that one query may see, ascending: int64."""
    found = [np.zeros(0, dtype=np.int64)]
    for part in plane.parts:
        for slot in np.flatnonzero(part.q_order == query):
            block, row = divmod(int(slot), part.q_block)
            order = part.kv_order.reshape(part.kv_blocks, part.kv_block)
            for first, stop in part.full_runs[part.full_offsets[block] : part.full_offsets[block + 1]]:
                found.append(order[first:stop].reshape(-1).astype(np.int64))
            entries = slice(part.partial_offsets[block], part.partial_offsets[block + 1])
            masks = part.masks[part.partial_mask[entries], row][:, None]
            bits = unpack_masks(masks, part.kv_block)[:, 0]
            found.append(order[part.partial_kv_block[entries]][bits].astype(np.int64))
    return np.sort(np.concatenate(found))


class _PartCount:
    def __init__(self, part: Part, rule: Rule, q_values: IntArray, k_values: IntArray) -> None:
        self.part, self.rule = part, rule
        self.q = _in_blocks(part.q_order, q_values, part.q_block)
        self.k = _in_blocks(part.kv_order, k_values, part.kv_block)
        self.q_range, self.k_range = _range(self.q), _range(self.k)
        self.counts = np.zeros((part.q_blocks, part.q_block), dtype=np.int64)

    def rows(self) -> IntArray:
        """Pairs that break the rule, int64 `[q_blocks, q_block]` in the part's order."""
        self._full_runs()
        part = self.part
        owner = np.repeat(np.arange(part.q_blocks), np.diff(part.partial_offsets))
        k_blocks = part.partial_kv_block.astype(np.int64)
        states = self._states(owner, k_blocks)
        for some in self._slices(np.flatnonzero(states != EMPTY)):
            masks = unpack_masks(part.masks[part.partial_mask[some]], part.kv_block)
            self._add(owner[some], k_blocks[some], masks)
        return self.counts

    def _full_runs(self) -> None:
        part = self.part
        owner = np.repeat(np.arange(part.q_blocks), np.diff(part.full_offsets))
        first, stop = part.full_runs[:, 0].astype(np.int64), part.full_runs[:, 1].astype(np.int64)
        states = self.rule.states(self._of_queries(owner), _over_runs(self.k_range, first, stop))
        real = np.concatenate([[0], np.cumsum((self.k >= 0).sum(axis=1))])
        whole = np.flatnonzero(states == FULL)
        self._add_whole(owner[whole], (real[stop] - real[first])[whole])
        for run in np.flatnonzero(states == PARTIAL):
            blocks = np.arange(first[run], stop[run])
            queries = np.full(len(blocks), owner[run])
            states_of = self._states(queries, blocks)
            whole = blocks[states_of == FULL]
            self._add_whole(queries[: len(whole)], real[whole + 1] - real[whole])
            for some in self._slices(np.flatnonzero(states_of == PARTIAL)):
                self._add(queries[some], blocks[some], None)

    def _of_queries(self, blocks: IntArray) -> tuple[IntArray, IntArray]:
        return self.q_range[0][blocks], self.q_range[1][blocks]

    def _states(self, q_blocks: IntArray, k_blocks: IntArray) -> States:
        return self.rule.states(self._of_queries(q_blocks), (self.k_range[0][k_blocks], self.k_range[1][k_blocks]))

    def _slices(self, entries: IntArray) -> Iterator[IntArray]:
        size = max(1, _PAIRS_AT_ONCE // (self.part.q_block * self.part.kv_block))
        for start in range(0, len(entries), size):
            yield entries[start : start + size]

    def _add_whole(self, q_blocks: IntArray, keys: IntArray) -> None:
        sums = np.bincount(q_blocks, weights=keys, minlength=self.part.q_blocks).astype(np.int64)
        self.counts += sums[:, None] * (self.q >= 0)

    def _add(self, q_blocks: IntArray, k_blocks: IntArray, masks: BoolArray | None) -> None:
        broken = self.rule.breaks(self.q[q_blocks][:, :, None], self.k[k_blocks][:, None, :])
        if masks is not None:
            broken &= masks
        np.add.at(self.counts, q_blocks, broken.sum(axis=2))


def _in_blocks(order: Int32Array, values: IntArray, block: int) -> IntArray:
    """The numbers of the tokens, block by block; -1 for pads."""
    numbers = np.where(order >= 0, values[np.maximum(order, 0)] if len(values) else -1, -1)
    return numbers.astype(np.int64).reshape(-1, block)


def _range(values: IntArray) -> tuple[IntArray, IntArray]:
    """Smallest and largest number of each block; of none, the smallest exceeds the largest."""
    return np.where(values >= 0, values, _HUGE).min(axis=1, initial=_HUGE), values.max(axis=1, initial=-1)


def _over_runs(blocks: tuple[IntArray, IntArray], first: IntArray, stop: IntArray) -> tuple[IntArray, IntArray]:
    """Smallest and largest number over runs of blocks, by tables of runs whose lengths double."""
    low, high = np.full(len(first), _HUGE), np.full(len(first), -1, dtype=np.int64)
    tables, size = blocks, 1
    while len(first) and size <= int((stop - first).max()):
        here = np.flatnonzero((stop - first >= size) & (stop - first < 2 * size))
        for start in (first[here], stop[here] - size):
            low[here] = np.minimum(low[here], tables[0][start])
            high[here] = np.maximum(high[here], tables[1][start])
        tables = (
            np.minimum(tables[0][:-size], tables[0][size:]),
            np.maximum(tables[1][:-size], tables[1][size:]),
        )
        size *= 2
    return low, high
