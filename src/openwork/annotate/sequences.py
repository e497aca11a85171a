"""Biological sequences: FASTA and FASTQ records."""

from __future__ import annotations

from itertools import pairwise

from openwork.annotate.base import TextAnnotator
from openwork.annotate.characters import CharacterFacts, to_tokens
from openwork.annotate.headings import Line, lines_of
from openwork.patterns.annotations import Annotations, IntArray
from openwork.patterns.declarations import Declarations

__all__ = ["fasta_records", "fastq_records"]

_RECORDS = Declarations(nondecreasing_labels={"record"})


def _records(text: str, starts: list[int]) -> list[tuple[int, int, int]]:
    """Spans of the records, numbered from 0; what stands before the first one belongs to it."""
    edges = [0, *starts[1:], len(text)] if starts else [0, len(text)]
    return [(first, stop, number) for number, (first, stop) in enumerate(pairwise(edges))]


def _line_span(line: Line) -> tuple[int, int]:
    return line.start, line.start + len(line.text)


def _fasta(text: str, offsets: IntArray) -> Annotations:
    headers = [line for line in lines_of(text) if line.text[:1] == ">"]
    facts = CharacterFacts(
        flags={"header": [_line_span(line) for line in headers]},
        labels={"record": _records(text, [line.start for line in headers])},
    )
    return to_tokens(facts, text, offsets)


def _fastq(text: str, offsets: IntArray) -> Annotations:
    headers: list[Line] = []
    qualities: list[tuple[int, int]] = []
    bases = scores = 0
    in_quality = True
    for line in lines_of(text):
        # a quality may begin with "@" as well: it is over when it is as long as the sequence
        if in_quality and scores >= bases:
            if line.text[:1] == "@":
                headers.append(line)
                bases = scores = 0
                in_quality = False
        elif in_quality:
            qualities.append(_line_span(line))
            scores += len(line.text)
        elif line.text[:1] == "+":
            in_quality = True
        else:
            bases += len(line.text)
    facts = CharacterFacts(
        flags={"header": [_line_span(line) for line in headers], "quality": qualities},
        labels={"record": _records(text, [line.start for line in headers])},
    )
    return to_tokens(facts, text, offsets)


fasta_records = TextAnnotator("fasta", _fasta, causal=True, declares=_RECORDS)
"""Records of a FASTA file: label `record`, counted from 0, and flag `header` on the line that begins with `>`.

All is known at once: the sign is the first character of its line.
"""

fastq_records = TextAnnotator("fastq", _fastq, causal=True, declares=_RECORDS)
"""Records of a FASTQ file: label `record`, counted from 0, flag `header` on the line with `@`, flag `quality`.

Sequences and qualities may span lines: a quality is over when it is as long as its sequence, so a quality that begins
with `@` begins no record. The line with `+` carries neither flag.
"""
