"""Annotations of windows: against the annotations of whole documents, fact by fact."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openwork.annotate import annotator, python_source
from openwork.errors import AnnotationError
from openwork.patterns import Annotations
from openwork.study import notes
from openwork.study.corpus import Document, read_corpus
from openwork.study.notes import SequenceNotes, cut, require_annotations
from openwork.study.tokenizer import load_tokenizer
from openwork.study.tokens import TokenStream, load_stream, tokenize

NEEDS = {"definition": "flag", "use": "links", "document": "label"}


@pytest.fixture(scope="module")
def stream(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> TokenStream:
    corpus, tokenizer, place = read_corpus(texts), load_tokenizer(None), tmp_path_factory.mktemp("tokens")
    tokenize(corpus, "training", tokenizer, place)
    return load_stream(corpus, "training", tokenizer, place)


def whole(stream: TokenStream, root: Path) -> list[tuple[int, Annotations]]:
    """Each document's first token in the stream, and its facts."""
    tokenizer = load_tokenizer(None)
    found = []
    for first, document in zip(stream.firsts, stream.documents, strict=True):
        text = (root / document.path).read_text(encoding="utf-8")
        found.append((int(first) + 1, python_source(text, tokenizer.offsets(text))))
    return found


def test_a_window_shows_what_the_documents_say(stream: TokenStream, texts: Path) -> None:
    made = SequenceNotes(stream, texts, load_tokenizer(None), NEEDS)
    documents = whole(stream, texts)
    flags = np.zeros(len(stream.ids), dtype=bool)
    links = []
    for origin, facts in documents:
        flags[origin : origin + facts.length] = facts.flags["definition"]
        links += (facts.links["use"] + origin).tolist()
    assert flags.any() and links
    for first in (0, 100, 1234, 5000):
        stop = first + 3000
        window = made.window(first, stop)
        assert window.length == 3000
        assert np.array_equal(window.flags["definition"], flags[first:stop])
        expected = sorted(
            [max(a, first) - first, min(b, stop) - first, max(c, first) - first, min(d, stop) - first]
            for a, b, c, d in links
            if min(b, stop) > max(a, first) and min(d, stop) > max(c, first)
        )
        assert window.links["use"].tolist() == expected
        documents_of = np.searchsorted(stream.firsts, np.arange(first, stop), side="right") - 1
        assert np.array_equal(window.labels["document"], documents_of - documents_of[0])


def test_a_link_whose_definition_is_outside_is_dropped() -> None:
    facts = Annotations(length=10, links={"use": [[7, 9, 0, 3], [7, 9, 4, 6]]})
    assert cut(facts, 3, 10).links["use"].tolist() == [[4, 6, 1, 3]]
    assert cut(facts, 2, 8).links["use"].tolist() == [[5, 6, 0, 1], [5, 6, 2, 4]]


def test_no_two_documents_share_a_label(stream: TokenStream, texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sections(text: str, offsets: Any) -> Annotations:
        lines = [text[:first].count("\n") // 20 - 1 for first, _ in offsets]
        return Annotations(length=len(offsets), labels={"section": lines})

    monkeypatch.setattr(notes, "annotator_of", lambda document, named, features: annotator(sections, causal=True))
    window = SequenceNotes(stream, texts, load_tokenizer(None), {"section": "label", "document": "label"}).window(
        0, 4000
    )
    labels, documents = window.labels["section"], window.labels["document"]
    assert documents.max() >= 2
    owners = {label: set(documents[labels == label].tolist()) for label in np.unique(labels) if label >= 0}
    assert all(len(owner) == 1 for owner in owners.values())
    # labels never fall, so Earlier() means earlier text in every document
    assert (np.diff(labels[labels >= 0]) >= 0).all()
    assert (labels == -1).any()


def test_files_of_another_kind_carry_nothing(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(None)
    texts = {"a.txt": "def this(is): no code\n" * 9, "b.py": "def code():\n    pass\n" * 9}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    ids = np.concatenate([np.concatenate(([256], tokenizer.encode([text])[0])) for text in texts.values()])
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    documents = tuple(Document(name, len(text), digests[name]) for name, text in texts.items())
    stream = TokenStream(ids, np.array([0, len(texts["a.txt"]) + 1]), documents)
    flags = SequenceNotes(stream, tmp_path, tokenizer, {"definition": "flag"}).window(0, len(ids)).flags["definition"]
    assert not flags[: stream.firsts[1] + 1].any()
    assert flags[stream.firsts[1] + 1 :].any()


def test_what_no_annotator_gives_is_refused_in_words(stream: TokenStream) -> None:
    message = (
        r"the plan reads the flag 'heading', which no annotator gives for this data. It has: .*flag 'definition', "
        r"label 'document', .*links 'use'.* \(annotators: python\)"
    )
    with pytest.raises(AnnotationError, match=message):
        require_annotations(stream.documents, {"heading": "flag"})
    with pytest.raises(AnnotationError, match=r"the plan reads the label 'use', which no annotator gives"):
        require_annotations(stream.documents, {"use": "label"})
    with pytest.raises(AnnotationError, match=r"It has: label 'document' \(annotators: none\)"):
        require_annotations([Document("a.txt", 3, "")], {"definition": "flag"})
    require_annotations([Document("a.txt", 3, "")], {"document": "label"})


def test_a_plan_may_name_its_annotator() -> None:
    documents = [Document("notes.txt", 3, "")]
    with pytest.raises(AnnotationError, match="the flag 'definition', which no annotator gives"):
        require_annotations(documents, {"definition": "flag"})
    require_annotations(documents, {"definition": "flag"}, "python")
    with pytest.raises(AnnotationError, match="there is no annotator 'cobol'"):
        require_annotations(documents, {"definition": "flag"}, "cobol")


def test_an_annotator_that_knows_the_future_is_refused(stream: TokenStream, monkeypatch: pytest.MonkeyPatch) -> None:
    def oracle(text: str, offsets: Any) -> Annotations:
        return Annotations(length=len(offsets), flags={"important": np.ones(len(offsets), dtype=bool)})

    monkeypatch.setattr(notes, "annotator_of", lambda document, named, features: annotator(oracle))
    with pytest.raises(AnnotationError, match="annotator 'oracle' is not causal"):
        require_annotations(stream.documents, {"important": "flag"})
    require_annotations(stream.documents, {"document": "label"})


def test_annotations_of_the_wrong_length_are_refused(stream: TokenStream, texts: Path) -> None:
    class Other:
        """A tokenizer whose offsets are of other tokens than its ids."""

        separator, vocab_size = 256, 257

        def offsets(self, text: str) -> Any:
            return np.array([[0, 1]])

    made = SequenceNotes(stream, texts, Other(), {"definition": "flag"})  # type: ignore[arg-type]
    with pytest.raises(AnnotationError, match=r"describe 1 tokens, but its text has \d+: the file changed, or its tok"):
        made.window(0, 100)
