"""Every bad value names the argument, the value and the way out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from openwork.errors import AnnotationError, PatternError
from openwork.layout import bind
from openwork.patterns import (
    Annotations,
    Axis,
    Causal,
    Chunk,
    Custom,
    Dense,
    Dilated,
    Earlier,
    First,
    Grid,
    Keys,
    Linked,
    PerHead,
    Queries,
    RandomBlocks,
    Same,
    Strided,
    Summary,
    Window,
)
from openwork.patterns.checks import whole
from openwork.testing.spans import ListedSpans


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Window(-1),
            r"Window before must be 0 or more, or None for unlimited; got -1. \(FlashAttention writes",
        ),
        (lambda: Window(3, -2), "Window after must be 0 or more, or None for unlimited; got -2"),
        (lambda: Window(2.5), "Window before must be 0 or more, or None for unlimited; got 2.5"),
        (lambda: Window(True), "Window before must be 0 or more, or None for unlimited; got True"),
        (lambda: Window(None, None), r"Window needs a limit on one side at least; for all pairs use Dense\(\)"),
        (lambda: Dilated(None, None, step=2), r"Dilated needs a limit .* use Strided\(step\)"),
        (lambda: Dilated(3, step=0), "Dilated step must be an integer of 1 or more; got 0"),
        (lambda: Strided(0), "Strided stride must be an integer of 1 or more; got 0"),
        (lambda: Strided("4"), "Strided stride must be an integer of 1 or more; got '4'"),
        (lambda: Summary(4, 0), "Summary count must be an integer of 1 or more; got 0"),
        (lambda: Summary(4, 3, 2), r"must fit into block=4; got offset=2, count=3. Use a count of 2 or less"),
        (lambda: Summary(4, 1, -1), "Summary offset must be an integer of 0 or more; got -1"),
        (lambda: Chunk(0), "Chunk size must be an integer of 1 or more; got 0"),
        (lambda: Chunk(4, -1), "Chunk before must be 0 or more, or None"),
        (lambda: Chunk(4, None, None), r"Chunk needs a limit on one side at least; for all pairs use Dense\(\)"),
        (lambda: First(), r"First takes either keys= or queries=; got keys=None, queries=None. For both write First"),
        (lambda: First(keys=1, queries=1), "First takes either keys= or queries=; got keys=1, queries=1"),
        (lambda: First(keys=0), "First keys must be an integer of 1 or more; got 0"),
        (lambda: First(queries=-1), "First queries must be an integer of 1 or more; got -1"),
        (lambda: RandomBlocks(0, 1, 0), "RandomBlocks block must be an integer of 1 or more; got 0"),
        (
            lambda: RandomBlocks(1, 1, 2**64),
            r"RandomBlocks seed must be 18,446,744,073,709,551,615 or less; got 18446744073709551616",
        ),
        (lambda: RandomBlocks(1, 1, 0, num_blocks=0), "num_blocks must be an integer of 1 or more; got 0. None draws"),
        (lambda: Grid((2, 2, 2, 2), 1), r"Grid shape must have 1 to 3 axes; got \(2, 2, 2, 2\)"),
        (lambda: Grid((4, 0), 1), "Grid shape must be an integer of 1 or more; got 0"),
        (lambda: Grid((4, 4), (1, 2, 3)), r"Grid kernel needs one value, or one for each of the 2 axes of shape; got"),
        (lambda: Grid((4, 4), 0), "Grid kernel must be an integer of 1 or more; got 0"),
        (lambda: Grid((4, 9), 3, 2), "kernel=3 with dilation=2 does not fit axis 0 of length 4; .* may be 4 at most"),
        (lambda: Grid((4, 4), 3, causal=1), "Grid causal must be True or False, once or for each of 2 axes; got 1"),
        (lambda: Grid((4, 4), 3, offset=-1), "Grid offset must be an integer of 0 or more; got -1"),
        (lambda: Axis((4, 4), 2), r"Axis axis=2 does not exist: shape \(4, 4\) has axes 0 to 1"),
        (lambda: Axis((4, 4), -1), "Axis axis must be an integer of 0 or more; got -1"),
        (lambda: Keys(""), "Keys name must be the name of an annotation, such as 'heading'; got ''"),
        (lambda: Queries(3), "Queries name must be the name of an annotation"),
        (lambda: Same(None), "Same name must be the name of an annotation"),
        (lambda: Earlier(b"x"), "Earlier name must be the name of an annotation"),
        (lambda: Linked(1), "Linked name must be the name of an annotation"),
        (lambda: Custom(3, "x"), "Custom fn must be a function or its import path 'module:name'; got 3"),
        (lambda: Custom("no_such_module_here:f", "x"), "Custom fn 'no_such_module_here:f' cannot be imported"),
        (lambda: Custom("math", "x"), "Custom fn 'math' cannot be imported"),
        (lambda: Custom("math:pi", "x"), "Custom fn must be a function or its import path 'module:name'; got 3.14"),
        (lambda: Custom(max, ""), "Custom name must be a string that reports can show; got ''"),
        (lambda: Custom(max, "x", rectangles=5), "Custom rectangles must be a function"),
        (lambda: PerHead(), "PerHead needs one pattern for each query head; got none"),
        (lambda: PerHead(Causal(), PerHead(Causal())), "does not nest: the pattern of head 1 is itself a PerHead"),
        (lambda: PerHead(Causal(), 3), "PerHead takes patterns; head 1 got 3"),
        (
            lambda: PerHead.of({2: Causal()}, default=Dense(), heads=2),
            r"names head 2, but there are 2 heads \(0 to 1\)",
        ),
        (lambda: PerHead.of({range(2): Causal(), 1: Dense()}, default=Dense(), heads=2), "names head 1 twice"),
        (lambda: PerHead.of({}, default=Dense(), heads=0), "PerHead.of heads must be an integer of 1 or more; got 0"),
        (
            lambda: PerHead(Causal()) & PerHead(Causal(), Causal()),
            "`&` joins PerHead .* equally many heads; got 1 and 2",
        ),
        (
            lambda: PerHead.of([Causal()], default=Dense(), heads=2),
            r"PerHead.of takes a table {head: pattern}; got \[Causal\(\)\]",
        ),
        (lambda: PerHead.of({"0": Causal()}, default=Dense(), heads=2), "names heads by integers or ranges .* got '0'"),
        (lambda: PerHead.of({True: Causal()}, default=Dense(), heads=2), "integers or ranges of them; got True"),
        (
            lambda: PerHead.of({}, default=Dense(), heads=10**9),
            "PerHead.of heads must be 65,536 or less; got 1000000000",
        ),
        (lambda: PerHead(*[Causal()] * 65_537), "PerHead takes 65,536 patterns or fewer; got 65,537"),
        (lambda: Window(2**31), "Window before must be 2,147,483,647 or less, or None for unlimited; got 2147483648"),
        (lambda: Window(np.arange(2)), r"Window before must be 0 or more, or None .* got array\(\[0, 1\]\)"),
        (lambda: Strided(2**31), "Strided stride must be 2,147,483,647 or less; got 2147483648"),
        (lambda: Strided(16**5000), "Strided stride must be 2,147,483,647 or less; got a number of 20001 bits"),
        (lambda: Strided("4" * 100), "Strided stride must be an integer of 1 or more; got '4{76}[.]{3}[.]$"),
        (lambda: RandomBlocks(4, 10**12, 0), "RandomBlocks count must be 4,096 or less; got 1000000000000"),
        (lambda: Grid(2**24 + 1, 3), "Grid shape must be 16,777,216 or less; got 16777217"),
        (lambda: Axis((2**20, 2**20), 0), "Axis shape must hold 2,147,483,647 tokens or fewer, its offset included"),
        (lambda: bool(Causal()), "a pattern has no truth value: `and`, `or` and `not` do not combine patterns; use"),
        (lambda: Causal() and Dense(), "a pattern has no truth value"),
        (lambda: PerHead(Causal()).allows(0, 0), r"ask pattern.head\(h\).allows\(q_pos, kv_pos\)"),
        (lambda: PerHead(Causal()).head(1), "head 1 does not exist: PerHead has 1 heads"),
    ],
)
def test_bad_values_are_explained(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(PatternError, match=message):
        make()


@pytest.mark.parametrize(
    "pattern", [Keys("a"), Queries("a"), Same("a"), Earlier("a"), Linked("a"), ~Keys("a") & Causal()]
)
def test_annotated_patterns_name_the_way_to_an_answer(pattern: Any) -> None:
    with pytest.raises(PatternError, match=r"ow.bind\(pattern, q_len=..., kv_len=..., annotations=...\).allows"):
        pattern.allows(1, 0)


@pytest.mark.parametrize("other", [3, None, "Causal()", lambda q, k: True])
def test_operators_refuse_other_things(other: Any) -> None:
    for join in (lambda a, b: a & b, lambda a, b: a | b, lambda a, b: a - b):
        with pytest.raises(TypeError, match="unsupported operand"):
            join(Causal(), other)


def test_numpy_integers_become_python_integers() -> None:
    assert repr(Window(np.int64(3))) == "Window(before=3, after=0)"
    assert repr(Grid(np.int64(4), np.int32(2))).startswith("Grid(shape=(4,), kernel=(2,)")
    assert type(whole("x", np.uint8(3), at_least=0)) is int


def test_equal_patterns_are_equal() -> None:
    assert Grid((4, 4), 3) == Grid([4, 4], (3, 3), causal=[False, False])
    assert len({Window(3), Window(3, 0), Window(3, 1)}) == 2
    assert Causal() & (Causal() & Window(3)) == (Causal() & Causal()) & Window(3)
    assert ~~Causal() == Causal() and Causal() - Window(3) == Causal() & ~Window(3)
    assert ~PerHead(Causal(), Window(2)) == PerHead(~Causal(), ~Window(2))


def test_custom_rules_must_answer_for_each_pair() -> None:
    def three_short(q_pos: Any, kv_pos: Any) -> Any:
        return np.ones(3, dtype=bool)

    with pytest.raises(
        PatternError, match=r"Custom 'short' must answer for each pair: arrays that broadcast to \[5, 5\]"
    ):
        bind(Custom(three_short, "short"), q_len=5, kv_len=5).to_dense()
    with pytest.raises(
        PatternError, match="Custom 'sum' must answer True or False for each pair; its function gave int64"
    ):
        bind(Custom(lambda q, k: q + k, "sum"), q_len=5, kv_len=5).to_dense()
    sets = ListedSpans([[0, 1], [2, 3]], np.arange(4))
    for answer in (np.array([3, 0]), np.zeros(5)):
        wrong = Custom(lambda q, k: q == k, "wrong", lambda *sides, answer=answer: answer)
        with pytest.raises(
            PatternError, match=r"rectangles must answer 0 \(empty\), 1 \(not known\) or 2 \(full\) for each"
        ):
            wrong.states(sets, sets)


def test_a_custom_rule_that_reads_one_side_is_a_mask_all_the_same() -> None:
    dense = bind(Custom(lambda q, k: k % 2 == 0, "even"), q_len=3, kv_len=4).to_dense()
    assert dense[0, 0].tolist() == [[True, False, True, False]] * 3


def test_annotations_say_what_is_wrong_with_them() -> None:
    for make, message in (
        (lambda: Annotations(-1), "length must be 0 or more; got -1"),
        (lambda: Annotations("3"), "Annotations length must be 0 or more; got '3'"),
        (lambda: Annotations(1.0), "Annotations length must be 0 or more; got 1.0"),
        (lambda: Annotations(1, kv_length=-1), "Annotations kv_length must be 0 or more; got -1"),
        (lambda: Annotations(2, flags=[1, 0]), "Annotations flags is a table {name: values}; got list"),
        (lambda: Annotations(2, flags={"a": [1, [0]]}), "flag 'a' must have rows of equal length"),
        (lambda: Annotations(1, labels={"a": np.array([2**63], dtype=np.uint64)}), "label 'a' must fit into 64 bits"),
        (lambda: Annotations(2).prefix("1"), "prefix stop must be between 0 and the length 2; got '1'"),
        (lambda: Annotations(2).merged({}), "annotations merge with annotations; got dict"),
        (
            lambda: Annotations(3, flags={"a": [True]}),
            r"flag 'a' has shape \[1\], but the annotations are for length=3",
        ),
        (lambda: Annotations(2, flags={"a": [0, 2]}), "flag 'a' must be True or False for each token; got int64"),
        (lambda: Annotations(2, labels={"a": [0.5, 1]}), "label 'a' must be an integer for each token; got float64"),
        (lambda: Annotations(2, links={"a": [[0, 1, 2]]}), r"links 'a' must be integers \[n, 4\]"),
        (lambda: Annotations(2, links={"a": [[0, 3, 0, 1]]}), r"links 'a' has the span \[0, 3, 0, 1\], outside"),
        (lambda: Annotations(4, links={"a": [[2, 1, 0, 1]]}), "links 'a' has a span that ends before it starts"),
        (lambda: Annotations(2, flags={"": [0, 1]}), "flags? names are non-empty strings; got ''"),
        (lambda: Annotations(2).prefix(3), "prefix stop must be between 0 and the length 2; got 3"),
        (lambda: Annotations(2).merged(Annotations(3)), "annotations of 2 and 3 tokens do not describe the same"),
        (
            lambda: Annotations(1, flags={"a": [1]}).merged(Annotations(1, flags={"a": [0]})),
            "both annotations carry 'a'; rename one before merging",
        ),
    ):
        with pytest.raises(AnnotationError, match=message):
            make()
