"""Hypothesis strategies for patterns, alone and combined, and for annotations that they can read.

Sizes suit sequences of up to about 70 tokens: large enough to cross blocks, small enough to enumerate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

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
    Pattern,
    PerHead,
    PowersOfTwo,
    Queries,
    RandomBlocks,
    Same,
    Strided,
    Summary,
    Window,
)

__all__ = ["FACTS", "LEAF_STRATEGIES", "facts", "leaf_patterns", "patterns", "per_head"]

FACTS: Mapping[str, tuple[str, ...]] = {
    "flag": ("heading", "question"),
    "label": ("document", "turn"),
    "links": ("use", "cite"),
}
"""Names that generated patterns read, by kind; `facts` gives all of them."""


def leans_left(q_pos: Any, kv_pos: Any) -> Any:
    """A rule for `Custom`: the key stands in the first half of what the query has seen."""
    return kv_pos * 2 <= q_pos


def leans_left_rectangles(q_low: Any, q_high: Any, kv_low: Any, kv_high: Any) -> Any:
    """The same rule for rectangles."""
    return np.where(kv_low * 2 > q_high, 0, np.where(kv_high * 2 <= q_low, 2, 1))


def _sides(draw: DrawFn) -> dict[str, int | None]:
    before = draw(st.one_of(st.none(), st.integers(0, 40)))
    after = draw(st.integers(0, 12) if before is None else st.one_of(st.none(), st.integers(0, 12)))
    return {"before": before, "after": after}


@st.composite
def _windows(draw: DrawFn) -> Pattern:
    sides = _sides(draw)
    return Window(sides["before"], sides["after"])


@st.composite
def _dilated(draw: DrawFn) -> Pattern:
    sides = _sides(draw)
    return Dilated(sides["before"], sides["after"], step=draw(st.integers(1, 9)))


@st.composite
def _summaries(draw: DrawFn) -> Pattern:
    block = draw(st.integers(1, 20))
    count = draw(st.integers(1, block))
    return Summary(block, count, draw(st.integers(0, block - count)))


@st.composite
def _chunks(draw: DrawFn) -> Pattern:
    before = draw(st.one_of(st.none(), st.integers(0, 2)))
    after = draw(st.integers(0, 2) if before is None else st.one_of(st.none(), st.integers(0, 2)))
    return Chunk(draw(st.integers(1, 25)), before, after)


@st.composite
def _random_blocks(draw: DrawFn) -> Pattern:
    return RandomBlocks(
        draw(st.integers(1, 12)),
        draw(st.integers(1, 4)),
        draw(st.integers(0, 2**64 - 1)),
        draw(st.integers(0, 2)),
        draw(st.integers(0, 2)),
        draw(st.one_of(st.none(), st.integers(1, 70))),
    )


@st.composite
def _shapes(draw: DrawFn) -> tuple[int, ...]:
    axes = draw(st.integers(1, 3))
    most = {1: 70, 2: 9, 3: 5}[axes]
    return tuple(draw(st.integers(1, most)) for _ in range(axes))


@st.composite
def _grids(draw: DrawFn) -> Pattern:
    shape = draw(_shapes())
    kernel, dilation, causal = [], [], []
    for length in shape:
        kernel.append(draw(st.integers(1, length)))
        dilation.append(draw(st.integers(1, length // kernel[-1])))
        causal.append(draw(st.booleans()))
    return Grid(shape, kernel, dilation, causal, draw(st.integers(0, 5)))


@st.composite
def _axes(draw: DrawFn) -> Pattern:
    shape = draw(_shapes())
    return Axis(shape, draw(st.integers(0, len(shape) - 1)), draw(st.integers(0, 5)))


def _named(make: Callable[[str], Pattern], kind: str) -> SearchStrategy[Pattern]:
    return st.sampled_from(FACTS[kind]).map(make)


LEAF_STRATEGIES: Mapping[type[Pattern], SearchStrategy[Pattern]] = {
    Dense: st.just(Dense()),
    Causal: st.just(Causal()),
    Window: _windows(),
    Dilated: _dilated(),
    Strided: st.integers(1, 20).map(Strided),
    Summary: _summaries(),
    Chunk: _chunks(),
    First: st.one_of(
        st.integers(1, 20).map(lambda n: First(keys=n)), st.integers(1, 20).map(lambda n: First(queries=n))
    ),
    PowersOfTwo: st.just(PowersOfTwo()),
    RandomBlocks: _random_blocks(),
    Grid: _grids(),
    Axis: _axes(),
    Keys: _named(Keys, "flag"),
    Queries: _named(Queries, "flag"),
    Same: _named(Same, "label"),
    Earlier: _named(Earlier, "label"),
    Linked: _named(Linked, "links"),
    Custom: st.sampled_from(
        [Custom(leans_left, "leans left"), Custom(leans_left, "leans left, told", leans_left_rectangles)]
    ),
}
"""A strategy for every pattern that is not composed of others."""


def leaf_patterns(*, annotated: bool = True, custom: bool = True) -> SearchStrategy[Pattern]:
    """Single patterns; without `annotated`, those that positions decide."""
    left_out: set[type[Pattern]] = set() if annotated else {Keys, Queries, Same, Earlier, Linked}
    left_out |= set() if custom else {Custom}
    return st.one_of([strategy for leaf, strategy in LEAF_STRATEGIES.items() if leaf not in left_out])


def patterns(*, annotated: bool = True, custom: bool = True, max_leaves: int = 5) -> SearchStrategy[Pattern]:
    """Patterns combined with `&`, `|`, `~` and `-`, for one head."""
    return st.recursive(
        leaf_patterns(annotated=annotated, custom=custom),
        lambda inner: st.one_of(
            st.tuples(inner, inner).map(lambda pair: pair[0] & pair[1]),
            st.tuples(inner, inner).map(lambda pair: pair[0] | pair[1]),
            st.tuples(inner, inner).map(lambda pair: pair[0] - pair[1]),
            inner.map(lambda pattern: ~pattern),
        ),
        max_leaves=max_leaves,
    )


def per_head(*, annotated: bool = True, custom: bool = True, max_heads: int = 4) -> SearchStrategy[PerHead]:
    """`PerHead` patterns."""
    heads = st.lists(patterns(annotated=annotated, custom=custom, max_leaves=3), min_size=1, max_size=max_heads)
    return heads.map(lambda inner: PerHead(*inner))


@st.composite
def facts(draw: DrawFn, length: int) -> Annotations:
    """Facts about `length` tokens under all names in `FACTS`: sorted and scattered labels, nested and empty spans."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    flags = {name: random.random(length) < draw(st.sampled_from([0.0, 0.05, 0.3, 1.0])) for name in FACTS["flag"]}
    labels = {}
    for name in FACTS["label"]:
        kinds = draw(st.integers(1, 8))
        values = random.integers(0, kinds, length)
        values = np.sort(values) if draw(st.booleans()) else values
        labels[name] = np.where(random.random(length) < draw(st.sampled_from([0.0, 0.2])), -1, values)
    links = {name: _spans(random, length, draw(st.integers(0, 6))) for name in FACTS["links"]}
    return Annotations(length, flags, labels, links)


def _spans(random: np.random.Generator, length: int, count: int) -> Any:
    first = random.integers(0, length + 1, (count, 2))
    stop = np.minimum(first + random.integers(0, 9, (count, 2)), length)
    return np.stack([first[:, 0], stop[:, 0], first[:, 1], stop[:, 1]], axis=1)
