"""HTML headings against the standard library's parser."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openwork.annotate import byte_offsets, html_headings, offsets_of
from openwork.annotate.html import _find
from openwork.testing.annotators import assert_causal_annotator


class Headings(HTMLParser):
    """Level and text of each heading."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[int, str]] = []
        self.inside = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        if re.fullmatch("h[1-6]", tag):
            self.found.append((int(tag[1]), ""))
            self.inside = True

    def handle_endtag(self, tag):
        if re.fullmatch("h[1-6]", tag):
            self.inside = False

    def handle_data(self, data):
        if self.inside:
            level, text = self.found[-1]
            self.found[-1] = (level, text + data)


def squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


def found(text: str) -> list[tuple[int, str]]:
    """The same by the annotator: the flagged characters without their tags."""
    return [
        (
            heading.level,
            squeezed(html.unescape(re.sub(r"</?[a-zA-Z][^>]*>?", "", text[heading.first + 1 : heading.stop]))),
        )
        for heading in _find(text)
    ]


CASES = {
    "plain": ("<h1>Title</h1> text <h2 class='a>b'>Sub</h2>", [(1, "Title"), (2, "Sub")]),
    "capitals and tags inside": ("<H3 ID=x>A <b>b</b></H3 >c", [(3, "Ab")]),
    "a comment": ("<!-- <h1>no</h1> --><h1>yes</h1>", [(1, "yes")]),
    "a script": ("<script>'<h1>no</h1>'</script><h1>yes</h1>", [(1, "yes")]),
    "a style": ("<style>/*<h1>*/</style><h1>yes</h1>", [(1, "yes")]),
    "character data": ("<![CDATA[<h1>no</h1>]]><h1>yes</h1>", [(1, "yes")]),
    "other elements": ("<header>x</header><hr><h10>x</h10><html>", []),
    "no end": ("<div><h1>Title</div>text", [(1, "Title")]),
    "another one before the end": ("<h1>a<h2>b</h2>c", [(1, "a"), (2, "b")]),
    "a bare less-than sign": ("1 < 2 <h1>3 < 4</h1>", [(1, "3<4")]),
    "a tag that never closes": ("<a href='<h1>no</h1>", []),
}


@pytest.mark.parametrize(("text", "expected"), CASES.values(), ids=CASES.keys())
def test_headings_are_found(text, expected):
    assert found(text) == expected


def test_real_documents_have_the_headings_of_the_standard_parser(installed):
    total = 0
    for name, text in installed("/usr/share/doc", "**/*.html", "**/*.htm", largest=200_000).items():
        expected = [(level, squeezed(title)) for level, title in Headings(text).found]
        assert found(text) == expected, name
        total += len(expected)
    if not total:
        pytest.skip("no document that is installed has a heading")


PIECES = [
    *(
        "<h1>",
        "</h1>",
        "<h2 ",
        'class="a',
        ">",
        '"',
        "'",
        "<!--",
        "-->",
        "--!>",
        "<![CDATA[",
        "]]>",
        "<script>",
        "</script",
    ),
    *(
        "a \u00e9",
        "<div>",
        "</div>",
        "<",
        "</",
        "<b",
        "/",
        "=",
        "h3>",
        " ",
        "<title>",
        "</title>",
        "\n",
        "<?",
        "<!",
        "<p>",
    ),
]


@given(text=st.lists(st.sampled_from(PIECES), max_size=25).map("".join))
def test_no_token_knows_the_future(text):
    assert_causal_annotator(html_headings, text, byte_offsets(text), max_cuts=None)


def test_real_documents_pass_the_prefix_test(installed, bpe):
    for text in installed("/usr/share/doc", "**/*.html", limit=8).values():
        part = text[:3000]
        assert_causal_annotator(html_headings, part, byte_offsets(part), max_cuts=50)
        assert_causal_annotator(html_headings, part, offsets_of(bpe.encode(part)), max_cuts=50)


def test_a_heading_is_flagged_from_the_end_of_its_tag_to_the_end_of_its_closing_tag():
    text = "<h1 a>T\u00e9</h1>x"
    flags = html_headings(text, byte_offsets(text)).flags["heading"]
    assert "".join("^" if flag else "." for flag in flags) == ".....^^^^^^^^^."
