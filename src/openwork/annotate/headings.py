"""Headings of a text as facts: what the annotators of all markup languages share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from openwork.annotate.base import TextAnnotator
from openwork.annotate.characters import CharacterFacts, to_tokens
from openwork.patterns.annotations import Annotations, IntArray
from openwork.patterns.declarations import Declarations

__all__ = ["Heading", "Line", "heading_annotator", "lines_of"]

_LINE = re.compile(r"([^\r\n]*)(\r\n|\r|\n|\Z)")


@dataclass(frozen=True)
class Heading:
    """The part of a heading that can be flagged without knowing the future.

    Args:
        first: The character that shows it to be a heading; the flag starts here.
        stop: End of the heading.
        level: 1 is the highest.
    """

    first: int
    stop: int
    level: int


@dataclass(frozen=True)
class Line:
    """One line of a text.

    Args:
        start: Its first character.
        text: The line without its ending.
        ended: Whether the line ending has been read; the text may stop before it.
    """

    start: int
    text: str
    ended: bool


def lines_of(text: str) -> Iterator[Line]:
    r"""The lines of a text, ended by LF, CR or CR LF; an empty last line is none.

    >>> [(line.text, line.ended) for line in lines_of("a\r\n\nb")]
    [('a', True), ('', True), ('b', False)]
    """
    for match in _LINE.finditer(text):
        if match.group():
            yield Line(match.start(), match.group(1), bool(match.group(2)))


@dataclass(frozen=True)
class _HeadingAnnotation:
    find: Callable[[str], list[Heading]]

    def __call__(self, text: str, offsets: IntArray) -> Annotations:
        found = self.find(text)
        edges = [0, *(heading.first for heading in found), len(text)]
        return to_tokens(
            CharacterFacts(
                flags={"heading": [(heading.first, heading.stop) for heading in found]},
                labels={
                    "level": [(heading.first, heading.stop, heading.level) for heading in found],
                    "section": [(edges[n], edges[n + 1], n) for n in range(len(found) + 1)],
                },
            ),
            text,
            offsets,
        )


def heading_annotator(name: str, find: Callable[[str], list[Heading]]) -> TextAnnotator:
    """The annotator of a markup language, from a function that finds the headings of a text in reading order.

    Makes flag `heading`, label `level` (on flagged tokens, from 1 down) and label `section`: how many headings have
    begun, 0 before the first. `section` never decreases, and is declared so.
    """
    return TextAnnotator(
        name, _HeadingAnnotation(find), causal=True, declares=Declarations(nondecreasing_labels={"section"})
    )
