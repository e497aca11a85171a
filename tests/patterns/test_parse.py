"""Pattern text: what it makes, what it refuses, and that nothing in it runs."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openwork.errors import PatternError
from openwork.patterns import (
    And,
    Causal,
    Chunk,
    Custom,
    Dense,
    First,
    Grid,
    Keys,
    Not,
    Or,
    Pattern,
    PerHead,
    Window,
    parse_pattern,
    register,
    zoo,
)
from openwork.testing.strategies import patterns, per_head

PIECES = [
    "",
    "(",
    ")",
    ",",
    "~",
    "&",
    "|",
    "-",
    "None",
    "range(0, 2)",
    "{",
    "}",
    "[",
    "]",
    "'",
    "=",
    "0",
    "9" * 30,
    "*",
    ".",
]
"""What texts are damaged with."""

relaxed = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@relaxed
@given(st.one_of(patterns(max_leaves=12), per_head()))
def test_text_reads_back(pattern: Pattern) -> None:
    again = parse_pattern(repr(pattern), allow_imports=True)
    assert again == pattern and hash(again) == hash(pattern) and repr(again) == repr(pattern)


@relaxed
@given(st.lists(patterns(custom=False, max_leaves=3), min_size=2, max_size=4), st.booleans())
def test_nodes_made_by_hand_read_back_too(parts: list[Pattern], both: bool) -> None:
    node = (And if both else Or)(tuple(parts))
    for pattern in (node, Not(node), Not(Not(node))):
        assert parse_pattern(repr(pattern)) == pattern


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        (" Causal( ) ", Causal()),
        ("Causal() & Window(3) | Keys('a')", (Causal() & Window(3)) | Keys("a")),
        ("Causal() & (Window(3) | Keys(name='a'))", Causal() & (Window(3) | Keys("a"))),
        ("Causal() - First(keys=2)", Causal() & ~First(keys=2)),
        ("~(Causal() | Dense())", ~(Causal() | Dense())),
        ("Window(None, after=2)", Window(None, 2)),
        ("Grid((4, 4), 3, causal=[True, False])", Grid((4, 4), 3, causal=(True, False))),
        ("PerHead(Causal(), Window(1)) & Dense()", PerHead(Causal(), Window(1)) & Dense()),
        (
            "PerHead.of({range(0, 2): Causal(), 3: Dense()}, default=Window(1), heads=4)",
            PerHead(Causal(), Causal(), Window(1), Dense()),
        ),
        ("longformer(window=4)", zoo.longformer(4)),
        ("zoo.mistral() & Keys('a')", zoo.mistral() & Keys("a")),
        ("Window.from_hf(sliding_window=3)", Window(2)),
        ("Window.from_flash_attention((3, -1))", Window(3, None)),
        ("deepspeed.local_sliding_window(block=4)", Chunk(4, 1)),
    ],
)
def test_text_makes_the_pattern(text: str, pattern: Pattern) -> None:
    assert parse_pattern(text) == pattern


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "pattern text '' cannot be read"),
        ("Causal() &", r"cannot be read: invalid syntax. It is written like Causal\(\) & Window"),
        ("Causal( & Dense()", r"cannot be read at character \d+: "),
        ("Windw(before=3)", r"unknown pattern 'Windw'; did you mean 'Window'\? \(in 'Windw\(before=3\)'\)"),
        ("causal()", "unknown pattern 'causal'; did you mean 'Causal'"),
        ("Xyzzy()", "unknown pattern 'Xyzzy'; known are Dense, Causal, Window"),
        ("longformerr()", "did you mean 'longformer'"),
        ("zoo.nothing_like_it()", "unknown pattern 'zoo.nothing_like_it'"),
        ("Causal", r"'Causal' needs its brackets: write Causal\(...\)"),
        ("zoo.longformer", r"write zoo.longformer\(...\)"),
        ("Window(befores=3)", r"Window has no argument 'befores'; it takes before, after=0. Did you mean 'before'\?"),
        ("Causal(3)", "Causal: too many positional arguments; it takes none"),
        ("Window()", "Window: missing a required argument: 'before'; it takes before, after=0"),
        ("Window(before=-1)", "Window before must be 0 or more, or None for unlimited; got -1"),
        ("Causal() and Dense()", "`and` does not combine patterns; use `&` and `|`"),
        ("Causal() or Dense()", "`or` does not combine patterns"),
        ("not Causal()", "`not` does not combine patterns; use `~`"),
        ("Causal() + Dense()", r"patterns combine with `&`, `\|`, `~` and `-` only"),
        ("3", r"`3` is not a pattern; a pattern is written like Window\(before=255\)"),
        ("~3", "`3` is not a pattern"),
        ("-Causal()", r"`-Causal\(\)` is not a number"),
        ("Window(*[3])", r"`\*` and `\*\*` are no part of pattern text"),
        ("Window(**{'before': 3})", r"`\*` and `\*\*` are no part of pattern text"),
        ("PerHead.of({**{}}, default=Causal(), heads=1)", r"`\*\*` is no part of pattern text"),
        ("PerHead.of({9: Causal()}, default=Dense(), heads=2)", "PerHead.of names head 9, but there are 2 heads"),
        ("PerHead(PerHead(Causal()))", "PerHead does not nest"),
        ("PerHead()", "PerHead needs one pattern for each query head"),
        ("Custom('os:system', 'x')", "pass allow_imports=True if you trust this text"),
        ("somewhere.Rule(3)", "'somewhere.Rule' is not loaded: import its module first"),
        ("Window(before=len('abc'))", "unknown pattern 'len'"),
        ("(lambda: Causal())()", "is no part of pattern text"),
        ("[Causal() for _ in (1,)][0]", "is no part of pattern text"),
        ("Causal().allows(1, 2)", "is no part of pattern text"),
        ("Causal() if True else Dense()", "is no part of pattern text"),
        ("(x := Causal())", "is no part of pattern text"),
        ("Window(b'3')", "is no part of pattern text"),
        ("f'{Causal()}'", "is no part of pattern text"),
        ("...", "is no part of pattern text"),
        ("Causal()\0", "null bytes"),
        ("(" * 300, "cannot be read"),
        ("~" * 100_000 + "Causal()", "nested too deeply|too many nested|too complex"),
        ("Window(" + "9" * 5000 + ")", "cannot be read"),
        ("Window(0x" + "f" * 9000 + ")", "Window before must be .* or less, .* got a number of 36000 bits"),
        ("Keys(-0x" + "f" * 9000 + ")", "Keys name must be the name of an annotation, .* got a number of 36000 bits"),
        ("Window(0x" + "f" * 9000 + "()) ", "is no part of pattern text"),
        ("Causal()" + " - (Causal()" * 60 + ")" * 60, "patterns are nested at most 50 deep"),
        ("PerHead(" + "A" * 5000 + "())", r"unknown pattern 'A{57}[.]{3}'"),
        ("Keys(" + "x" * 5000 + "=3)", "Keys has no argument 'x{57}[.]{3}'; it takes name"),
        ("Window(before=1, before=2)", "Window is given 'before' twice"),
        ("PerHead(a=Causal())", "PerHead has no argument 'a'; it takes patterns"),
        ("PerHead.of({range(0, 4, 0): Causal()}, default=Dense(), heads=4)", "range cannot step by 0"),
        ("PerHead.of({range(): Causal()}, default=Dense(), heads=4)", r"range takes 1 to 3 integers, as range\(0, 8\)"),
        ("PerHead.of({range('4'): Causal()}, default=Dense(), heads=4)", "range takes 1 to 3 integers"),
        ("PerHead.of({range(10**9): Causal()}, default=Dense(), heads=4)", "combine with"),
        ("PerHead.of({range(10000000000): Causal()}, default=Dense(), heads=4)", "names head 4, but there are 4 heads"),
        ("PerHead.of({0: Causal(), 0: Dense()}, default=Dense(), heads=4)", "the table has `0` twice"),
        ("PerHead.of({({},): Causal()}, default=Dense(), heads=4)", r"`\({},\)` cannot be the key of a table"),
        ("PerHead.of({'a': Causal()}, default=Dense(), heads=4)", "names heads by integers or ranges of them; got 'a'"),
        ("PerHead.of(3, default=Dense(), heads=4)", "PerHead.of takes a table"),
        ("Keys('\ud800')", "character 7 is a lone surrogate"),
        ("longnet(segments='ab', dilations='cd')", "segments must be a list of integers; got 'ab'"),
        (
            "deepspeed.fixed(num_local_blocks='4')",
            "deepspeed num_local_blocks must be an integer of 1 or more; got '4'",
        ),
    ],
)
def test_text_that_is_refused_says_why(text: str, message: str) -> None:
    with pytest.raises(PatternError, match=message) as refused:
        parse_pattern(text)
    assert len(str(refused.value)) < 700


def test_other_things_than_text_are_refused() -> None:
    with pytest.raises(PatternError, match="parse_pattern takes text; got Causal"):
        parse_pattern(Causal())  # type: ignore[arg-type]
    with pytest.raises(PatternError, match="1,000,000 characters at most; got 1,000,001"):
        parse_pattern("~" * 1_000_001)


def test_long_chains_do_not_nest() -> None:
    pattern = Causal()
    for n in range(1, 800):
        pattern = pattern | Window(before=n)
    assert parse_pattern(repr(pattern)) == pattern


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch {0}')",
        "Window(before=__import__('os').system('touch {0}'))",
        "Window(before=open('{0}', 'w'))",
        "Custom('os:system', 'touch {0}')",
        "os.system('touch {0}')",
        "Keys(f\"{{open('{0}', 'w')}}\")",
        "[open('{0}', 'w') for _ in (1,)]",
        "Causal().__class__.__base__.__subclasses__()",
        "zoo.reduce(Causal, Dense)",
        "deepspeed.whole('a', 1, at_least=0)",
        "antigravity_for_test.Rule()",
    ],
)
def test_no_code_in_a_text_is_executed(text: str, tmp_path: Any, monkeypatch: Any) -> None:
    proof = tmp_path / "executed"
    (tmp_path / "antigravity_for_test.py").write_text(f"open({str(proof)!r}, 'w').close()")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PatternError):
        parse_pattern(text.format(proof))
    assert not proof.exists() and "antigravity_for_test" not in sys.modules
    with pytest.raises(PatternError):  # the file runs where imports are allowed: the test could fail
        parse_pattern("antigravity_for_test.Rule()", allow_imports=True)
    assert proof.exists()
    sys.modules.pop("antigravity_for_test")


def test_a_function_is_written_by_its_import_path() -> None:
    pattern = Custom(os.path.isabs, "absolute", rectangles="openwork.testing.strategies:leans_left_rectangles")
    assert repr(pattern) == (
        f"Custom('{os.path.isabs.__module__}:isabs', 'absolute', "
        "rectangles='openwork.testing.strategies:leans_left_rectangles')"
    )
    assert parse_pattern(repr(pattern), allow_imports=True) == pattern


def test_a_local_function_has_no_text() -> None:
    pattern = Custom(lambda q_pos, kv_pos: kv_pos < q_pos, "mine")
    assert "<lambda>" in repr(pattern)
    with pytest.raises(PatternError, match="cannot be read"):
        parse_pattern(repr(pattern), allow_imports=True)


@relaxed
@given(pattern=patterns(custom=False, max_leaves=6), data=st.data())
def test_damaged_text_reads_as_a_pattern_or_is_refused(pattern: Pattern, data: st.DataObject) -> None:
    text = repr(pattern)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(text)))
        stop = data.draw(st.integers(place, min(len(text), place + 6)))
        piece = data.draw(st.sampled_from(PIECES) | st.text(max_size=3))
        text = text[:place] + piece + text[stop:]
    try:
        read = parse_pattern(text)
    except PatternError as error:
        assert len(str(error)) < 1000
    else:
        assert parse_pattern(repr(read)) == read and hash(read) == hash(parse_pattern(repr(read)))


def test_a_registered_class_that_refuses_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(centre: int) -> Pattern:
        raise ValueError("too far out")

    monkeypatch.setitem(register.REGISTERED, "my_rules.Mirror", refuses)
    with pytest.raises(PatternError, match=r"my_rules\.Mirror refused its arguments: ValueError: too far out"):
        parse_pattern("my_rules.Mirror(centre=3)")
