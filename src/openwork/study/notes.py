"""Annotations of training sequences: facts of whole documents, cut to the window that a sequence shows of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openwork.annotate import (
    Annotator,
    SequenceFeatures,
    annotator_for,
    annotator_named,
    combine,
    fasta_records,
    require_causal,
)
from openwork.errors import AnnotationError
from openwork.patterns import Annotations
from openwork.study.corpus import Document, read_text
from openwork.study.kinds import annotator_of_kind
from openwork.study.tokenizer import TextTokenizer
from openwork.study.tokens import TokenStream

__all__ = ["SequenceNotes", "annotator_of", "annotator_of_texts", "cut", "require_annotations"]

DOCUMENT = "document"
"""Label that every study has: which document of its sequence a token is of, counted from 0."""

_KINDS = ("flag", "label", "links")
_CACHED_TOKENS = 1 << 23


def annotator_of(
    document: Document, named: str | None = None, features: SequenceFeatures | None = None
) -> Annotator | None:
    """The annotator that is named, or that of the document's kind or of its file's name; `None` for other files.

    Sequences have their features beside it.
    """
    if features is not None and document.kind == "fasta":
        here = features if document.inside is None else features.beginning_in(*document.inside)
        return combine(fasta_records if named is None else annotator_named(named), here)
    if named is not None:
        return annotator_named(named)
    if document.kind:
        return annotator_of_kind(document.kind)
    try:
        return annotator_for(document.path)
    except AnnotationError:
        return None


def annotator_of_texts(
    documents: Sequence[Document], needs: Mapping[str, str], named: str | None = None
) -> Annotator | None:
    """What annotates a text that is no document of the study: the annotator that its documents share.

    Args:
        documents: Those of the study.
        needs: What a plan reads: name to kind.
        named: Name of the plan's annotator, where it has one.

    Returns:
        The only annotator that makes what is read; None where no annotator is needed.

    Raises:
        AnnotationError: Documents of several kinds have annotators of their own, or what is read is known of the
            study's sequences alone (`--features`).
    """
    wanted = {name: set(kinds.split("+")) for name, kinds in needs.items() if (name, kinds) != (DOCUMENT, "label")}
    one_of_each = {document.kind or document.path: document for document in documents}.values()
    found = (annotator_of(document, named) for document in one_of_each)
    speakers = {speaker.name: speaker for speaker in found if speaker is not None and _wanted(wanted, speaker)}
    offered = {name for speaker in speakers.values() for name in _given(speaker)}
    if missing := sorted(wanted.keys() - offered):
        raise AnnotationError(
            f"the plan reads {', '.join(map(repr, missing))}, which is known of this study's own sequences and of no "
            "other text; leave out the plan or the metric."
        )
    if len(speakers) > 1:
        raise AnnotationError(
            f"the plan reads what {', '.join(sorted(speakers))} make of this data, each of its own files, and a text "
            "that is none of them could be any; name one in the plan, openwork.Plan(..., annotator='python'), and "
            "give its JSON with --plan."
        )
    return next(iter(speakers.values()), None)


class SequenceNotes:
    """Makes the annotations of any window of a token stream.

    Documents are annotated as a whole, once, when a window first shows a part of them. In a window each document's
    facts stand beside the others': flags and links as they are, labels so that no two documents share one. A link
    whose query or key span lies outside the window is dropped, one that is cut by its edge is clipped. Separators
    carry nothing but the label `document` of the text that follows.

    Args:
        stream: The tokens.
        root: Directory of the documents.
        tokenizer: What made the tokens; it gives their offsets.
        needs: What the plan reads: name to kind.
        annotator: Name of the annotator of all documents; `None` for that of each file's kind.
        features: Facts about sequences, beside the annotator's.
    """

    def __init__(
        self,
        stream: TokenStream,
        root: Path,
        tokenizer: TextTokenizer,
        needs: Mapping[str, str],
        annotator: str | None = None,
        features: SequenceFeatures | None = None,
    ) -> None:
        self._stream, self._root, self._tokenizer = stream, root, tokenizer
        self._needs = {name: set(kinds.split("+")) for name, kinds in needs.items()}
        self._annotator, self._features = annotator, features
        self._cache: OrderedDict[int, Annotations] = OrderedDict()
        self._cached_tokens = 0

    def window(self, first: int, stop: int) -> Annotations:
        """The facts that the plan reads of the tokens `ids[first:stop]`."""
        length = stop - first
        flags, labels = self._blank("flag", length, False), self._blank("label", length, -1)
        links: dict[str, list[Any]] = {name: [] for name, kinds in self._needs.items() if "links" in kinds}
        next_label = dict.fromkeys(labels, 0)
        place = 0
        for order, (number, low, high) in enumerate(self._stream.pieces(first, stop)):
            # `place`: where the piece stands in the window; `text`: where its first token that is no separator does
            text, low_text = place + (low < 0), max(low, 0)
            notes = cut(self._document(number), low_text, high)
            here = slice(text, text + notes.length)
            for name in flags.keys() & notes.flags.keys():
                flags[name][here] = notes.flags[name]
            for name in labels.keys() & notes.labels.keys():
                values = notes.labels[name]
                labels[name][here] = np.where(values >= 0, values + next_label[name], -1)
                next_label[name] += int(values.max(initial=-1)) + 1
            if DOCUMENT in labels:
                labels[DOCUMENT][place : place + high - low] = order
            for name in links.keys() & notes.links.keys():
                links[name].append(notes.links[name] + text)
            place += high - low
        joined = {name: np.concatenate(rows) if rows else np.zeros((0, 4), np.int64) for name, rows in links.items()}
        return Annotations(length=length, flags=flags, labels=labels, links=joined)

    def _blank(self, kind: str, length: int, value: Any) -> dict[str, Any]:
        return {name: np.full(length, value) for name, kinds in self._needs.items() if kind in kinds}

    def _document(self, number: int) -> Annotations:
        if number in self._cache:
            self._cache.move_to_end(number)
            return self._cache[number]
        document = self._stream.documents[number]
        annotator = annotator_of(document, self._annotator, self._features)
        num_tokens = int(self._stream.ends[number] - self._stream.firsts[number]) - 1
        if annotator is None or not _wanted(self._needs, annotator):
            notes = Annotations(length=num_tokens)
        else:
            text = read_text(self._root, document)
            notes = annotator(text, self._tokenizer.offsets(text))
            if notes.length != num_tokens:
                raise AnnotationError(
                    f"annotations of {document.name} describe {notes.length} tokens, but its text has {num_tokens}: "
                    "the file changed, or its tokenizer's offsets do not match its ids."
                )
        self._cache[number] = notes
        self._cached_tokens += num_tokens
        while self._cached_tokens > _CACHED_TOKENS and len(self._cache) > 1:
            self._cached_tokens -= self._cache.popitem(last=False)[1].length
        return notes


def cut(notes: Annotations, first: int, stop: int) -> Annotations:
    """The facts of the tokens `first` to `stop`, counted anew from 0; links to what is outside are dropped.

    >>> notes = Annotations(length=9, links={"use": [[6, 8, 0, 2], [5, 7, 3, 5]]})
    >>> cut(notes, 4, 7).links["use"].tolist()
    [[1, 3, 0, 1]]
    """
    return Annotations(
        length=stop - first,
        flags={name: values[first:stop] for name, values in notes.flags.items()},
        labels={name: values[first:stop] for name, values in notes.labels.items()},
        # spans that are empty after clipping are dropped by Annotations itself
        links={name: np.clip(rows, first, stop) - first for name, rows in notes.links.items()},
    )


def require_annotations(
    documents: Sequence[Document],
    needs: Mapping[str, str],
    annotator: str | None = None,
    features: SequenceFeatures | None = None,
) -> None:
    """Raises an `AnnotationError` where a plan needs what no annotator gives for these documents.

    An annotator that may know the future is refused too: the model would be trained to cheat.
    """
    wanted = {name: set(kinds.split("+")) for name, kinds in needs.items()}
    one_of_each = {document.kind or document.path: document for document in documents}.values()
    found = (annotator_of(document, annotator, features) for document in one_of_each)
    speakers = {speaker.name: speaker for speaker in found if speaker is not None}
    offered: dict[str, set[str]] = {DOCUMENT: {"label"}}
    for speaker in speakers.values():
        for name, kinds in _given(speaker).items():
            offered.setdefault(name, set()).update(kinds)
        if _wanted(wanted, speaker):
            require_causal(speaker)
    for name, kinds in wanted.items():
        for kind in sorted(kinds - offered.get(name, set())):
            known = ", ".join(f"{kind} {name!r}" for name, kinds in sorted(offered.items()) for kind in sorted(kinds))
            names = ", ".join(sorted(speakers)) or "none"
            raise AnnotationError(
                f"the plan reads the {kind} {name!r}, which no annotator gives for this data. It has: {known} "
                f"(annotators: {names})."
            )


def _given(annotator: Annotator) -> dict[str, set[str]]:
    """The facts that an annotator makes: their names and kinds are there for an empty text too."""
    notes = annotator("", np.zeros((0, 2), dtype=np.int64))
    facts: dict[str, set[str]] = {}
    for kind, names in zip(_KINDS, (notes.flags, notes.labels, notes.links), strict=True):
        for name in names:
            facts.setdefault(name, set()).add(kind)
    return facts


def _wanted(needs: Mapping[str, set[str]], annotator: Annotator) -> bool:
    return any(needs.get(name, set()) & kinds for name, kinds in _given(annotator).items())
