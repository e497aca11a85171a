"""Headings of manual pages: the section names that every page has."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openwork.annotate import byte_offsets, manual_headings, offsets_of
from openwork.annotate.manual import _find
from openwork.testing.annotators import assert_causal_annotator


def titles(text: str) -> list[tuple[str, int]]:
    return [(text[heading.first : heading.stop], heading.level) for heading in _find(text)]


def test_titles_stand_beside_their_macro_or_on_the_next_line():
    text = '.TH X 1\n.SH NAME\nx \\- y\n.SS "A b"\n.SH\n.\\" comment\nNEXT\ntext\n.Sh BSD\n. SH  spaced\n'
    assert titles(text) == [("NAME", 1), ('"A b"', 2), ("NEXT", 1), ("BSD", 1), ("spaced", 1)]


def test_what_defines_a_macro_or_is_ignored_has_no_headings():
    text = ".de XX\n.SH no\n..\n.ig\n.SH no\n..\n.ig END\n.SH no\n.END\n.SHOW no\n.SH yes\n"
    assert titles(text) == [("yes", 1)]


def test_the_manuals_of_this_system_have_a_name(installed):
    pages = installed("/usr/share/man", "man1/*.gz", "man1/*.1", "man8/*.gz", limit=150)
    # a page of one line names another page
    whole = {name: text for name, text in pages.items() if ".so " not in text[:200] and len(text) > 400}
    without = [name for name, text in whole.items() if not any("NAME" in title.upper() for title, _ in titles(text))]
    if not whole:
        pytest.skip("no whole manual page is installed")
    # some pages are in other languages
    assert len(without) <= len(whole) // 20, without


def test_the_manuals_of_this_system_pass_the_prefix_test(installed, bpe):
    for name, text in installed("/usr/share/man", "man1/*.gz", "man1/*.1", limit=10).items():
        part = text[: random.Random(name).randrange(500, 3000)]
        assert_causal_annotator(manual_headings, part, byte_offsets(part), max_cuts=50)
        assert_causal_annotator(manual_headings, part, offsets_of(bpe.encode(part)), max_cuts=50)


PIECES = [
    ".SH ",
    ".SH",
    '.SS "x"',
    "NAME",
    ".de X",
    "..",
    ".ig",
    ".TP",
    "\u00e9 text",
    '.\\" c',
    "  ",
    "'",
    *(["\n"] * 6),
]


@given(text=st.lists(st.sampled_from(PIECES), max_size=20).map("".join))
def test_no_token_knows_the_future(text):
    assert_causal_annotator(manual_headings, text, byte_offsets(text), max_cuts=None)
