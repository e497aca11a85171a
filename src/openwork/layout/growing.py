"""Tokens of a sequence that grows: positions and facts so far, and an index over most of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from openwork.errors import AnnotationError, LayoutError
from openwork.layout.positions import KINDS
from openwork.layout.side import NodeSpans, Side
from openwork.layout.tokens import SideTokens
from openwork.patterns.annotations import Annotations, BoolArray, IntArray
from openwork.patterns.base import Pattern
from openwork.patterns.declarations import Declarations

__all__ = ["GrowingTokens"]

_BLOCK = 64
_LEAST_TAIL = 256


class _CachedKeys(SideTokens):
    """Keys whose links are still to come: any of them may be a target."""

    def link_targets(self, name: str) -> BoolArray:
        return np.ones(len(self), dtype=bool)


@dataclass(frozen=True, eq=False)
class GrowingTokens:
    """The tokens of one sequence so far; `extended` gives the sequence with more.

    Attributes:
        pattern: Says which facts are kept.
        positions: int64 `[length]`.
        flags: Flags that the pattern reads, bool `[length]` each.
        labels: Labels that the pattern reads, int64 `[length]` each.
        links: Links that the pattern reads, token by token: int64 `[n, 3]`, rows of query, first key, stop key.
        index: Keys that have been indexed, with their pyramid of ranges; later keys are looked at one by one.
    """

    pattern: Pattern
    positions: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    flags: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, Any] = field(default_factory=dict)
    links: dict[str, Any] = field(default_factory=dict)
    index: Side | None = None

    def __len__(self) -> int:
        return len(self.positions)

    def extended(self, count: int, annotations: Annotations | None, positions: IntArray | None) -> GrowingTokens:
        """The sequence with `count` tokens more."""
        old, total = len(self), len(self) + count
        if positions is None:
            positions = np.arange(old, total, dtype=np.int64)
        self._check_ascending(positions)
        facts = self._new_facts(count, annotations)
        grown = GrowingTokens(
            self.pattern,
            np.concatenate([self.positions, positions]),
            {name: _joined(self.flags.get(name), new) for name, new in facts["flags"].items()},
            {name: _joined(self.labels.get(name), new) for name, new in facts["labels"].items()},
            {name: _joined(self.links.get(name), new) for name, new in facts["links"].items()},
            self.index,
        )
        indexed = 0 if self.index is None else len(self.index.order)
        if total - indexed > max(_LEAST_TAIL, indexed // 2):
            return grown._indexed_anew()
        return grown

    def _check_ascending(self, positions: IntArray) -> None:
        """Refuses a token at or before the position of an earlier one: it could see what was dropped."""
        placed = positions[positions >= 0]
        before = np.concatenate([[self.next_position - 1], placed[:-1]])
        if (falls := np.flatnonzero(placed <= before)).size:
            raise LayoutError(
                f"append got position {placed[falls[0]]} after position {before[falls[0]]}, but positions of a decoded "
                "sequence ascend, for a later token never sees what was dropped. Decode documents whose positions "
                "restart as sequences of their own."
            )

    def _new_facts(self, count: int, annotations: Annotations | None) -> dict[str, dict[str, Any]]:
        if count == 0:
            return {kind: {name: values[:0] for name, values in getattr(self, kind).items()} for kind in KINDS.values()}
        old, total = len(self), len(self) + count
        facts: dict[str, dict[str, Any]] = {"flags": {}, "labels": {}, "links": {}}
        for name, kinds in self.pattern.needs.items():
            for kind in kinds.split("+"):
                if annotations is None or name not in getattr(annotations, KINDS[kind]):
                    raise AnnotationError(
                        f"the pattern reads the {kind} {name!r}: append tokens with annotations that carry it."
                    )
                if annotations.length not in (count, total):
                    raise AnnotationError(
                        f"annotations describe {annotations.length} tokens; append takes facts about the {count} new "
                        f"tokens, or about all {total}."
                    )
                values = getattr(annotations, KINDS[kind])[name]
                whole = annotations.length == total
                new = _per_token_links(values) if kind == "links" else values
                before = getattr(self, KINDS[kind]).get(name)
                if whole and old and before is not None:
                    earlier = new[new[:, 0] < old] if kind == "links" else new[:old]
                    if not np.array_equal(earlier, before):
                        raise AnnotationError(
                            f"the {kind} {name!r} of tokens before {old} are not what was appended before: facts about "
                            "read tokens do not change."
                        )
                if kind == "links":
                    new = new[new[:, 0] >= old] if whole else new + np.array([old, 0, 0])
                    if len(new) and new[:, 2].max() > total:
                        raise AnnotationError(
                            f"links {name!r} lead to key {int(new[:, 2].max()) - 1}, after the last of {total}."
                        )
                else:
                    new = new[old:] if whole else new
                facts[KINDS[kind]][name] = new
        return facts

    def _indexed_anew(self) -> GrowingTokens:
        length = len(self) // _BLOCK * _BLOCK
        facts = Annotations(
            length=length,
            flags={name: values[:length] for name, values in self.flags.items()},
            labels={name: values[:length] for name, values in self.labels.items()},
        )
        keys = _CachedKeys(self.positions[:length], facts)
        side = Side(keys, np.arange(length, dtype=np.int32), _BLOCK)
        return GrowingTokens(self.pattern, self.positions, self.flags, self.labels, self.links, side)

    def check(self, declarations: Declarations, start: int, *, since: int) -> None:
        """Holds the tokens from `since` on against a promise made at token `start`.

        Raises:
            AnnotationError: A token breaks the promise.
        """
        if not declarations:
            return
        recent = {}
        for name, rows in self.links.items():
            rows = rows[rows[:, 0] >= max(start, since)]
            recent[name] = np.stack([rows[:, 0], rows[:, 0] + 1, rows[:, 1], rows[:, 2]], axis=1)
        declarations.check(Annotations(len(self), self.flags, self.labels, recent), start)

    def indexed(self) -> Side:
        """The keys that have been indexed."""
        if self.index is None:
            return Side(_CachedKeys(self.positions[:0], Annotations(0)), np.zeros(0, dtype=np.int32), _BLOCK)
        return self.index

    @cached_property
    def _keys(self) -> _CachedKeys:
        return _CachedKeys(self.positions, Annotations(len(self), self.flags, self.labels))

    def all_keys(self) -> NodeSpans:
        """Every key as a set of its own."""
        side = Side(self._keys, np.arange(len(self), dtype=np.int32), 1)
        return NodeSpans(side, 0, np.arange(len(self)))

    def valid(self) -> BoolArray:
        """Bool `[length]`: tokens that are not padding."""
        return self.positions >= 0

    @property
    def next_position(self) -> int:
        """Smallest position that the next token can have: one more than the largest so far."""
        return int(self.positions.max(initial=-1)) + 1

    def last_labels(self) -> dict[str, int]:
        """The label of the last token that has one, by name; -1 where none has."""
        last = {}
        for name, values in self.labels.items():
            (labelled,) = np.nonzero(values >= 0)
            last[name] = int(values[labelled[-1]]) if len(labelled) else -1
        return last

    def last_query(self) -> SideTokens:
        """The last token, as the query side."""
        last = len(self) - 1
        links = {}
        for name, rows in self.links.items():
            rows = rows[rows[:, 0] == last]
            links[name] = np.stack([0 * rows[:, 0], 0 * rows[:, 0] + 1, rows[:, 1], rows[:, 2]], axis=1)
        facts = Annotations(
            length=1,
            flags={name: values[last:] for name, values in self.flags.items()},
            labels={name: values[last:] for name, values in self.labels.items()},
            links=links,
            kv_length=len(self),
        )
        return SideTokens(self.positions[last:], facts, links=facts)

    def visible_in_tail(self, pattern: Pattern, query: SideTokens) -> IntArray:
        """Indices of the keys after the indexed ones that the query sees."""
        rows = np.arange(len(self.indexed().order), len(self))
        tail = _TailKeys(self, rows)
        allowed = np.broadcast_to(pattern.pairs(query.view(np.zeros(1, dtype=np.int64)), tail), rows.shape)
        seen: IntArray = rows[allowed & self.valid()[rows] & (query.positions[0] >= 0)]
        return seen


@dataclass(frozen=True)
class _TailKeys:
    """Keys after the indexed ones, read straight from the arrays."""

    tokens: GrowingTokens
    index: IntArray

    @property
    def position(self) -> IntArray:
        return self.tokens.positions[self.index]

    def flag(self, name: str) -> BoolArray:
        flags: BoolArray = self.tokens.flags[name][self.index]
        return flags

    def label(self, name: str) -> IntArray:
        labels: IntArray = self.tokens.labels[name][self.index]
        return labels

    def links(self, name: str) -> tuple[IntArray, IntArray]:
        raise AssertionError("links are asked of queries")

    def targets(self, name: str) -> BoolArray:
        return np.ones(len(self.index), dtype=bool)


def _joined(before: Any, new: Any) -> Any:
    return new if before is None else np.concatenate([before, new])


def _per_token_links(rows: IntArray) -> IntArray:
    """Links with one row for each query token: int64 `[n, 3]`, sorted and distinct."""
    lengths = rows[:, 1] - rows[:, 0]
    query = np.repeat(rows[:, 0], lengths) + np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    expanded = np.stack([query, np.repeat(rows[:, 2], lengths), np.repeat(rows[:, 3], lengths)], axis=1)
    return np.unique(expanded, axis=0) if len(expanded) else expanded
