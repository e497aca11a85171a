"""What the Python annotator says of small texts, of broken ones and of tokens that end in the middle of a name."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from openwork.annotate import (
    Definition,
    Python,
    SourceFacts,
    Use,
    byte_offsets,
    check_offsets,
    offsets_of,
    python_source,
    source_code,
)
from openwork.errors import AnnotationError
from openwork.testing.annotators import assert_causal_annotator


def links(text: str) -> list[str]:
    """Each use as the text through its arguments, `@`, the line of its definition."""
    facts = Python().read(text)
    shown = []
    for use in facts.uses:
        line = text.count("\n", 0, facts.definitions[use.definition].first) + 1
        shown.append(f"{text[use.first : use.stop]}@{line}")
    return shown


LINKED = {
    "a call, through its arguments": ("def f(a): ...\nx = f(1, (2))\n", ["f(1, (2))@1"]),
    "a call in a call": ("def f(a): ...\nprint(f(f(1)))\n", ["f(f(1))@1", "f(1)@1"]),
    "itself": ("def f(a): return f(a)\n", ["f(a)@1"]),
    "a class, and its base": ("class A: ...\nclass B(A): ...\n", ["A@1"]),
    "async": ("async def f(): ...\nasync def g(): await f()\n", ["f()@1"]),
    "a decorator": ("def d(f): ...\n@d\ndef g(): ...\n", ["d@1"]),
    "a decorator that is called": ("def d(f): ...\n@d(1)\ndef g(): ...\n", ["d(1)@1"]),
    "the latest definition": ("def f(): ...\ndef f(): ...\nf()\n", ["f()@2"]),
    "the earlier one, in the header of the later": ("def f(): ...\ndef f(x=f()): ...\n", ["f()@1"]),
    "an annotation": ("class A: ...\ndef g(a: A) -> A: ...\nx: A = A()\n", ["A@1", "A@1", "A@1", "A()@1"]),
    "an attribute of it": ("class A: ...\nA.b(1)\n", ["A@1"]),
    "a name that is only indexed": ("class A: ...\nA[0] = 1\nA.x = 2\n", ["A@1", "A@1"]),
    "a nested function": ("def f():\n    def g(): ...\n    return g()\n", ["g()@2"]),
    "past the class around": ("def f(): ...\nclass A:\n    def f(self): f()\n", ["f()@1"]),
    "what the class itself binds": ("def f(): ...\nclass A:\n    def f(self): ...\n    x = f()\n", ["f()@3"]),
    "global": ("def f(): ...\ndef g(f):\n    def h():\n        global f\n        f()\n", ["f()@1"]),
    "a definition made global": ("def g():\n    global f\n    def f(): ...\nf()\n", ["f()@3"]),
    "nonlocal": (
        "def g():\n    def f(): ...\n    def h():\n        nonlocal f\n        def f(): ...\n    f()\n",
        ["f()@5"],
    ),
    "the iterable of a comprehension": ("def f(): ...\n[f for f in f()]\n", ["f()@1"]),
    "the right side of its new binding": ("def f(): ...\nf = g(f)\nf()\n", ["f@1"]),
    "a dictionary's key and value": ("def f(): ...\n{f: f}\n", ["f@1", "f@1"]),
    "inside an f-string": ('def f(): ...\nx = f"{f(1):>{f(2)}} f(3) {{f(4)}}"\n', ["f(1)@1", "f(2)@1"]),
    "after a string that looks like an end": ("def f(): ...\nx = 'a\\'', f(1)\n", ["f(1)@1"]),
    "over lines": ("def f(): ...\nf(\n  1,\n)\n", ["f(\n  1,\n)@1"]),
    "after a semicolon": ("def f(): ...\nx = 1; f()\n", ["f()@1"]),
    "a condition": ("def f(): ...\nif f: pass\nwhile f(): pass\n", ["f@1", "f()@1"]),
    "a lambda's body and default": ("def f(): ...\nlambda x=f: f()\n", ["f@1", "f()@1"]),
    "the subject of a match": (
        "class A: ...\nmatch A:\n    case A(): pass\n    case x if A: pass\n",
        ["A@1", "A()@1", "A@1"],
    ),
    "a private name of a class": ("class A:\n    def __f(self): ...\n    x = __f\n", ["__f@2"]),
    "a name in two spellings": ("def \ufb01(): ...\nfi()\n", ["fi()@1"]),
    "in brackets, before what shows it to be no target": ("def f(): ...\n(f).x = 1\nf()\n", ["f@1", "f()@1"]),
    "a type alias": ("class A: ...\ntype B = A\ntype C[A] = list[A]\nA\n", ["A@1", "A@1"]),
    "a name that a parameter of a type hides": ("class A: ...\ndef f[A](x: A) -> A: return A\nA()\n", ["A()@1"]),
    "the bound and the default of a type": (
        "class A: ...\ndef f[T: A = A, *U, **P](x: A): ...\nclass B[T: (A, int)](A): ...\n",
        ["A@1"] * 5,
    ),
    "a class's own, from the parameters of a generic method": (
        "class T: ...\nclass C:\n    class T: ...\n    def f[U: T](x: T) -> T: return T\n    type A = T\n",
        ["T@3", "T@3", "T@3", "T@1", "T@3"],
    ),
    "past a class, from a comprehension in it": (
        "def f(): ...\nclass C:\n    def f(self): ...\n    x = [f for _ in f()]\n    y = [f(a) for a in b]\n",
        ["f()@3", "f@1", "f@1"],
    ),
    "a class's own, in brackets that are no comprehension": (
        "class C:\n    def f(self): ...\n    x = [f(1), f]\n    y = f(2)\n",
        ["f@2", "f@2", "f(2)@2"],
    ),
    "the iterable that a comprehension shares its name with": ("def f(): ...\n[f for f in f]\n", ["f@1"]),
    "the iterable of a loop that binds its name": ("def f(): ...\nfor a, f in f(f): f\nf()\n", ["f(f)@1", "f@1"]),
    "across a backslash": ("def f(): ...\nf\\\n(1)\n", ["f\\\n(1)@1"]),
    "what raises and what is caught": ("class E: ...\ntry: raise E\nexcept E as e: pass\n", ["E@1", "E@1"]),
    "after an import that binds something else": ("def f(): ...\nimport f.g as h\nfrom f import g\nf()\n", ["f()@1"]),
}


@pytest.mark.parametrize(("text", "expected"), LINKED.values(), ids=LINKED.keys())
def test_a_use_is_linked_to(text, expected):
    assert links(text) == expected


NOT_LINKED = {
    "an attribute": "def f(): ...\nx.f()\nself.f\n",
    "a name inside a string or a comment": "def f(): ...\n'f()' # f()\n'''\nf()\n'''\n",
    "an argument's name": "def f(): ...\ng(f=1)\nclass A(f=1): ...\n",
    "a parameter": "def f(): ...\ndef g(f, *, x): f()\nlambda f: f()\nlambda *f, **k: f\n",
    "a star parameter": "def f(): ...\ndef g(*f): f\ndef h(**f): f\n",
    "an assignment": "def f(): ...\nf = 1\nf()\n",
    "an assignment of several": "def f(): ...\n(a, [f, *b]), c = 1, 2\nf()\n",
    "an assignment with a type": "def f(): ...\nf: int = 2\nf()\n",
    "a chain of assignments": "def f(): ...\na = f = 2\nf()\n",
    "an assignment in place": "def f(): ...\nf += 2\nf()\n",
    "a local variable": "def f(): ...\ndef g():\n    f = f2()\n    return f()\n",
    "a for": "def f(): ...\nfor a, (f, b) in x: f()\n",
    "a comprehension": "def f(): ...\n[f for f in x if f]\n{f: f.a for f in x}\n(f + 1 for a in b for f in a)\n",
    "a nested comprehension": "def f(): ...\n[[f for a in b] for f in c]\n[lambda: f for f in c]\n",
    "a with": "def f(): ...\nwith x as f: f()\n",
    "a with in brackets": "def f(): ...\nwith (x as a, y as (b, f)): f()\n",
    "an except": "def f(): ...\ntry: pass\nexcept E as f: f()\n",
    "an import": "def f(): ...\nimport f\nf()\n",
    "an import of a part": "def f(): ...\nimport f.g\nf()\n",
    "an import under that name": "def f(): ...\nimport a.b as f\nf()\n",
    "an import in brackets": "def f(): ...\nfrom a import (b,\n  f)\nf()\n",
    "a walrus": "def f(): ...\nif (f := 1): f()\n[(f := a) for a in b]\nf()\n",
    "a pattern": "def f(): ...\nmatch x:\n    case [f, *_]: f()\n",
    "a pattern with as": "def f(): ...\nmatch (x):\n    case A(f=1) as f: f()\n",
    "a pattern of the rest": "def f(): ...\nmatch x:\n    case {'a': 1, **f}: f()\n",
    "a deletion": "def f(): ...\ndel f\nf()\n",
    "what is defined later": "def g(): f()\ndef f(): ...\n",
    "a method from outside": "class A:\n    def f(self): ...\nf()\n",
    "a function of another function": "def g():\n    def f(): ...\nf()\n",
    "a longer name": "def f(): ...\nff()\nf_()\nf1()\n",
    "a global that another function binds": "def f(): ...\ndef g():\n    global f\n    f = 1\nf()\n",
    "a private name from outside": "def __f(): ...\nclass A:\n    x = __f()\n",
}


@pytest.mark.parametrize("text", NOT_LINKED.values(), ids=NOT_LINKED.keys())
def test_no_use_is(text):
    assert links(text) == []


def marks(text: str, flags: np.ndarray) -> str:
    return "".join(
        "^" if flag else ("\n" if character == "\n" else ".") for character, flag in zip(text, flags, strict=True)
    )


def test_the_first_line_of_a_definition_is_flagged_once_its_keyword_is_over():
    text = "@d\nasync def f(\n  a): pass\nclass A: x = 1 # c\ndefault = 'def'\n"
    flags = python_source(text, byte_offsets(text)).flags["definition"]
    assert marks(text, flags) == "..\n.........^^^\n..........\n.....^^^^^^^^^^^^^\n...............\n"


def test_a_use_is_linked_from_the_bracket_that_ends_its_name_to_the_whole_first_line():
    text = "def f(a):\n  pass\nf(1)\n"
    assert python_source(text, byte_offsets(text)).links["use"].tolist() == [[18, 21, 0, 9]]


def test_a_token_that_reaches_past_the_name_is_where_its_link_starts():
    text = "def f(a):\n  pass\nf(1)\n"
    offsets = [(0, 9), (9, 17), (17, 19), (19, 21)]
    # `f(` is one token: the last token of the name, and the first that shows it to be over
    assert python_source(text, offsets).links["use"].tolist() == [[2, 4, 0, 1]]


def test_a_use_on_the_line_of_its_definition_sees_no_further_than_itself():
    text = "def f(): f()\n"
    assert python_source(text, byte_offsets(text)).links["use"].tolist() == [[10, 12, 0, 10]]


def test_a_name_that_may_be_a_target_waits_for_the_end_of_its_statement():
    text = "def f(): ...\nf, f\n"
    uses = Python().read(text).uses
    assert [(use.first, use.known) for use in uses] == [(13, 18), (16, 18)]


def test_a_name_that_a_comprehension_may_bind_waits_for_the_bracket():
    text = "def f(): ...\n[f + 1]\n"
    (use,) = Python().read(text).uses
    assert (use.first, use.known) == (14, text.index("]") + 1)


def test_an_open_bracket_does_not_swallow_the_definitions_after_it():
    text = "def f(): ...\nf((1, [\n\nasync def g(): f()\nclass A: ...\n"
    facts = Python().read(text)
    assert [(item.name, text[item.first : item.stop]) for item in facts.definitions] == [
        ("f", "def f(): ..."),
        ("g", "async def g(): f()"),
        ("A", "class A: ..."),
    ]
    assert links(text)[1] == "f()@1"


PIECES = [
    *("def f():\n", "def g(f):\n", "class A(f):\n", "    ", "f", "f(", ")", "(", "[", "]", "{", "}", ", ", " = ", ": "),
    *("for f in ", "lambda f: ", "import f\n", "from a import ", " as f", "global f\n", "f.a", ".f", "if ", "in ", "="),
    *(
        "f'{",
        'f"',
        "'",
        '"',
        '"""',
        "\\",
        "\n",
        "\r\n",
        "\r",
        "# c",
        "\t",
        "match f:\n",
        "case f",
        ":=",
        "*",
        "1e",
        "1.5",
    ),
    *(
        "async ",
        "await ",
        "\u00e9",
        "\u00e9(",
        "def \u00e9(): ...\n",
        "def ",
        "class ",
        "; ",
        "del f\n",
        "type X",
        "\\\n",
        "\\",
        "type X[f] = ",
        "_",
        *(
            "f if ",
            "f ** ",
            "f * ",
            "x = f ",
            "f == f",
            "f -= f",
            "f -> ",
            "f in",
            "f // f",
            "(f := f)",
            "y\n",
            "f\n",
            "f, f",
        ),
        "+=",
    ),
]
# most texts begin with a definition, so that there is something to link to
texts = st.tuples(
    st.sampled_from(["def f(): ...\n", "def f(): ...\n", "class f:\n    def f(f=f): ...\n", ""]),
    st.lists(st.sampled_from(PIECES), max_size=30).map("".join),
).map("".join)


@given(text=texts)
@example("def f(): ...\nf(1e+f)\n")
@example("def f(): ...\nx = f if f else f ** f\n")
@example("def f(): ...\nf -= f\n")
@example("def f(): ...\nf\\\n(f)\n")
@example("class C:\n  def f(): ...\n  x = [f(f) for f in f(f)], f\n")
@example("def f(): ...\ntype X[f] = f\nf\n")
@example("def f(): ...\nf(1,\ndef g(): ...\n")
@example("def f(): ...\nx = [f for f in (f, f('''")
def test_no_token_knows_the_future(text):
    assert_causal_annotator(python_source, text, byte_offsets(text), max_cuts=None)


@given(text=texts, cuts=st.lists(st.integers(0, 120), max_size=40))
def test_tokens_of_any_size_know_no_future(text, cuts):
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    offsets = [(0, 0), *pairwise(edges), (0, 0)]
    assert_causal_annotator(python_source, text, offsets, max_cuts=None)


def test_no_byte_of_a_name_knows_the_next_one():
    first, second = (
        python_source(text, byte_offsets(text)).prefix(len("def caf\u00e9(): ...\ncaf".encode()) + 1)
        for text in ("def caf\u00e9(): ...\ncaf\u00e9()\n", "def caf\u00e9(): ...\ncaf\u00e8()\n")
    )
    assert first == second
    text = "def caf\u00e9(): ...\ncaf\u00e9()\n"
    assert len(python_source(text, byte_offsets(text)).links["use"]) == 1


def test_real_files_pass_the_prefix_test_in_bytes(python_files):
    for name, text in list(python_files.items())[:12]:
        middle = text[len(text) // 3 :][:3000]
        assert_causal_annotator(python_source, middle, byte_offsets(middle), max_cuts=60, seed=len(name))


def test_real_files_pass_the_prefix_test_in_tokens(python_files, bpe):
    for name, text in list(python_files.items())[12:24]:
        middle = text[:5000]
        offsets = offsets_of(bpe.encode(middle))
        assert_causal_annotator(python_source, middle, offsets, max_cuts=60, seed=len(name))


def test_words_are_whole_tokens_and_their_links_start_right_after_them(bpe):
    text = "def self(x): ...\nself(x)\n"
    encoding = bpe.encode(text)
    ((q_first, q_stop, kv_first, kv_stop),) = python_source(text, offsets_of(encoding)).links["use"].tolist()
    assert "".join(encoding.tokens[q_first:q_stop]) == "(x)"
    assert encoding.tokens[q_first - 1] == "self"
    assert "".join(encoding.tokens[kv_first:kv_stop]) == "def\u0120self(x):\u0120..."


def test_a_file_of_many_tokens_is_annotated_in_under_a_second(python_files):
    text = "".join(python_files.values())[:140_000]
    offsets = check_offsets(text, [(start, min(start + 4, len(text))) for start in range(0, len(text), 4)])
    assert len(offsets) > 32_768
    started = time.perf_counter()
    python_source(text, offsets)
    # 0.15 s on the machine that this was written on
    assert time.perf_counter() - started < 2


@dataclass(frozen=True)
class Assembler:
    """`name:` defines; `jmp name` uses, in a language of our own."""

    name: str = "assembler"
    suffixes: tuple[str, ...] = (".s",)

    def read(self, text: str) -> SourceFacts:
        definitions: list[Definition] = []
        uses: list[Use] = []
        start = 0
        for line in text.split("\n")[:-1]:
            stop = start + len(line)
            if line.endswith(":"):
                definitions.append(Definition(line[:-1], start, stop, stop + 1))
            for number, item in enumerate(definitions):
                if line == f"jmp {item.name}":
                    uses.append(Use(start + 4, stop, stop + 1, stop, number))
            start = stop + 1
        return SourceFacts(tuple(definitions), tuple(uses))


def test_another_language_joins_through_the_same_interface():
    annotate = source_code(Assembler())
    text = "loop:\nadd\njmp loop\nadd\n"
    notes = annotate(text, byte_offsets(text))
    assert (annotate.name, annotate.causal) == ("assembler", True)
    assert notes.links["use"].tolist() == [[18, 19, 0, 6]]
    assert np.flatnonzero(notes.flags["definition"]).tolist() == [5]
    assert_causal_annotator(annotate, text, byte_offsets(text), max_cuts=None)


def test_a_language_that_lacks_something_is_named():
    with pytest.raises(AnnotationError, match="is no source language: it has no 'suffixes'"):
        source_code(type("Half", (), {"name": "half"})())
