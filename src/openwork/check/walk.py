"""What reaches what, layer by layer: sets of keys as bits, one row for each query, a panel of columns at a time.

After a layer a query holds what it held (the residual connection) and what the keys that it sees held. Columns do
not depend on each other, so a panel of them goes through all layers alone: its rows stay in the cache, and panels run
in threads. In each layer only queries are looked at whose keys have changed since the pattern was last applied, and
of them only those that are not complete.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from threading import Event
from typing import Any

import numpy as np
import numpy.typing as npt

from openwork.check.runs import Lookups, PartRuns
from openwork.patterns.annotations import BoolArray, IntArray

__all__ = ["Progress", "Walk", "walk"]

Progress = Callable[[float], None]
"""Called with the share of the work that is done, 0 to 1, from the thread that called."""

Bits = npt.NDArray[np.uint64]

_PANEL = 2048
"""Columns of a panel, at most."""
_PANEL_BYTES = 128 << 20
"""Memory of a panel with its table, in bytes; long sequences get narrower panels."""
_ROUNDS = 32
"""Look-ups after which queries that have become complete are set aside."""


@dataclass(frozen=True, eq=False)
class Walk:
    """What became of some columns.

    Attributes:
        connected: int64 `[layers]`: pairs of a query and a column that are connected after each layer.
        hops: int64 `[n]`: for each watched pair the layers that it takes, 0 for a token and itself, -1 if it is not
            connected after all layers.
        settled: Whether no further layer of any of the patterns would connect another pair.
    """

    connected: IntArray
    hops: IntArray
    settled: bool


def walk(
    steps: Sequence[tuple[PartRuns, ...]],
    order: Sequence[int],
    length: int,
    columns: IntArray,
    *,
    causal: bool,
    watch: tuple[IntArray, IntArray] = (np.zeros(0, np.int64), np.zeros(0, np.int64)),
    progress: Progress | None = None,
) -> Walk:
    """Sends `columns` through the layers.

    Args:
        steps: The patterns as runs, each with the parts of all its heads.
        order: For each layer the number of its pattern in `steps`.
        length: Number of tokens.
        columns: Keys that are followed, ascending.
        causal: Whether no key after a query is allowed anywhere, which makes rows complete sooner.
        watch: Queries and keys; the keys are among `columns`.
        progress: Told how far it is.
    """
    width = _width(steps, length)
    panels = [columns[start : start + width] for start in range(0, len(columns), width)]
    done = [0] * len(panels)
    stopped = Event()

    def run(number: int) -> tuple[IntArray, IntArray, bool]:
        panel = panels[number]
        mine = np.flatnonzero(np.isin(watch[1], panel))
        state = _Panel(length, panel, causal)
        watched = watch[0][mine], np.searchsorted(panel, watch[1][mine])
        hops = np.where(state.holds(*watched), 0, -1)
        connected = np.zeros(len(order), dtype=np.int64)
        for layer, which in enumerate(order):
            if stopped.is_set():
                break
            if state.apply(which, steps[which]):
                new = (hops < 0) & state.holds(*watched)
                hops[new] = layer + 1
            connected[layer] = state.total
            done[number] = layer + 1
        every = np.full(len(watch[0]), -1, dtype=np.int64)
        every[mine] = hops
        return connected, every, state.settled(set(order))

    if not panels:
        return Walk(np.zeros(len(order), dtype=np.int64), np.full(len(watch[0]), -1, dtype=np.int64), True)
    results = _in_threads(run, len(panels), lambda: sum(done) / (len(panels) * len(order)), progress, stopped)
    connected, hops, settled = zip(*results, strict=True)
    return Walk(np.sum(connected, axis=0), np.max(hops, axis=0), all(settled))


def _width(steps: Sequence[tuple[PartRuns, ...]], length: int) -> int:
    """Columns of a panel: 8 bytes of a row hold 64."""
    table = max((part.levels * len(part.order) for parts in steps for part in parts), default=0)
    return min(_PANEL, 64 * max(1, _PANEL_BYTES // (8 * (2 * length + table))))


def _in_threads(
    run: Callable[[int], Any], count: int, share: Callable[[], float], progress: Progress | None, stopped: Event
) -> list[Any]:
    threads = min(count, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 8)
    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(run, number) for number in range(count)]
        try:
            for future in futures:
                while progress is not None and not future.done():
                    progress(share())
                    wait([future], timeout=0.1)
                future.result()
        except BaseException:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if progress is not None:
        progress(1.0)
    return [future.result() for future in futures]


class _Panel:
    """The rows of some columns: bits, how many, and when each row last changed."""

    def __init__(self, length: int, columns: IntArray, causal: bool) -> None:
        words = -(-len(columns) // 64)
        self.rows: Bits = np.zeros((length, words), dtype=np.uint64)
        self.rows[columns, np.arange(len(columns)) // 64] = np.uint64(1) << (np.arange(len(columns)) % 64).astype(
            np.uint64
        )
        self.new = self.rows.copy()
        self.count = np.zeros(length, dtype=np.int64)
        self.count[columns] = 1
        every = np.full(length, len(columns), dtype=np.int64)
        self.target = np.searchsorted(columns, np.arange(length), side="right") if causal else every
        self.changed_at = np.where(self.count > 0, 0, -1)
        self.version = 0
        self.last_read: dict[int, int] = {}
        self._table: Bits = np.zeros((0, length, words), dtype=np.uint64)

    @property
    def total(self) -> int:
        """Pairs that are connected."""
        return int(self.count.sum())

    def holds(self, queries: IntArray, columns: IntArray) -> BoolArray:
        """Whether each query holds a column of the panel."""
        bits = self.rows[queries, columns // 64] >> (columns % 64).astype(np.uint64)
        held: BoolArray = (bits & np.uint64(1)).astype(bool)
        return held

    def settled(self, which: set[int]) -> bool:
        """Whether applying any of these patterns again would change nothing."""
        newest = int(self.changed_at.max(initial=-1))
        return all(self.last_read.get(each, -1) >= newest for each in which) or bool((self.count == self.target).all())

    def apply(self, which: int, parts: tuple[PartRuns, ...]) -> bool:
        """One layer of pattern number `which`; whether something changed."""
        changed = self.changed_at > self.last_read.get(which, -1)
        self.last_read[which] = self.version
        self.version += 1
        if not changed.any():
            return False
        touched = np.zeros(len(self.count), dtype=bool)
        for part in parts:
            self._apply_part(part, changed, touched)
        queries = np.flatnonzero(touched)
        rows = self.new[queries]
        count = np.bitwise_count(rows).sum(axis=1, dtype=np.int64)
        more = count != self.count[queries]
        queries = queries[more]
        self.rows[queries] = rows[more]
        self.count[queries] = count[more]
        self.changed_at[queries] = self.version
        return len(queries) > 0

    def _apply_part(self, part: PartRuns, changed: BoolArray, touched: BoolArray) -> None:
        before = np.concatenate([[0], np.cumsum(changed[part.order])])
        if not before[-1]:
            return
        ready = (0, 0)
        for lookups in part.lookups():
            news = before[lookups.stop] > before[lookups.first]
            active = np.zeros(len(lookups.queries), dtype=bool)
            active[lookups.run_query[news]] = True
            active &= self.count[lookups.queries] < self.target[lookups.queries]
            if not active.any():
                continue
            needed = active[lookups.run_query]
            span = int(lookups.first[needed].min()), int(lookups.stop[needed].max())
            if part.part is not None:
                span = 0, len(part.order)
            if span != ready:
                self._fill(part, *span)
                ready = span
            self._look_up(lookups, active, len(part.order))
            touched[lookups.queries[active]] = True

    def _fill(self, part: PartRuns, first: int, stop: int) -> None:
        """Fills the table for the slots `first` to `stop`."""
        slots, words = len(part.order), self.rows.shape[1]
        if self._table.shape[0] * self._table.shape[1] < part.levels * slots:
            self._table = np.empty((part.levels, slots, words), dtype=np.uint64)
        table = self._table.reshape(-1, words)[: part.levels * slots].reshape(part.levels, slots, words)
        if part.natural:
            held = self.rows[first:stop]  # pads at the end hold nothing and are in no run
            table[0, first : first + len(held)] = held
        else:
            np.take(self.rows, part.order[first:stop], axis=0, out=table[0, first:stop], mode="clip")
        for level in range(1, part.levels):
            half, end = 1 << (level - 1), stop - (1 << level) + 1
            if end <= first:
                break
            below = table[level - 1]
            np.bitwise_or(below[first:end], below[first + half : end + half], out=table[level, first:end])

    def _look_up(self, lookups: Lookups, active: BoolArray, slots: int) -> None:
        """ORs the look-ups of the active queries into their new rows."""
        words = self.rows.shape[1]
        table = self._table.reshape(-1, words)
        queries, begin, count = lookups.queries[active], lookups.begin[active], lookups.count[active]
        rows = self.new[queries]
        buffer = np.empty_like(rows)
        for turn in range(int(count[0])):
            some = int(np.searchsorted(-count, -turn))
            if turn and turn % _ROUNDS == 0:
                held = np.bitwise_count(rows[:some]).sum(axis=1, dtype=np.int64)
                open_rows = np.flatnonzero(held < self.target[queries[:some]])
                if 2 * len(open_rows) < some:
                    self.new[queries] = rows
                    queries, begin, count = queries[open_rows], begin[open_rows], count[open_rows]
                    rows = rows[open_rows]
                    some = len(queries)
                    if not some:
                        return
            entry = begin[:some] + turn
            where = lookups.level[entry].astype(np.int64) * slots + lookups.slot[entry]
            np.take(table, where, axis=0, out=buffer[:some], mode="clip")
            np.bitwise_or(rows[:some], buffer[:some], out=rows[:some])
        self.new[queries] = rows
