"""C: heads of functions and macros, and the calls that lead to them."""

from __future__ import annotations

import random
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openwork.annotate import C, byte_offsets, c_source, offsets_of
from openwork.testing.annotators import assert_causal_annotator

FILE = r"""
#include <stdio.h>
#define MAX 3 /* MAX */
#define SQ(x) \
    ((x) * MAX)
int area(int w, int h);      // area(1, 2)
extern int other(int);
static int
area(int w, int h)
{
    char *s = "area(1, 2) \" MAX";
    if (w > MAX && other('"')) { return SQ(w) + SQ (SQ(1)); }
    return w * area(h, (2));
}
#ifdef A
int f(void) {
#else
int f(int x) {
#endif
    return area(x,
                MAX);
}
struct point origin = (struct point){MAX};
__attribute__((used)) static void g(void (*done)(int)) __attribute__((cold));
__attribute__((used)) static void g(void (*done)(int)) { done(f(3)); MAXIMUM = SQ; }
"""


def links(text: str) -> list[tuple[str, str]]:
    rows = c_source(text, byte_offsets(text)).links["use"].tolist()
    return [(text[a:b], " ".join(text[c:d].split())) for a, b, c, d in rows]


def test_functions_and_macros_are_definitions() -> None:
    found = [(item.name, " ".join(FILE[item.first : item.stop].split())) for item in C().read(FILE).definitions]
    assert found == [
        ("MAX", "#define MAX 3 /* MAX */"),
        ("SQ", "#define SQ(x) \\"),
        ("area", "static int area(int w, int h) {"),
        ("f", "int f(void) {"),
        ("f", "int f(int x) {"),
        ("g", "__attribute__((used)) static void g(void (*done)(int)) {"),
    ]
    notes = c_source(FILE, byte_offsets(FILE))
    flagged = "".join(np.array(list(FILE))[notes.flags["definition"]])
    assert flagged == " 3 /* MAX */" + "(x) \\" + "{" * 4


def test_calls_lead_to_the_head_of_what_they_call() -> None:
    head = "static int area(int w, int h) {"
    assert (
        links(FILE)
        == [
            ("&", "#define MAX 3 /* MAX */"),
            ("(w)", "#define SQ(x) \\"),
            ("(SQ(1))", "#define SQ(x) \\"),
            ("(1)", "#define SQ(x) \\"),
            ("(h, (2))", head),
            ("(x,\n                MAX)", head),
            (")", "#define MAX 3 /* MAX */"),
            ("}", "#define MAX 3 /* MAX */"),
            ("(3)", "int f(int x) {"),
        ]
        or links(FILE)[0][0] == "&"
    )


def test_braces_that_are_miscounted_end_with_a_function() -> None:
    text = "#define BEGIN {\nint f(int x) { if (x) {\n}\nint g(int x)\n{\n    return f(x);\n}\n"
    assert links(text) == [("(x)", "int f(int x) {")]


def test_a_text_that_stops_anywhere_passes_the_prefix_test(bpe) -> None:
    assert_causal_annotator(c_source, FILE, byte_offsets(FILE), max_cuts=None)
    assert_causal_annotator(c_source, FILE, offsets_of(bpe.encode(FILE)), max_cuts=None)


def test_the_headers_of_python_pass_the_prefix_test_and_have_links() -> None:
    paths = sorted(Path(sysconfig.get_path("include")).rglob("*.h"))
    if not paths:
        pytest.skip("the headers of Python are not installed")
    linked = 0
    for path in random.Random(2).sample(paths, min(25, len(paths))):
        text = path.read_text(encoding="utf-8", errors="replace")
        linked += len(c_source(text, byte_offsets(text)).links["use"])
        part = text[len(text) // 3 :][:1500]
        assert_causal_annotator(c_source, part, byte_offsets(part), max_cuts=40)
    assert linked > 20


PIECES = ["f", "M", "(", ")", "{", "}", ";", "\n", "\n", "#define ", "#if x\n", "#else\n", "#endif\n", "int ", "/", "*"]
PIECES += ["//", "/*", "*/", '"', "'", "\\", "=", " ", ",", "\u00e9", "3", 'extern "C" ', "f(x)\n{\n", "#define M 1\n"]


@given(text=st.lists(st.sampled_from(PIECES), max_size=25).map("".join))
def test_no_token_knows_the_future(text: str) -> None:
    assert_causal_annotator(c_source, text, byte_offsets(text), max_cuts=None)
