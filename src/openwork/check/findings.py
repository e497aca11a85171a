"""What single layers do wrong: pairs and rows that should not be, counted, the first of them named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from openwork.check.layers import Layers
from openwork.check.pairs import ACROSS, FUTURE, Rule, count_pairs, first_pairs
from openwork.layout.data import Plane
from openwork.patterns.annotations import BoolArray, IntArray

__all__ = ["DOCUMENT", "Example", "Finding", "LayerFacts", "facts_of_layers"]

DOCUMENT = "document"
"""Label that tells the documents of a packed sequence apart; below 0 is padding."""

_WORDS = {
    "future": ("pair of a query and a later key", "pairs of a query and a later key"),
    "across": ("pair across documents", "pairs across documents"),
    "empty": ("query that sees no key", "queries that see no key"),
    "unread": ("key that no query reads", "keys that no query reads"),
}


@dataclass(frozen=True)
class Example:
    """One pair or row of a finding.

    Attributes:
        query: The query, by index; `None` where the finding is about keys.
        key: The key, by index; `None` where it is about queries.
        query_line: Line of the query in the text, from 1, where there is a text.
        key_line: Line of the key, likewise.
    """

    query: int | None
    key: int | None
    query_line: int | None = None
    key_line: int | None = None

    def __str__(self) -> str:
        names = [
            f"{what} {index}" + ("" if line is None else f" (line {line})")
            for what, index, line in (("query", self.query, self.query_line), ("key", self.key, self.key_line))
            if index is not None
        ]
        return " sees ".join(names)


@dataclass(frozen=True)
class Finding:
    """Pairs or rows of some heads of some layers that should not be.

    Attributes:
        kind: `"future"` (a query sees a later key), `"across"` (a query sees another document), `"empty"` (a query
            sees nothing) or `"unread"` (no query of any head sees a key, its own included).
        layers: The layers, from 0.
        heads: The query heads, from 0; empty where all heads are alike, or are counted together.
        count: How many in each of these heads.
        examples: The first of them.
    """

    kind: str
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    count: int
    examples: tuple[Example, ...]

    @property
    def words(self) -> str:
        """How many of what."""
        return f"{self.count:,} {_WORDS[self.kind][self.count != 1]}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "kind": self.kind,
            "layers": list(self.layers),
            "heads": list(self.heads),
            "count": self.count,
            "examples": [
                {name: value for name, value in vars(example).items() if value is not None} for example in self.examples
            ],
        }


@dataclass(frozen=True)
class LayerFacts:
    """What the layers of one pattern are like.

    Attributes:
        pattern: Its text.
        layers: The layers that use it, from 0.
        density: Allowed pairs over all pairs, mean over heads.
        causal_density: Allowed pairs over those with `k <= q`, where no pair lies in the future, else `None`.
        findings: What should not be.
    """

    pattern: str
    layers: tuple[int, ...]
    density: float
    causal_density: float | None
    findings: tuple[Finding, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "pattern": self.pattern,
            "layers": list(self.layers),
            "density": self.density,
            "causal_density": self.causal_density,
            "findings": [finding.to_dict() for finding in self.findings],
        }


def facts_of_layers(model: Layers, depth: int, lines: Sequence[int] | None, most: int) -> tuple[LayerFacts, ...]:
    """Density and findings of every distinct pattern.

    Args:
        model: The layers.
        depth: Layers that there are; more may be looked at.
        lines: Line of each token, from 1, where there is a text.
        most: Examples of each finding.
    """
    return tuple(_Layer(model, number, depth, lines, most).facts() for number in model.used)


class _Layer:
    def __init__(self, model: Layers, number: int, depth: int, lines: Sequence[int] | None, most: int) -> None:
        self.model, self.number, self.lines, self.most = model, number, lines, most
        self.layers = tuple(layer for layer in model.layers_with(number) if layer < depth)
        self.q_positions, self.k_positions = model.positions(number)
        notes = model.annotations
        self.documents = None if notes is None else notes.labels.get(DOCUMENT)
        self.q_real, self.k_real = (self._real(positions) for positions in (self.q_positions, self.k_positions))

    def _real(self, positions: IntArray) -> BoolArray:
        """Tokens that are no padding."""
        real: BoolArray = positions >= 0
        return real if self.documents is None else real & (self.documents >= 0)

    def facts(self) -> LayerFacts:
        layout = self.model.layouts[self.number]
        planes = self.model.planes(self.number)
        found: list[Finding] = []
        read = np.zeros(layout.kv_len, dtype=bool)
        for plane, heads in planes.items():
            named = heads if len(planes) > 1 else ()
            found += self._pairs("future", plane, named, FUTURE, self.q_positions, self.k_positions)
            if self.documents is not None:
                found += self._pairs("across", plane, named, ACROSS, self.documents, self.documents)
            found += self._rows("empty", (plane.row_counts() == 0) & self.q_real, named)
            read |= plane.seen_keys()
        found += self._rows("unread", ~read & self.k_real, ())
        causal = not any(finding.kind == "future" for finding in found)
        share = layout.allowed_pairs / layout.heads / max(1, self._past_pairs())
        return LayerFacts(
            self.model.names[self.number], self.layers, layout.density, share if causal else None, tuple(found)
        )

    def _past_pairs(self) -> int:
        """Pairs of a query and a key that is not later; padding counts in neither."""
        keys = np.sort(self.k_positions[self.k_positions >= 0])
        return int(np.searchsorted(keys, self.q_positions[self.q_positions >= 0], side="right").sum())

    def _pairs(
        self, kind: str, plane: Plane, heads: tuple[int, ...], rule: Rule, q_values: IntArray, k_values: IntArray
    ) -> list[Finding]:
        counts = count_pairs(plane, rule, q_values, k_values)
        if not counts.any():
            return []
        first = first_pairs(plane, rule, q_values, k_values, counts, self.most)
        examples = tuple(Example(q, k, self._line(q), self._line(k)) for q, k in first)
        return [Finding(kind, self.layers, heads, int(counts.sum()), examples)]

    def _rows(self, kind: str, which: BoolArray, heads: tuple[int, ...]) -> list[Finding]:
        rows = np.flatnonzero(which)
        if not len(rows):
            return []
        some = rows[: self.most].tolist()
        if kind == "empty":
            examples = tuple(Example(row, None, self._line(row)) for row in some)
        else:
            examples = tuple(Example(None, row, None, self._line(row)) for row in some)
        return [Finding(kind, self.layers, heads, len(rows), examples)]

    def _line(self, token: int) -> int | None:
        return None if self.lines is None else self.lines[token]
