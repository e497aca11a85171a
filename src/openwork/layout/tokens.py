"""The tokens of one side of a bound pattern: positions and facts by row (`Tokens` of the rectangle protocol)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from openwork.layout.positions import SequenceBinding
from openwork.patterns.annotations import Annotations, BoolArray, IntArray

__all__ = ["SideTokens", "TokenView", "sides_of"]


@dataclass(frozen=True, eq=False)
class SideTokens:
    """All tokens of one side.

    Attributes:
        positions: int64 `[length]`.
        facts: Annotations that this side reads, if there are any.
        offset: Row of the facts that token 0 has.
        links: Annotations of the queries, whose links lead to keys.
    """

    positions: IntArray
    facts: Annotations | None
    offset: int = 0
    links: Annotations | None = None
    _cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.positions)

    def per_token(self, kind: str, name: str) -> Any:
        """The flag or label `name` of every token."""
        assert self.facts is not None  # `resolve` has checked what the pattern needs
        return getattr(self.facts, kind)[name][self.offset : self.offset + len(self)]

    def link_table(self, name: str) -> tuple[IntArray, IntArray]:
        """Key spans that each token is linked to: two int64 `[length, most]`, 0-0 pads."""
        if name not in self._cache:
            self._cache[name] = self._make_link_table(name)
        table: tuple[IntArray, IntArray] = self._cache[name]
        return table

    def _make_link_table(self, name: str) -> tuple[IntArray, IntArray]:
        assert self.links is not None
        q_first, q_stop, kv_first, kv_stop = self.links.links[name].T
        q_first = np.clip(q_first - self.offset, 0, len(self))
        lengths = np.clip(q_stop - self.offset, 0, len(self)) - q_first
        lengths = np.maximum(lengths, 0)
        link = np.repeat(np.arange(len(lengths)), lengths)
        token = np.arange(len(link)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + q_first[link]
        order = np.argsort(token, kind="stable")
        token, link = token[order], link[order]
        starts = np.flatnonzero(np.diff(token, prepend=-1))
        slot = np.arange(len(token)) - np.repeat(starts, np.diff(np.append(starts, len(token))))
        most = int(slot.max()) + 1 if len(slot) else 1
        first, stop = np.zeros((2, len(self), most), dtype=np.int64)
        first[token, slot], stop[token, slot] = kv_first[link], kv_stop[link]
        return first, stop

    def link_targets(self, name: str) -> BoolArray:
        """Whether some link leads to each token, bool `[length]`."""
        key = "targets", name
        if key not in self._cache:
            assert self.links is not None
            rows = self.links.links[name]
            change = np.zeros(len(self) + 1, dtype=np.int64)
            np.add.at(change, np.minimum(rows[:, 2], len(self)), 1)
            np.add.at(change, np.minimum(rows[:, 3], len(self)), -1)
            self._cache[key] = np.cumsum(change)[:-1] > 0
        targets: BoolArray = self._cache[key]
        return targets

    def view(self, rows: Any) -> TokenView:
        """The tokens at `rows`, an int array of any shape; rows below 0 are pads and read token 0."""
        return TokenView(self, np.maximum(rows, 0))


@dataclass(frozen=True, eq=False)
class TokenView:
    """Some tokens of a side, in any array shape; what `Pattern.pairs` reads."""

    side: SideTokens
    index: IntArray

    @cached_property
    def position(self) -> IntArray:
        """Position of each token; -1 for padding."""
        return self.side.positions[self.index]

    def flag(self, name: str) -> BoolArray:
        """Whether each token carries flag `name`."""
        flags: BoolArray = self.side.per_token("flags", name)[self.index]
        return flags

    def label(self, name: str) -> IntArray:
        """Label `name` of each token."""
        labels: IntArray = self.side.per_token("labels", name)[self.index]
        return labels

    def links(self, name: str) -> tuple[IntArray, IntArray]:
        """Key spans `[first, stop)` that each token is linked to; one axis more than `index`."""
        first, stop = self.side.link_table(name)
        return first[self.index], stop[self.index]

    def targets(self, name: str) -> BoolArray:
        """Whether some link `name` points at each token."""
        targets: BoolArray = self.side.link_targets(name)[self.index]
        return targets


def sides_of(sequence: SequenceBinding) -> tuple[SideTokens, SideTokens]:
    """The query side and the key side of one sequence."""
    facts, offset = sequence.q_facts or (None, 0)
    q = SideTokens(sequence.q_positions, facts, offset, links=facts)
    return q, SideTokens(sequence.kv_positions, sequence.k_facts, links=facts)
