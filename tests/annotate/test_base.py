"""Annotators of one's own, several at once, and what they promise."""

from __future__ import annotations

import pickle

import pytest

from openwork import Annotations
from openwork.annotate import (
    Annotator,
    annotator,
    annotator_for,
    annotator_named,
    byte_offsets,
    c_source,
    chat_turns,
    combine,
    fasta_records,
    fastq_records,
    heading_annotator,
    html_headings,
    is_causal,
    log_records,
    manual_headings,
    markdown_headings,
    python_source,
    require_causal,
    rst_headings,
)
from openwork.annotate.catalogue import _ANNOTATORS, _SUFFIXES
from openwork.errors import AnnotationError
from openwork.patterns.declarations import Declarations
from openwork.testing.annotators import assert_causal_annotator

MARKUP = [html_headings, manual_headings, markdown_headings, rst_headings]
RECORDS = [fasta_records, fastq_records, log_records]
SHIPPED = [*MARKUP, *RECORDS, c_source, chat_turns, python_source]


def spaces(text, offsets):
    return Annotations(len(offsets), flags={"space": [text[a:b] == " " for a, b in offsets]})


def test_every_annotator_says_that_it_is_causal():
    for shipped in SHIPPED:
        assert isinstance(shipped, Annotator)
        assert shipped.causal and shipped.name
        require_causal(shipped)
        assert annotator_named(shipped.name) is shipped


def test_the_catalogue_is_complete():
    assert sorted(_ANNOTATORS) == sorted(shipped.name for shipped in SHIPPED)
    assert set(_SUFFIXES.values()) == set(SHIPPED)


@pytest.mark.parametrize("name", sorted(_ANNOTATORS))
def test_every_annotator_passes_the_prefix_test_on_any_text(name, project_documents, python_files):
    # a text in another language is no excuse
    texts = [*project_documents.values(), *list(python_files.values())[:5], "", "\ufeff# a", "\x00\r\u2028\U0001f600"]
    for text in texts:
        part = text[len(text) // 3 :][:1500]
        assert_causal_annotator(annotator_named(name), part, byte_offsets(part), max_cuts=25, seed=len(text))


def test_annotators_declare_that_what_they_count_goes_up():
    counts = {"section": MARKUP, "record": RECORDS, "turn": [chat_turns]}
    for label, annotators in counts.items():
        for shipped in annotators:
            assert shipped.declares == Declarations(nondecreasing_labels={label})
    assert python_source.declares == c_source.declares == Declarations()


def test_packed_and_rotated_files_are_known_by_name():
    assert annotator_for("hg38.FA.gz") is annotator_for("x.fasta") is fasta_records
    assert annotator_for("reads.fq.gz") is fastq_records
    logs = ["dpkg.log", "dpkg.log.1", "app.log.2.gz", "app.log-20260101", "syslog", "syslog.7.gz", "messages.1"]
    assert all(annotator_for(name) is log_records for name in logs)
    assert annotator_for("git-log.1") is annotator_for("catalog.1.gz") is manual_headings


def test_a_plain_function_is_an_annotator_that_may_know_the_future():
    assert not is_causal(spaces)
    wrapped = annotator(spaces)
    assert (wrapped.name, wrapped.causal, wrapped.declares) == ("spaces", False, Declarations())
    assert wrapped("a b", byte_offsets("a b")).flags["space"].tolist() == [False, True, False]
    with pytest.raises(AnnotationError, match="annotator 'spaces' is not causal: its facts may name tokens that"):
        require_causal(spaces)
    with pytest.raises(AnnotationError, match=r"'spaces' is not causal.*or insist"):
        require_causal(wrapped)
    require_causal(spaces, insist=True)
    require_causal(annotator(spaces, causal=True))


def test_an_annotator_keeps_what_it_says_of_itself():
    same = annotator(markdown_headings)
    assert (same.name, same.causal, same.declares) == ("markdown", True, markdown_headings.declares)
    assert annotator(markdown_headings, name="md", causal=False).causal is False


def test_several_annotators_make_one():
    both = combine(markdown_headings, annotator(spaces, causal=True))
    assert (both.name, both.causal) == ("markdown + spaces", True)
    assert both.declares == Declarations(nondecreasing_labels={"section"})
    notes = both("# a b", byte_offsets("# a b"))
    assert notes.names == ("heading", "level", "section", "space")
    assert_causal_annotator(both, "# a b\n c", byte_offsets("# a b\n c"))
    assert not combine(markdown_headings, spaces).causal


def test_annotators_survive_pickling():
    both = pickle.loads(pickle.dumps(combine(markdown_headings, python_source)))
    assert both("# a", byte_offsets("# a")) == combine(markdown_headings, python_source)("# a", byte_offsets("# a"))


REFUSED = {
    "something else": (
        lambda text, offsets: [True],
        "annotator 'mine' returned list; it must return openwork.Annotations",
    ),
    "another length": (
        lambda text, offsets: Annotations(2),
        "annotator 'mine' described 2 tokens of a text with 3; return Annotations.length=len.offsets., ....",
    ),
    "a broken promise": (
        lambda text, offsets: Annotations(3, labels={"n": [2, 1, 1]}),
        "label 'n' was declared never to decrease, but token 1 has 1 after 2",
    ),
}


@pytest.mark.parametrize(("function", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_an_annotator_is_refused_that_returns(function, message):
    mine = annotator(function, name="mine", declares=Declarations(nondecreasing_labels={"n"}))
    with pytest.raises(AnnotationError, match=message):
        mine("abc", byte_offsets("abc"))


def test_what_cannot_annotate_is_named():
    with pytest.raises(AnnotationError, match=r"an annotator is a function .text, offsets. -> Annotations; got str"):
        annotator("markdown")  # type: ignore[arg-type]
    with pytest.raises(AnnotationError, match="has no name; pass name="):
        annotator(type("Nameless", (), {"__call__": lambda self, text, offsets: None})())
    with pytest.raises(AnnotationError, match="combine needs at least one annotator; got none"):
        combine()
    with pytest.raises(AnnotationError, match="'heading'"):
        combine(markdown_headings, rst_headings)("a", byte_offsets("a"))


def test_annotators_are_found_by_name_and_by_file():
    assert annotator_for("a/README.MD") is markdown_headings
    assert annotator_for("x.pyi") is python_source
    assert annotator_for("ls.1") is manual_headings
    with pytest.raises(
        AnnotationError, match="there is no annotator 'rust'; there are c, chat, fasta, fastq, html, log, manual, "
    ):
        annotator_named("rust")
    with pytest.raises(AnnotationError, match=r"no annotator is known for 'a.rs'; there are some for .*\.html.*\.md"):
        annotator_for("src/a.rs")


def test_the_prefix_test_finds_who_knows_the_future():
    def last_token(text, offsets):
        return Annotations(len(offsets), flags={"last": [n == len(offsets) - 1 for n in range(len(offsets))]})

    with pytest.raises(
        AssertionError, match="annotator 'last_token' is not causal: cut after token 1 of 3, which ends 'a'"
    ):
        assert_causal_annotator(last_token, "abc", byte_offsets("abc"))

    def length(text, offsets):
        return Annotations(len(offsets), labels={"length": [len(text)] * len(offsets)})

    with pytest.raises(AssertionError, match="label 'length' of token 0 is 1 by the prefix and 3 by the whole text"):
        assert_causal_annotator(length, "abc", byte_offsets("abc"))

    def ahead(text, offsets):
        rows = [[0, len(offsets), 0, 1]] if len(text) == 3 else []
        return Annotations(len(offsets), links={"use": rows})

    with pytest.raises(AssertionError, match=r"links 'use' hold \[0, 1, 0, 1\] by the whole text alone"):
        assert_causal_annotator(ahead, "abc", byte_offsets("abc"))

    def names(text, offsets):
        return Annotations(len(offsets), flags={text[:9]: [False] * len(offsets)} if text else {})

    with pytest.raises(AssertionError, match="flag 'abc' is made of one text and not of the other"):
        assert_causal_annotator(names, "abc", byte_offsets("abc"))


def test_the_prefix_test_finds_a_title_that_is_flagged_before_its_underline():
    def whole_titles(text):
        from openwork.annotate.markdown import _find

        found = _find(text)
        return [type(item)(text.rfind("\n", 0, item.first - 3) + 1, item.stop, item.level) for item in found]

    text = "Title\n=====\n" + "text\n" * 200
    with pytest.raises(AssertionError, match=r"not causal.*flag 'heading' of token 0 is False by the prefix"):
        assert_causal_annotator(heading_annotator("titles", whole_titles), text[:40], byte_offsets(text[:40]))
    # drawn cuts find it as well, where there are enough of them
    with pytest.raises(AssertionError, match="not causal"):
        assert_causal_annotator(heading_annotator("titles", whole_titles), text, byte_offsets(text), max_cuts=600)
