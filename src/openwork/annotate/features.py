"""Features of sequences from a GFF3 or BED file, as flags: which bases lie in a gene, an exon, a repeat."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from openwork.annotate.characters import CharacterFacts, to_tokens
from openwork.annotate.offsets import check_offsets
from openwork.errors import AnnotationError
from openwork.patterns.annotations import Annotations, IntArray
from openwork.patterns.declarations import Declarations

__all__ = ["SequenceFeatures", "read_features"]

_BED_SUFFIXES = (".bed",)
_NO_SPANS: IntArray = np.zeros((0, 2), dtype=np.int64)


@dataclass(frozen=True, eq=False)
class SequenceFeatures:
    """Features as an annotator of FASTA text: one flag for each type of feature.

    What a feature says of a base was found out by someone who had the whole sequence before them, so in general it
    tells of bases that are still to come: a base in an exon is followed by more of it. It is causal only where the
    features are knowledge from elsewhere that is there before the first base is read, as a reference's are for another
    individual's reads. Nobody but the caller knows that: `known_beforehand`.

    Args:
        name: What reports call the annotator.
        spans: Type of feature to sequence id to int64 `[n, 2]`, half-open and counted from 0, disjoint and ascending.
        known_beforehand: Whether the features are outside knowledge.
        inside: The sequence that a text begins in, where it does not begin with a header: id and number of bases
            before it.
    """

    name: str
    spans: Mapping[str, Mapping[str, IntArray]]
    known_beforehand: bool = False
    inside: tuple[str, int] | None = None
    declares: Declarations = field(default_factory=Declarations)

    @property
    def causal(self) -> bool:
        """Whether the caller said that the features are known beforehand."""
        return self.known_beforehand

    @property
    def sequences(self) -> frozenset[str]:
        """Ids of the sequences that have features."""
        return frozenset(name for places in self.spans.values() for name in places)

    def beginning_in(self, sequence: str, bases: int) -> SequenceFeatures:
        """The annotator of a piece of text that begins inside a sequence, after so many of its bases."""
        return replace(self, inside=(sequence, bases))

    def require_sequences(self, ids: Iterable[str]) -> None:
        """Raises an `AnnotationError` where no feature speaks of one of these sequences."""
        known = sorted(set(ids))
        if self.sequences & set(known):
            return
        raise AnnotationError(
            f"{self.name} speaks of the sequences {_some(sorted(self.sequences))}, the data has {_some(known)}: no id "
            "is in both. Give the features of these sequences, or name them alike (often it is 'chr1' against '1')."
        )

    def __call__(self, text: str, offsets: Any) -> Annotations:
        """The flags of the tokens that stand at `offsets` (int `[n, 2]`) of a FASTA `text`.

        Raises:
            AnnotationError: `offsets` are no spans of `text`.
        """
        checked = check_offsets(text, offsets)
        flagged = {name: np.zeros(len(text) + 2, dtype=np.int8) for name in self.spans}
        for sequence, before, places in _sequences(text, self.inside):
            for name, by_sequence in self.spans.items():
                for first, stop in _clipped(by_sequence.get(sequence, _NO_SPANS), before, before + len(places)):
                    # bases alone: of a line ending nobody knows yet whether the sequence goes on behind it
                    flagged[name][places[first:stop] + 1] = 1
        flags = {name: _runs(marks) for name, marks in flagged.items()}
        return to_tokens(CharacterFacts(flags=flags), text, checked)


def _runs(marks: Any) -> list[tuple[int, int]]:
    return [(int(first), int(stop)) for first, stop in np.flatnonzero(np.diff(marks)).reshape(-1, 2)]


def _clipped(spans: IntArray, first: int, stop: int) -> IntArray:
    low, high = np.searchsorted(spans[:, 1], first, side="right"), np.searchsorted(spans[:, 0], stop)
    return np.asarray(np.clip(spans[low:high], first, stop) - first)


def _sequences(text: str, inside: tuple[str, int] | None) -> Iterator[tuple[str, int, IntArray]]:
    """Id, number of bases before, and the characters that are bases, of each sequence in a text."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    is_base = codes > ord(" ")
    headers: list[tuple[int, int]] = []
    position = 0 if text[:1] == ">" else text.find("\n>") + 1 or len(text)
    while position < len(text):
        stop = text.find("\n", position)
        stop = len(text) if stop < 0 else stop
        headers.append((position, stop))
        following = text.find("\n>", stop)
        position = len(text) if following < 0 else following + 1
    edges = [*(first for first, _ in headers), len(text)]
    if inside is not None and edges[0] > 0:
        yield inside[0], inside[1], np.flatnonzero(is_base[: edges[0]])
    for (first, stop), end in zip(headers, edges[1:], strict=True):
        words = text[first + 1 : stop].split(maxsplit=1)
        yield words[0] if words else "", 0, np.flatnonzero(is_base[stop:end]) + stop


def read_features(path: Path | str, *, known_beforehand: bool = False) -> SequenceFeatures:
    """The features of a GFF3 or BED file (by its ending; plain or gzipped) as an annotator of FASTA text.

    GFF3 counts from 1 and includes both ends, BED counts from 0 and leaves the end out; here both mean the same bases.
    In GFF3 the third column names the flag (`gene`, `exon`, `CDS` ...). BED has no types: its flag is called like the
    file without its ending. Overlapping features of one type are one.

    Args:
        path: The file.
        known_beforehand: Whether the features are outside knowledge, there before the first base is read. Otherwise
            the annotator is not causal; see `SequenceFeatures`.

    Raises:
        AnnotationError: The file cannot be read, a line is no feature (the message names it), or there is none.
    """
    path = Path(path)
    stem = path.name.removesuffix(".gz")
    bed = Path(stem).suffix.lower() in _BED_SUFFIXES
    found: dict[str, dict[str, list[tuple[int, int]]]] = {}
    for number, line in enumerate(_lines(path), start=1):
        if not bed and line.startswith(("##FASTA", ">")):
            break
        # in BED these words alone, or before a blank, are a genome browser's; a sequence may be called track_1
        if not line.strip() or line.startswith("#") or (bed and line.split()[0] in ("track", "browser")):
            continue
        kind, sequence, first, stop = _feature(path, number, line, Path(stem).stem if bed else None)
        found.setdefault(kind, {}).setdefault(sequence, []).append((first, stop))
    if not found:
        raise AnnotationError(f"{path} holds no feature; give a GFF3 or BED file.")
    spans = {
        kind: {name: _joined(rows) for name, rows in sorted(places.items())} for kind, places in sorted(found.items())
    }
    return SequenceFeatures(path.name, spans, known_beforehand)


def _lines(path: Path) -> Iterator[str]:
    try:
        with open(path, "rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rt", encoding="utf-8") if packed else open(path, encoding="utf-8") as lines:
            yield from lines
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise AnnotationError(
            f"cannot read the features in {path}: {getattr(error, 'strerror', None) or error}."
        ) from None


def _feature(path: Path, number: int, line: str, bed_flag: str | None) -> tuple[str, str, int, int]:
    """Flag, sequence and half-open span from 0 of one line."""
    columns = line.rstrip("\r\n").split("\t" if "\t" in line else None)
    where = (1, 2) if bed_flag is not None else (3, 4)
    try:
        first, stop = (int(columns[place]) for place in where)
    except (IndexError, ValueError):
        wanted = "BED: sequence, start, end" if bed_flag else "GFF3: nine columns, start and end the fourth and fifth"
        raise AnnotationError(
            f"{path} line {number} is no feature ({wanted}, tabs between); got {line.strip()[:60]!r}."
        ) from None
    first -= bed_flag is None
    if not 0 <= first <= stop:
        raise AnnotationError(
            f"{path} line {number} has a feature from {columns[where[0]]} to {columns[where[1]]}; a feature ends where "
            f"it starts or later, and {'BED counts from 0' if bed_flag else 'GFF3 counts from 1'}."
        )
    return bed_flag or columns[2], columns[0] if bed_flag else unquote(columns[0]), first, stop


def _joined(rows: list[tuple[int, int]]) -> IntArray:
    """Spans as disjoint ones in ascending order; empty ones are none."""
    spans = np.array(sorted(row for row in rows if row[1] > row[0]), dtype=np.int64).reshape(-1, 2)
    if not len(spans):
        return spans
    reach = np.maximum.accumulate(spans[:, 1])
    new = np.r_[True, spans[1:, 0] > reach[:-1]]
    return np.stack([spans[new, 0], reach[np.r_[new[1:], True]]], axis=1)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") if names else "(none)"
