"""Section titles of reStructuredText against docutils, where it is installed, and by hand."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openwork.annotate import byte_offsets, offsets_of, rst_headings
from openwork.annotate.rst import _find
from openwork.testing.annotators import assert_causal_annotator

PIECES = [
    *(
        "foo",
        "ab",
        "Title",
        "===",
        "====",
        "=====",
        "---",
        "-----",
        "--",
        "..",
        ".. note::",
        "- x",
        "* y",
        "1. a",
        "2. b",
    ),
    *(
        "(a) x",
        "i) q",
        "::",
        "foo::",
        "| l",
        " in",
        "    four",
        "+---+",
        "|",
        "=== ===",
        ">>> 1",
        "> q",
        ":f: v",
        "-a x",
    ),
    *("__", "xi. z", "~~~~", "\u00e9\u4e2d", "\t", *([""] * 8)),
]
texts = st.lists(
    st.tuples(st.sampled_from(PIECES), st.sampled_from(["\n", "\n", "\n", "\n", "\r\n", ""])), max_size=16
).map(lambda pieces: "".join(piece + end for piece, end in pieces))


def titles(text: str) -> list[tuple[str, int]]:
    """Title and level of each heading, by the tokens of its bytes."""
    notes = rst_headings(text, byte_offsets(text))
    section, level = notes.labels["section"], notes.labels["level"]
    starts = [index for index in range(len(section)) if section[index] > (section[index - 1] if index else 0)]
    lines = text.encode().split(b"\n")
    return [(lines[text.encode()[:start].count(b"\n") - 1].decode().strip(), int(level[start])) for start in starts]


def docutils_titles(text: str) -> list[tuple[str, int]]:
    """Title and level of each section by docutils."""
    pytest.importorskip("docutils", reason="docutils is not installed: its titles cannot be compared")
    from docutils import frontend, nodes, utils
    from docutils.parsers import rst

    settings = frontend.get_default_settings(rst.Parser)
    settings.report_level, settings.halt_level, settings.warning_stream = 5, 6, False
    settings.file_insertion_enabled = settings.raw_enabled = False
    document = utils.new_document("text", settings)
    rst.Parser().parse(text, document)
    found = []

    def walk(node: nodes.Node, depth: int) -> None:
        for child in node.children:
            if isinstance(child, nodes.section):
                found.append((child.children[0].rawsource, depth + 1))
                walk(child, depth + 1)
            elif isinstance(child, nodes.Element):
                walk(child, depth)

    walk(document, 0)
    return found


CASES = {
    "underlined": ("Title\n=====\ntext\n\nSub\n---\n\nNext\n====\n", [("Title", 1), ("Sub", 2), ("Next", 1)]),
    "over and under": ("=====\nTitle\n=====\n\nSub\n===\n", [("Title", 1), ("Sub", 2)]),
    "inset": ("=========\n  Title\n=========\n", [("Title", 1)]),
    "underline shorter than the title": ("Long title\n====\n", [("Long title", 1)]),
    "too short to be one": ("Long\n===\n", []),
    "wide signs count twice": ("\u4e2d\u4e2d\n===\n\n\u4e2d\u4e2d\n====\n", [("\u4e2d\u4e2d", 1)]),
    "a paragraph of two lines": ("one\ntwo\n====\n", []),
    "a transition": ("one\n\n====\n\ntwo\n", []),
    "an indented block": ("one\n\n  Title\n  =====\n", []),
    "a literal block": ("one::\n\n  Title\n  =====\n", []),
    "a quoted literal block": ("one::\n\n= Title\n======\n\nReal\n====\n", [("Real", 1)]),
    "a list item": ("- item\n======\n", []),
    "a title that is numbered": ("1. Intro\n========\n", [("1. Intro", 1)]),
    "a numbered list": ("1. Intro\n2. More\n\n", []),
    "a simple table": (
        "=====  ====\nfoo    bar\n=====  ====\none    two\n-----------\n=====  ====\n\nReal\n====\n",
        [("Real", 1)],
    ),
    "a grid table": ("+----+\n| foo|\n+----+\n", []),
    "a doctest": (">>> 1\nfoo\n====\n\nReal\n----\n", [("Real", 1)]),
    "a comment": (".. note\n   foo\n   ===\n", []),
    "a short overline": ("--\n--\n", [("--", 1)]),
}


@pytest.mark.parametrize(("text", "expected"), CASES.values(), ids=CASES.keys())
def test_titles_are_found(text, expected):
    assert titles(text) == expected


@pytest.mark.parametrize("text", [text for text, _ in CASES.values()], ids=CASES.keys())
def test_docutils_finds_the_same(text):
    assert titles(text) == docutils_titles(text)


def test_real_documents_have_the_titles_of_docutils(installed):
    total = 0
    for name, text in installed("/usr/share/doc", "**/*.rst", "**/*.rst.gz", largest=30_000).items():
        text = text.replace("\r\n", "\n")
        headings = docutils_titles(text)
        assert [title for title, _ in titles(text)] == [title for title, _ in headings], name
        total += len(headings)
    if not total:
        pytest.skip("no document that is installed has a title")


@given(text=texts)
def test_no_token_knows_the_future(text):
    assert_causal_annotator(rst_headings, text, byte_offsets(text), max_cuts=None)


def test_real_documents_pass_the_prefix_test(installed, bpe):
    documents = installed("/usr/share/doc", "**/*.rst", "**/*.rst.gz", limit=8)
    for name, text in documents.items():
        part = text[: random.Random(name).randrange(500, 3000)]
        assert_causal_annotator(rst_headings, part, byte_offsets(part), max_cuts=50)
        assert_causal_annotator(rst_headings, part, offsets_of(bpe.encode(part)), max_cuts=50)


def picture(text: str) -> str:
    flags = rst_headings(text, byte_offsets(text)).flags["heading"]
    return "".join("^" if flag else ("\n" if sign == "\n" else ".") for sign, flag in zip(text, flags, strict=True))


def test_an_underline_is_flagged_once_it_is_long_enough():
    assert picture("Title\n=======\n") == ".....\n...^^^^\n"
    assert picture("abc\n===\n") == "...\n..^\n"
    assert picture("ab\n==\n") == "..\n..^"


def test_an_underline_below_an_overlined_title_is_flagged_once_it_is_as_long_as_the_overline():
    assert picture("=====\nTitle\n=====\n") == ".....\n.....\n....^\n"


def test_what_only_began_as_an_underline_starts_no_level():
    text = "Title\n==== and so on\n\nReal\n----\n"
    assert [heading.level for heading in _find(text)] == [1, 1]
