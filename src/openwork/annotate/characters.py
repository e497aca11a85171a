"""From facts about characters to facts about tokens: the one place where the two meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from openwork.annotate.offsets import check_offsets
from openwork.patterns.annotations import Annotations, BoolArray, IntArray

__all__ = ["CharacterFacts", "CharacterLink", "to_tokens"]

UNFINISHED = np.iinfo(np.int64).max
"""The `stop` of a link whose end has not been read yet."""


@dataclass(frozen=True)
class CharacterLink:
    """A link between two stretches of a text, with the moment from which it is known.

    Args:
        known: Number of leading characters that must have been read for the link to be certain.
        stop: End of the stretch that is linked; it starts at the token that makes the link known and holds at least
            that token. `UNFINISHED` while the end has not been read.
        kv_first: First character of the stretch pointed to.
        kv_stop: End of the stretch pointed to.
    """

    known: int
    stop: int
    kv_first: int
    kv_stop: int


@dataclass(frozen=True)
class CharacterFacts:
    """Facts about the characters of a text, before tokens come into it.

    For a causal annotator what is said of a character must follow from the text up to it, the character included;
    of a character beyond ASCII, from the text before it alone (a byte-level token may hold only its first byte).
    Links carry their own moment.

    Args:
        flags: Name to half-open spans `(first, stop)`.
        labels: Name to half-open spans with their value, `(first, stop, value)`, in reading order, disjoint.
        links: Name to links.
    """

    flags: Mapping[str, Sequence[tuple[int, int]]] = field(default_factory=dict)
    labels: Mapping[str, Sequence[tuple[int, int, int]]] = field(default_factory=dict)
    links: Mapping[str, Sequence[CharacterLink]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Tokens:
    first: IntArray
    stop: IntArray
    known: IntArray
    """Leading characters that are certain once the token has been read."""
    real: BoolArray
    """False for special tokens, which carry no facts."""


def to_tokens(facts: CharacterFacts, text: str, offsets: Any) -> Annotations:
    """The facts of characters as facts of the tokens that stand for them.

    A token carries a flag if one of its characters does, and the label of its last character that has one (-1 if none
    has). A link starts at the first token by which it is known and leads, through the tokens that start before its
    end, to the tokens that hold its target and came before. Special tokens, span `(0, 0)`, carry nothing and split a
    link that runs across them. Another empty span `(e, e)` is what is left of a token of white space that the
    tokenizer trimmed; it is read as the character before `e`.

    A token that may hold only a part of its last character (a byte of a longer one) knows the text only up to that
    character, until as many tokens as the character has UTF-8 bytes have ended there.

    Raises:
        AnnotationError: `offsets` are no spans of `text`; see `check_offsets`.

    Examples:
        >>> facts = CharacterFacts(flags={"shout": [(3, 5)]}, labels={"word": [(0, 2, 0), (3, 6, 1)]})
        >>> notes = to_tokens(facts, "hi YOu", [(0, 0), (0, 2), (2, 5), (5, 6)])
        >>> notes.flags["shout"].tolist(), notes.labels["word"].tolist()
        ([False, False, True, False], [-1, 0, 1, 1])
    """
    tokens = _tokens(text, check_offsets(text, offsets))
    return Annotations(
        length=len(tokens.first),
        flags={name: _flag(tokens, spans, len(text)) for name, spans in facts.flags.items()},
        labels={name: _label(tokens, spans, len(text)) for name, spans in facts.labels.items()},
        links={name: _links(tokens, links) for name, links in facts.links.items()},
    )


def _tokens(text: str, offsets: IntArray) -> _Tokens:
    real = offsets[:, 1] > 0
    # special tokens take the place of the token before them, which keeps both columns in order for searching
    first, stop = np.maximum.accumulate(offsets, axis=0).T if len(offsets) else offsets.T
    first = np.where(real & (first == stop), stop - 1, first)
    return _Tokens(first, stop, _known(text, stop, real), real)


def _known(text: str, stop: IntArray, real: BoolArray) -> IntArray:
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    num_bytes = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
    known = stop.copy()
    (index,) = np.nonzero(real)
    if not len(index):
        return known
    ends = stop[index]
    new = np.r_[True, ends[1:] != ends[:-1]]
    # how many tokens, this one included, have ended at the same character
    count = np.arange(len(ends)) - np.maximum.accumulate(np.where(new, np.arange(len(ends)), 0)) + 1
    known[index] = np.where(count < num_bytes[ends - 1], ends - 1, ends)
    return np.asarray(np.maximum.accumulate(np.where(real, known, 0)))


def _flag(tokens: _Tokens, spans: Sequence[tuple[int, int]], length: int) -> BoolArray:
    change = np.zeros(length + 1, dtype=np.int64)
    if spans:
        first, stop = np.array(spans, dtype=np.int64).T
        np.add.at(change, np.minimum(first, length), 1)
        np.add.at(change, np.minimum(np.maximum(first, stop), length), -1)
    flagged = np.r_[0, np.cumsum(np.cumsum(change[:-1]) > 0)]
    return np.asarray(tokens.real & (flagged[tokens.stop] > flagged[tokens.first]))


def _label(tokens: _Tokens, spans: Sequence[tuple[int, int, int]], length: int) -> IntArray:
    value = np.full(length + 1, -1, dtype=np.int64)
    for first, stop, number in spans:
        value[first:stop] = number
    labelled = np.maximum.accumulate(np.where(value[:length] >= 0, np.arange(length), -1)) if length else value
    last = labelled[np.maximum(tokens.stop - 1, 0)]
    return np.asarray(np.where(tokens.real & (last >= tokens.first), value[last], -1))


def _links(tokens: _Tokens, links: Sequence[CharacterLink]) -> IntArray:
    if not links:
        return np.zeros((0, 4), dtype=np.int64)
    known, stop, kv_first, kv_stop = np.array(
        [(link.known, link.stop, link.kv_first, link.kv_stop) for link in links], dtype=np.int64
    ).T
    q_first = np.searchsorted(tokens.known, known)
    rows = np.stack(
        [
            q_first,
            np.maximum(np.searchsorted(tokens.first, stop), q_first + 1),
            np.searchsorted(tokens.stop, kv_first, side="right"),
            np.minimum(np.searchsorted(tokens.first, kv_stop), q_first),
        ],
        axis=1,
    )
    rows = rows[(q_first < len(tokens.first)) & (kv_stop > kv_first) & (rows[:, 3] > rows[:, 2])]
    return _without_special(rows, tokens.real) if not tokens.real.all() else rows


def _without_special(rows: IntArray, real: BoolArray) -> IntArray:
    """The same links with every span cut at special tokens."""
    edges = np.flatnonzero(np.diff(np.r_[False, real, False].astype(np.int8)))
    runs = edges.reshape(-1, 2)

    def pieces(first: int, stop: int) -> list[tuple[int, int]]:
        low, high = np.searchsorted(runs[:, 1], first, side="right"), np.searchsorted(runs[:, 0], stop)
        return [(max(first, int(a)), min(stop, int(b))) for a, b in runs[low:high]]

    cut = [
        (*q_span, *kv_span)
        for q_first, q_stop, kv_first, kv_stop in rows.tolist()
        for q_span in pieces(q_first, q_stop)
        for kv_span in pieces(kv_first, kv_stop)
    ]
    return np.array(cut, dtype=np.int64).reshape(-1, 4)
