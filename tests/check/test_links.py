"""The links of real files: what they are, and in how many layers a pattern follows them."""

from __future__ import annotations

import _pydecimal
import copy
import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import openwork as ow
from openwork.annotate import (
    annotator,
    byte_offsets,
    c_source,
    combine,
    html_headings,
    markdown_headings,
    passages,
    python_source,
)
from openwork.check import TextLink, links_in_text, missed_links, trace_links
from openwork.errors import AnnotationError, ArgumentError
from openwork.patterns import zoo

DECIMAL = inspect.getsource(_pydecimal)[:24_000]
GUIDE = (Path(__file__).parents[2] / "docs" / "annotations.md").read_text(encoding="utf-8")
WINDOW = ow.Causal() & ow.Window(before=255)


def lines(text: str) -> list[str]:
    return ["", *text.split("\n")]


def test_each_use_of_a_real_file_is_named_by_line() -> None:
    offsets = byte_offsets(DECIMAL)
    links = links_in_text(DECIMAL, offsets, python_source)
    assert len(links) > 20
    rows = lines(DECIMAL)
    for link in links:
        assert re.search(rf"\b{link.name}\b", rows[link.query_line]), link
        assert re.match(rf"\s*(async def|def|class)\s+{link.name}\b", rows[link.key_line]), link
        assert "".join(DECIMAL[slice(*offsets[key])] for key in range(*link.keys)) == link.name
        assert link.keys[1] <= link.query


def test_the_links_are_those_of_the_annotator() -> None:
    offsets = byte_offsets(DECIMAL)
    rows = python_source(DECIMAL, offsets).links["use"]
    found = links_in_text(DECIMAL, offsets, python_source)
    assert sorted(link.query for link in found) == sorted(rows[:, 0].tolist())


@pytest.mark.parametrize(
    "pattern", [WINDOW, zoo.source_code(), zoo.source_code(window=31) - ow.Linked("use"), zoo.log_sparse()], ids=str
)
def test_hops_are_those_of_matrix_powers(pattern, oracle) -> None:
    text = inspect.getsource(copy)
    text = text[text.index("class Error") :][:1_600]
    offsets = byte_offsets(text)
    notes = python_source(text, offsets)
    links = links_in_text(text, offsets, python_source, notes)
    assert links
    after = oracle.powers([oracle.mask(pattern, len(text), notes)] * 8)
    for link in trace_links(pattern, links, len(text), 8, notes):
        reached = [layer for layer, held in enumerate(after, 1) if held[link.query, slice(*link.keys)].all()]
        assert link.hops == (reached[0] if reached else None), link


def test_a_window_misses_what_definitions_keep() -> None:
    offsets = byte_offsets(DECIMAL)
    missed = missed_links(WINDOW, DECIMAL, offsets, annotator=python_source, layers=2)
    assert len(missed) > 10
    assert all(link.hops is None or link.hops > 2 for link in missed)
    # 255 keys a layer: a link of d tokens takes d / 255 layers, rounded up
    for link in missed:
        assert link.hops == -(-(link.query - link.keys[0]) // 255)
    assert missed_links(zoo.source_code(), DECIMAL, offsets, annotator=python_source, layers=1) == ()


def test_a_plan_ends_with_its_layers() -> None:
    offsets = byte_offsets(DECIMAL)
    plan = ow.Plan(default=WINDOW, layers={1: ow.Causal()})
    assert missed_links(plan, DECIMAL, offsets, annotator=python_source, layers=2) == ()
    missed = missed_links(ow.Plan(default=WINDOW), DECIMAL, offsets, annotator=python_source, layers=2)
    assert missed and all(link.hops is None for link in missed)


def test_lines_of_a_document_stand_under_their_headings() -> None:
    offsets = byte_offsets(GUIDE)
    links = links_in_text(GUIDE, offsets, markdown_headings)
    rows = lines(GUIDE)
    assert len(links) > 50
    for link in links:
        assert link.kind == "section"
        assert re.match(rf"#+ {re.escape(link.name)}$", rows[link.key_line])
        assert not any(re.match(r"## ", row) for row in rows[link.key_line + 1 : link.query_line] if "```" not in row)
    assert len({link.query_line for link in links}) == len(links)
    assert missed_links(zoo.policy_documents(), GUIDE, offsets, annotator=markdown_headings, layers=1) == ()
    assert missed_links(WINDOW, GUIDE, offsets, annotator=markdown_headings, layers=1)


def test_a_question_asks_about_each_passage() -> None:
    context = passages(["The sky is blue.", "Grass is\ngreen.", "Snow is white."], "What colour is grass?")
    offsets = byte_offsets(context.text)
    links = links_in_text(context.text, offsets, context)
    assert [str(link) for link in links] == [
        "line 8 asks about passage 0, which starts at line 1",
        "line 8 asks about passage 1, which starts at line 3",
        "line 8 asks about passage 2, which starts at line 6",
    ]
    assert missed_links(zoo.retrieved_passages(), context.text, offsets, annotator=context, layers=1) == ()
    narrow = ow.Causal() & ow.Same("passage")
    missed = missed_links(narrow, context.text, offsets, annotator=context, layers=9)
    assert [link.name for link in missed] == ["0", "1", "2"]
    assert {link.hops for link in missed} == {None}


def test_links_of_ones_own_annotator_are_links() -> None:
    def echoes(text, offsets):
        again = [[place, place + 1, place - 5, place - 4] for place in range(5, len(offsets)) if text[place] == "!"]
        return ow.Annotations(len(offsets), links={"echo": again})

    text = "a\nbc defg!"
    (link,) = links_in_text(text, byte_offsets(text), annotator(echoes))
    assert (link.kind, link.query, link.keys) == ("echo", 9, (4, 5))
    assert str(link) == "line 2 has a link 'echo' to line 2, ``"


def test_combined_annotators_give_the_links_of_all() -> None:
    text = "<h1>Title</h1>\n\ndef area(side):\n    return side\n\n\nprint(area(2))\n"
    offsets = byte_offsets(text)
    kinds = {link.kind for link in links_in_text(text, offsets, combine(html_headings, python_source))}
    assert kinds == {"use", "section"}


def test_text_beyond_ascii_and_wide_tokens_keep_their_lines() -> None:
    text = "# \u00fc\u00f6\u00e4\n\n\ndef gr\u00fc\u00dfe(wer):\n    return wer\n\n\ngr\u00fc\u00dfe(1)\n"
    (link,) = links_in_text(text, byte_offsets(text), python_source)
    assert (link.name, link.key_line, link.query_line) == ("gr\u00fc\u00dfe", 4, 8)
    words = np.array([match.span() for match in re.finditer(r"\w+|[^\w\s]", text)])
    (link,) = links_in_text(text, words, python_source)
    assert (link.name, link.key_line, link.query_line) == ("gr\u00fc\u00dfe", 4, 8)
    assert text[slice(*words[link.keys[0]])] == "gr\u00fc\u00dfe"


def test_a_name_is_found_where_it_is_a_word_of_its_own() -> None:
    text = "async def f(e):\n    return e\n\n\nclass class_:\n    pass\n\n\nf(class_())\n"
    links = links_in_text(text, byte_offsets(text), python_source)
    assert [(link.name, link.keys) for link in links] == [("f", (10, 11)), ("class_", (37, 43))]
    code = "static int area(int side) {\n  return side * side;\n}\n\nint main(void) { return area(2); }\n"
    (link,) = links_in_text(code, byte_offsets(code), c_source)
    assert str(link) == "line 5 uses `area`, defined at line 1"
    assert link.keys == (11, 15)


def test_a_link_says_what_it_is() -> None:
    link = TextLink("use", 90, (3, 7), 12, 1, "area", 3)
    assert str(link) == "line 12 uses `area`, defined at line 1"
    assert link.reached(3) and not link.reached(2)
    assert link.to_dict() == {
        "kind": "use",
        "query": 90,
        "keys": [3, 7],
        "query_line": 12,
        "key_line": 1,
        "name": "area",
        "hops": 3,
    }


def test_what_has_no_links_is_said() -> None:
    offsets = byte_offsets("ab")
    with pytest.raises(AnnotationError, match="links_in_text needs an annotator or annotations"):
        links_in_text("ab", offsets)
    with pytest.raises(AnnotationError, match="annotations describe 3 tokens, but the text has 2"):
        links_in_text("ab", offsets, annotations=ow.Annotations(3))
    with pytest.raises(ArgumentError, match="links must lead from tokens to tokens of the 5 that there are"):
        trace_links(ow.Causal(), [TextLink("use", 5, (0, 1), 1, 1, "a")], 5)
    assert trace_links(ow.Causal(), [], 5) == ()
    assert missed_links(ow.Causal(), "ab", offsets, annotator=python_source, layers=1) == ()
