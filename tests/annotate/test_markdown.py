"""Markdown headings against markdown-it, an implementation of CommonMark that shares nothing with ours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openwork.annotate import byte_offsets, markdown_headings, offsets_of
from openwork.annotate.markdown import _find
from openwork.testing.annotators import assert_causal_annotator

PIECES = [
    *(
        "# ",
        "#",
        "## a",
        "a",
        "b c",
        "===",
        "---",
        "--",
        "-",
        "- ",
        "* ",
        "+ ",
        "1. ",
        "2) ",
        "10. ",
        "> ",
        ">",
        "    ",
    ),
    *(
        "\t",
        "  ",
        " ",
        "```",
        "~~~",
        "```py",
        "<!--",
        "-->",
        "<div>",
        "</div>",
        "<pre>",
        "</pre>",
        "<b>",
        "</b>",
        '"t"',
    ),
    *("***", "_ _ _", "| a", "<?", "?>", "==", "=", "\\", "`", "<script>", "</script>", "\u00e9", *(["\n"] * 20)),
]
texts = st.lists(st.sampled_from(PIECES), max_size=30).map("".join)


def found(text: str) -> list[tuple[int, int]]:
    """Line and level of each heading, by the tokens of its bytes."""
    notes = markdown_headings(text, byte_offsets(text))
    data = text.encode()
    section, level = notes.labels["section"], notes.labels["level"]
    starts = [index for index in range(len(data)) if section[index] > (section[index - 1] if index else 0)]
    return [(data[:start].count(b"\n"), int(level[start])) for start in starts]


def expected(text: str) -> list[tuple[int, int]]:
    """Line and level of each heading by markdown-it; of an underlined one, the line of the underline."""
    markdown_it = pytest.importorskip("markdown_it", reason="markdown-it-py, which rich brings, is not installed")
    tokens = markdown_it.MarkdownIt("commonmark").parse(text)
    return [(token.map[1] - 1, int(token.tag[1])) for token in tokens if token.type == "heading_open"]


@given(text=texts)
def test_no_heading_of_commonmark_is_missed(text):
    # a text that stops before the end of its line may stop before a heading is certain
    mine = found(text + "\n")
    assert [heading for heading in expected(text + "\n") if heading not in mine] == []


@given(text=texts)
def test_whatever_is_flagged_is_a_heading_of_the_text_so_far(text):
    for heading in _find(text):
        so_far = text[: heading.first + 1]
        line = text.count("\n", 0, heading.first)
        assert (line, heading.level) in expected(so_far), so_far


@given(text=texts)
def test_no_token_knows_the_future(text):
    assert_causal_annotator(markdown_headings, text, byte_offsets(text), max_cuts=None)


def test_the_manuals_of_this_system_have_the_headings_of_commonmark(installed):
    for name, text in installed("/usr/share/doc", "**/*.md", "**/*.md.gz").items():
        assert found(text) == expected(text), name


def test_the_documents_of_this_project_are_annotated(project_documents):
    assert len(project_documents) > 5
    for name, text in project_documents.items():
        assert found(text) == expected(text), name
        assert found(text), name


def test_real_documents_pass_the_prefix_test(project_documents, bpe):
    for name, text in project_documents.items():
        part = text[:3000]
        assert_causal_annotator(markdown_headings, part, byte_offsets(part), max_cuts=50, seed=len(name))
        assert_causal_annotator(markdown_headings, part, offsets_of(bpe.encode(part)), max_cuts=50, seed=len(name))


def picture(text: str) -> str:
    flags = markdown_headings(text, byte_offsets(text)).flags["heading"]
    return "".join("^" if flag else ("\n" if sign == "\n" else ".") for sign, flag in zip(text, flags, strict=True))


def test_a_title_is_flagged_from_the_space_after_its_signs():
    assert picture("## Title\ntext\n#no\n") == "..^^^^^^\n....\n...\n"


def test_an_underlined_title_flags_its_underline():
    assert picture("Title\n=====\n\n---\n") == ".....\n..^^^\n\n...\n"


def test_a_short_underline_is_certain_at_its_end():
    # `-` may go on as a list
    assert picture("Title\n-\n") == ".....\n.^"
    assert picture("Title\n- item\n") == ".....\n......\n"


def test_the_row_under_the_head_of_a_table_is_no_underline():
    assert picture("a | b\n--- | ---\n") == ".....\n.........\n"


def test_code_and_comments_hold_no_headings():
    text = "```\n# a\n```\n    # b\n<!--\n# c\n-->\n\n<pre>\n# d\n</pre>\n"
    assert "^" not in picture(text)


def test_sections_are_counted_and_levels_told():
    text = "a\n# B\nc\n\nD\n---\n"
    notes = markdown_headings(text, byte_offsets(text))
    assert notes.labels["section"].tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2]
    assert notes.labels["level"].tolist() == [-1, -1, -1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1, 2, -1]
