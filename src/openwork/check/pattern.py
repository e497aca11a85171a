"""`check_pattern`: leaks, empty rows, reach and missed links of a pattern, before anything is trained."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from openwork.annotate import check_offsets, future_facts, is_causal
from openwork.check.findings import DOCUMENT, facts_of_layers
from openwork.check.layers import layers_of
from openwork.check.links import TextLink, links_in_text
from openwork.check.reach import reach_and_hops
from openwork.check.report import CheckReport, FutureKnowledge
from openwork.check.walk import Progress
from openwork.errors import AnnotationWarning, ArgumentError
from openwork.layout.data import BlockLayout
from openwork.patterns.annotations import Annotations, IntArray
from openwork.patterns.base import Pattern
from openwork.plan import Plan

__all__ = ["DEEPEST", "check_pattern"]

DEEPEST = 64
"""Layers up to which a single pattern is followed, however few a model has."""
_CUTS = 24
_SHARES = {"facts": 0.05, "future": 0.15, "reach": 1.0}
"""Where each stage ends, as a share of the work."""


def check_pattern(
    subject: Pattern | Plan | BlockLayout,
    length: int | None = None,
    *,
    layers: int | None = None,
    annotations: Annotations | None = None,
    text: str | None = None,
    offsets: Any = None,
    annotator: Callable[[str, Any], Annotations] | None = None,
    bidirectional: bool = False,
    examples: int = 5,
    title: str | None = None,
    progress: Progress | None = None,
) -> CheckReport:
    r"""What a pattern, a plan or a mask lets through: leaks, documents, empty rows, reach, and the links of a text.

    Checked pair by pair, from the compiled blocks: no query sees a later key; no pair joins two documents (label
    `document`; below 0 is padding and does not count); every query sees a key; every key is read by some query. Then
    what reaches what layer by layer, exactly, and with a text which of its links are missed in `layers` layers.
    Where the patterns read annotations and an annotator is given, it is tried on the beginnings of the text: a fact
    that needs later tokens is a leak, too.

    Args:
        subject: A pattern, a plan (each layer its own pattern), or the layout of a mask.
        length: Number of tokens; left out where a text or a layout says it.
        layers: Layers of the model. A single pattern is followed to 64 all the same, and needs no number; neither
            does a plan that is one pattern.
        annotations: Facts about the tokens; by default those that `annotator` finds in `text`.
        text: The text that the tokens are of.
        offsets: The character span of each token, int `[n, 2]`; needed with `text`.
        annotator: What makes the facts.
        bidirectional: Later keys are meant to be seen, as in an encoder.
        examples: How many pairs or rows of each finding are named.
        title: What the report calls it; by default the text of the pattern or plan.
        progress: Called with the share of the work that is done, 0 to 1.

    Raises:
        ArgumentError: Arguments are missing, contradict each other or are out of range.
        AnnotationError: A pattern reads an annotation that is missing, or `offsets` are no spans of the text.
        LayoutError: A layout has several sequences, or its queries are not its keys.

    Examples:
        >>> import openwork as ow
        >>> check_pattern(ow.Causal() & (ow.Window(before=2) | ow.First(keys=1)), 8, layers=2)
        Causal() & (Window(before=2, after=0) | First(keys=1))
        8 tokens, 2 layers
          density 0.406, 0.722 of causal
          ok    no query sees a later key
          -     no label `document`: documents are not told apart
          ok    every query sees a key
          ok    every key is read
        <BLANKLINE>
        share of pairs with k <= q that is connected after so many layers:
          1: 0.722, 2: 0.917, 3: 1.000
        everything is connected after 3 layers
    """
    depth, deepest = _depth(subject, layers)
    spans: IntArray | None = None
    if text is not None:
        if offsets is None:
            raise ArgumentError("check_pattern needs offsets with text: the character span of each token, [n, 2].")
        spans = check_offsets(text, offsets)
        if length is not None and length != len(spans):
            raise ArgumentError(f"length={length}, but the text has {len(spans)} tokens; leave length out.")
        length = len(spans)
        if annotations is None and annotator is not None:
            annotations = annotator(text, spans)
    elif annotations is not None and length is None and not isinstance(subject, BlockLayout):
        length = annotations.length
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", AnnotationWarning)
        model = layers_of(subject, length, deepest, annotations)
    lines = None if spans is None or text is None else _lines(text, spans)
    report = _within(progress, 0.0, _SHARES["facts"])
    facts = facts_of_layers(model, depth, lines, examples)
    report(1.0)
    future = None
    if text is not None and spans is not None and annotator is not None and not bidirectional:
        needs = tuple(Plan.of(subject).needs) if isinstance(subject, Pattern | Plan) else ()
        future = _future(annotator, text, spans, needs, _within(progress, _SHARES["facts"], _SHARES["future"]))
    links: tuple[TextLink, ...] | None = None
    if text is not None and spans is not None and (annotator is not None or annotations is not None):
        links = links_in_text(text, spans, annotator, annotations)
    reach, links = reach_and_hops(model, links, _within(progress, _SHARES["future"], 1.0))
    return CheckReport(
        title=title if title is not None else repr(subject) if isinstance(subject, Pattern | Plan) else model.names[0],
        length=model.length,
        num_layers=depth,
        facts=facts,
        reach=reach,
        bidirectional=bidirectional,
        documents=annotations is not None and DOCUMENT in annotations.labels,
        future=future,
        links=links,
        notes=tuple(dict.fromkeys(str(warning.message) for warning in caught)),
    )


def _depth(subject: Pattern | Plan | BlockLayout, layers: int | None) -> tuple[int, int]:
    """Layers of the model, and layers to look at."""
    mixed = isinstance(subject, Plan) and bool(subject.layers or subject.depths)
    if layers is None and mixed:
        raise ArgumentError("a plan whose layers differ needs to know how many there are: layers=12.")
    if layers is None:
        return DEEPEST, DEEPEST
    # what is out of range is said by `layers_of`
    return layers, layers if mixed or not isinstance(layers, int) or layers < 1 else max(layers, DEEPEST)


def _within(progress: Progress | None, first: float, stop: float) -> Progress:
    """Progress of one stage as progress of the whole."""
    return (lambda share: None) if progress is None else (lambda share: progress(first + share * (stop - first)))


def _lines(text: str, spans: IntArray) -> list[int]:
    """The line, from 1, that each token starts in."""
    ends = np.flatnonzero(np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32) == ord("\n"))
    lines: list[int] = (np.searchsorted(ends, spans[:, 0]) + 1).tolist()
    return lines


def _future(
    annotator: Callable[[str, Any], Annotations],
    text: str,
    spans: IntArray,
    needs: tuple[str, ...],
    progress: Progress,
) -> FutureKnowledge | None:
    """What the facts that patterns read know of the future, by beginnings of the text."""
    if not needs:
        return None
    name = str(getattr(annotator, "name", None) or getattr(annotator, "__name__", repr(annotator)))
    declared = not is_causal(annotator)
    for number, fact in enumerate(
        future_facts(annotator, text, spans, max_cuts=_CUTS, near_facts=True, names=needs), 1
    ):
        progress(min(1.0, number / _CUTS))
        if fact is not None:
            return FutureKnowledge(
                name, declared, fact.cut, text.count("\n", 0, max(0, fact.end - 1)) + 1, fact.difference
            )
    return FutureKnowledge(name, True) if declared else None
