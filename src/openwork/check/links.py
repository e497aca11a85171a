"""The concrete links of a text: which tokens have to learn of which, and how many layers that takes."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from openwork.annotate import CharacterFacts, CharacterLink, SourceFacts, check_offsets, to_tokens
from openwork.check.layers import layers_of
from openwork.check.walk import Progress, walk
from openwork.errors import AnnotationError, ArgumentError
from openwork.layout.data import BlockLayout
from openwork.patterns.annotations import Annotations, IntArray
from openwork.patterns.base import Pattern
from openwork.plan import Plan

__all__ = ["TextLink", "WatchedLinks", "links_in_text", "missed_links", "trace_links"]

_LONGEST_NAME = 60


@dataclass(frozen=True)
class TextLink:
    """A token that has to learn of some earlier tokens.

    Attributes:
        kind: `"use"` (a name and its definition), `"section"` (a line and its heading), `"passage"` (a question and a
            retrieved passage), or the name of the links that an annotator made.
        query: The token that asks: the one that shows the use, the first of the line, the last of the question.
        keys: `[first, stop)`, the tokens that it has to reach, all of them: the name where it is defined, the
            heading, the passage.
        query_line: Line of the query, from 1.
        key_line: Line of the first key, from 1.
        name: What is looked up.
        hops: Layers until the query has reached all keys; 1 is seen directly, `None` is not reached, or not asked.
    """

    kind: str
    query: int
    keys: tuple[int, int]
    query_line: int
    key_line: int
    name: str
    hops: int | None = None

    def reached(self, layers: int) -> bool:
        """Whether so many layers are enough."""
        return self.hops is not None and self.hops <= layers

    def __str__(self) -> str:
        place = f"line {self.query_line}"
        if self.kind == "use":
            return f"{place} uses `{self.name}`, defined at line {self.key_line}"
        if self.kind == "section":
            return f"{place} stands under `{self.name}`, line {self.key_line}"
        if self.kind == "passage":
            return f"{place} asks about passage {self.name}, which starts at line {self.key_line}"
        return f"{place} has a link {self.kind!r} to line {self.key_line}, `{self.name}`"

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "kind": self.kind,
            "query": self.query,
            "keys": list(self.keys),
            "query_line": self.query_line,
            "key_line": self.key_line,
            "name": self.name,
            "hops": self.hops,
        }


def links_in_text(
    text: str,
    offsets: Any,
    annotator: Callable[[str, Any], Annotations] | None = None,
    annotations: Annotations | None = None,
) -> tuple[TextLink, ...]:
    r"""The links that a reader of a text follows, by line.

    Of source code, each use of a name to its definition; of a document with headings, the first token of each line
    to the heading that it stands under; of passages and a question, the last token of the question to each passage
    before it; of other annotators, the links that they make.

    Args:
        text: The text.
        offsets: The character span of each token, int `[n, 2]`.
        annotator: What makes the facts; a source language says the names, too.
        annotations: Its facts about these tokens, where they have been made already; by default it is asked.

    Raises:
        AnnotationError: There is neither an annotator nor annotations, or they are for other tokens.

    Examples:
        >>> from openwork.annotate import byte_offsets, python_source
        >>> text = "def area(side):\n    return side * side\n\nprint(area(2))\n"
        >>> print(*links_in_text(text, byte_offsets(text), python_source))
        line 4 uses `area`, defined at line 1
    """
    spans = check_offsets(text, offsets)
    if annotations is None:
        if annotator is None:
            raise AnnotationError("links_in_text needs an annotator or annotations: without facts there are no links.")
        annotations = annotator(text, spans)
    if annotations.length != len(spans):
        raise AnnotationError(f"annotations describe {annotations.length} tokens, but the text has {len(spans)}.")
    place = _Places(text, spans)
    sources = list(_sources(annotator))
    links = [link for read in sources for link in _uses(read(text), place)]
    if not sources:
        links += [link for name, rows in annotations.links.items() for link in _plain(name, rows, place)]
    links += _sections(annotations, place)
    links += _passages(annotations, place)
    return tuple(sorted(links, key=lambda link: (link.query, link.keys)))


def trace_links(
    subject: Pattern | Plan | BlockLayout,
    links: Sequence[TextLink],
    length: int | None = None,
    layers: int = 64,
    annotations: Annotations | None = None,
    *,
    progress: Progress | None = None,
) -> tuple[TextLink, ...]:
    """The same links with the layers that each takes, `hops`; `None` where `layers` are not enough.

    Args:
        subject: A pattern, a plan or a layout.
        links: Links of the text.
        length: Number of tokens; may be left out of a layout.
        layers: Layers to look at.
        annotations: Facts about the tokens.
        progress: Called with the share of the work that is done, 0 to 1.

    Raises:
        ArgumentError: A link leaves the sequence, or another argument is none.
        AnnotationError: A pattern reads an annotation that is missing or of another length.
    """
    model = layers_of(subject, length, layers, annotations)
    watch = WatchedLinks(links, model.length)
    result = walk(
        model.runs,
        model.order,
        model.length,
        np.unique(watch.keys),
        causal=model.causal,
        watch=(watch.queries, watch.keys),
        progress=progress,
    )
    return watch.with_hops(result.hops)


class WatchedLinks:
    """Links as the pairs that a walk watches; a link is as far as the farthest of its keys."""

    def __init__(self, links: Sequence[TextLink], length: int) -> None:
        self.links = links
        rows = np.array([(link.query, *link.keys) for link in links], dtype=np.int64).reshape(-1, 3)
        query, first, stop = rows.T
        if len(rows) and (first.min() < 0 or query.min() < 0 or rows.max() > length or query.max() == length):
            raise ArgumentError(f"links must lead from tokens to tokens of the {length} that there are.")
        if (stop <= first).any():
            raise ArgumentError("a link must lead to one token or more: keys=(first, stop) with first < stop.")
        count = stop - first
        self._starts = np.cumsum(count) - count
        self.queries: IntArray = np.repeat(query, count)
        self.keys: IntArray = np.arange(int(count.sum())) + np.repeat(first - self._starts, count)

    def with_hops(self, hops: IntArray) -> tuple[TextLink, ...]:
        """The links with the layers that they take, from those of the pairs."""
        if not self.links:
            return ()
        most, least = np.maximum.reduceat(hops, self._starts), np.minimum.reduceat(hops, self._starts)
        return tuple(
            replace(link, hops=None if low < 0 else int(high))
            for link, low, high in zip(self.links, least.tolist(), most.tolist(), strict=True)
        )


def missed_links(
    subject: Pattern | Plan | BlockLayout,
    text: str,
    offsets: Any,
    *,
    annotator: Callable[[str, Any], Annotations],
    layers: int,
    most: int = 64,
) -> tuple[TextLink, ...]:
    r"""The links of a text that a pattern does not reach in `layers` layers, each with the layers that it needs.

    Args:
        subject: A pattern, a plan for `layers` layers, or a layout.
        text: The text.
        offsets: The character span of each token, int `[n, 2]`.
        annotator: What makes the facts that the patterns read, and that the links are.
        layers: Layers that there are.
        most: Layers up to which `hops` of a missed link is looked for; a plan ends with its layers.

    Raises:
        AnnotationError: The annotator does not make what the patterns read, or `offsets` are no spans of the text.

    Examples:
        >>> import openwork as ow
        >>> from openwork.annotate import byte_offsets, python_source
        >>> text = "def area(side):\n    return side * side\n" + "\n" * 40 + "print(area(2))\n"
        >>> window = ow.Causal() & ow.Window(before=31)
        >>> for link in missed_links(window, text, byte_offsets(text), annotator=python_source, layers=2):
        ...     print(link, "in", link.hops, "layers")
        line 43 uses `area`, defined at line 1 in 3 layers
    """
    spans = check_offsets(text, offsets)
    notes = annotator(text, spans)
    deepest = layers if isinstance(subject, Plan) else max(layers, most)
    links = links_in_text(text, spans, annotator, notes)
    traced = trace_links(subject, links, len(spans), deepest, notes) if links else ()
    return tuple(link for link in traced if not link.reached(layers))


class _Places:
    """Where tokens and lines of a text are."""

    def __init__(self, text: str, spans: IntArray) -> None:
        self.text, self.spans = text, spans
        self._line_starts = [0, *(index + 1 for index, sign in enumerate(text) if sign == "\n")]

    def line_at(self, character: int) -> int:
        """The line, from 1, of a character."""
        return bisect_right(self._line_starts, character)

    def line(self, token: int) -> int:
        """The line, from 1, that a token starts in."""
        return self.line_at(int(self.spans[token, 0]))

    def words(self, first: int, stop: int) -> str:
        """The text of some tokens in one line, shortened."""
        words = " ".join(self.text[self.spans[first, 0] : self.spans[stop - 1, 1]].split())
        return words if len(words) <= _LONGEST_NAME else words[: _LONGEST_NAME - 3] + "..."


def _sources(annotator: Any) -> Iterator[Callable[[str], SourceFacts]]:
    """Readers of the source languages that an annotator is made of."""
    function = getattr(annotator, "function", None)
    language = getattr(function, "language", None)
    if language is not None:
        yield language.read
    for member in getattr(function, "members", ()):
        yield from _sources(member)


def _uses(facts: SourceFacts, place: _Places) -> Iterator[TextLink]:
    links, names = {}, {}
    for number, use in enumerate(facts.uses):
        definition = facts.definitions[use.definition]
        line = place.text[definition.first : definition.stop]
        named = re.search(rf"\b{re.escape(definition.name)}\b", line) if definition.name else None
        first, stop = (definition.first + at for at in (named.span() if named else (0, len(line))))
        links[str(number)] = [CharacterLink(use.known, use.stop, first, stop)]
        names[str(number)] = definition.name or place.text[first:stop].strip(), place.line_at(use.first), first
    for key, rows in to_tokens(CharacterFacts(links=links), place.text, place.spans).links.items():
        name, query_line, first = names[key]
        # a special token in the middle would cut a link in pieces; the first starts at the use
        for query, _, kv_first, kv_stop in rows[:1].tolist():
            yield TextLink("use", query, (kv_first, kv_stop), query_line, place.line_at(first), name)


def _plain(kind: str, rows: IntArray, place: _Places) -> Iterator[TextLink]:
    for query, _, first, stop in rows.tolist():
        if stop > query:
            continue
        yield TextLink(kind, query, (first, stop), place.line(query), place.line(first), place.words(first, stop))


def _sections(notes: Annotations, place: _Places) -> Iterator[TextLink]:
    """The first token of each line that has words, to the heading that it stands under."""
    if "section" not in notes.labels or "heading" not in notes.flags:
        return
    section, heading = notes.labels["section"], notes.flags["heading"]
    last_line = -1
    headings: dict[int, tuple[int, int]] = {}
    for token in np.flatnonzero(section > 0).tolist():
        if heading[token]:
            first, stop = headings.get(int(section[token]), (token, token))
            if stop == token:
                headings[int(section[token])] = first, token + 1
            continue
        line = place.line(token)
        first_character, stop_character = place.spans[token].tolist()
        if line == last_line or not place.text[first_character:stop_character].strip():
            continue
        last_line = line
        keys = headings.get(int(section[token]))
        if keys is not None and place.line(keys[0]) != line:
            yield TextLink("section", token, keys, line, place.line(keys[0]), place.words(*keys))


def _passages(notes: Annotations, place: _Places) -> Iterator[TextLink]:
    """The last token of the question, to each passage before it."""
    if "passage" not in notes.labels or "question" not in notes.flags:
        return
    asked = np.flatnonzero(notes.flags["question"])
    if not len(asked):
        return
    query = int(asked[-1])
    label = notes.labels["passage"]
    for number in np.unique(label[label >= 0]).tolist():
        tokens = np.flatnonzero(label == number)
        first, stop = int(tokens[0]), int(tokens[-1]) + 1
        if stop <= query and stop - first == len(tokens):
            yield TextLink("passage", query, (first, stop), place.line(query), place.line(first), str(number))
