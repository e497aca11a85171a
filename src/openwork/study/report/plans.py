"""What the plans of a study let through, over its own held-out text, and how far information gets in them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from openwork.errors import AnnotationWarning
from openwork.layout import BlockLayout, compile_layout
from openwork.patterns import Annotations, Pattern, PerHead
from openwork.study.config import DENSE, Contender
from openwork.study.corpus import Document, read_text
from openwork.study.masks import load_mask
from openwork.study.notes import SequenceNotes
from openwork.study.report.charts import Line, line_figure
from openwork.study.report.picture import TextLine, pattern_figure, text_lines
from openwork.study.report.reach import model_reach
from openwork.study.report.values import Figure, Section, Words
from openwork.study.result import StudyResult
from openwork.study.trainer import StudyData

__all__ = ["plan_sections"]

_SHORTEST, _LONGEST = 512, 4096
"""Tokens of text that pictures show: as few as show that a plan leaves something out."""
_SHOWS = 0.5
"""Share of the causal pairs below which a picture shows that."""
_MOST_PICTURES = 4
"""Pictures of one plan; layers and heads that are alike share one."""
_LOOKED_AT = 16
"""Documents among which the one is chosen whose beginning shows most of what the plans read."""
_REACH_TOKENS = 4096


@dataclass(frozen=True)
class _Excerpt:
    """The first tokens of a held-out document."""

    data: StudyData
    number: int
    length: int

    @property
    def document(self) -> Document:
        return self.data.held_out.documents[self.number]

    def notes(self, contender: Contender, length: int) -> Annotations | None:
        """The facts that the plan reads, of the first `length` tokens."""
        if contender.plan is None or not contender.plan.needs:
            return None
        data, plan, corpus = self.data, contender.plan, self.data.corpus
        found = SequenceNotes(data.held_out, corpus.root, data.tokenizer, plan.needs, plan.annotator, corpus.features)
        first = int(data.held_out.firsts[self.number]) + 1
        return found.window(first, first + length)


def plan_sections(result: StudyResult, data: StudyData) -> tuple[tuple[Section, ...], dict[str, Any]]:
    """Sections with the pictures of all plans but dense attention and with their reach, and the figures in them."""
    with warnings.catch_warnings():
        # a text without definitions shows a plan without them: the picture says so itself
        warnings.simplefilter("ignore", AnnotationWarning)
        pictures, shown = _pictures(result, data)
        reach, reached = _reach(result, data)
    return (*pictures, *reach), {"pictures": shown, "reach": reached}


def _pictures(result: StudyResult, data: StudyData) -> tuple[tuple[Section, ...], dict[str, Any]]:
    sparse = [(n, contender) for n, contender in enumerate(result.config.everyone) if contender.name != DENSE]
    excerpt = _excerpt(result, data, [contender for _, contender in sparse])
    text = read_text(data.corpus.root, excerpt.document)
    offsets = data.tokenizer.offsets(text)[: excerpt.length]
    text = text[: int(offsets[:, 1].max(initial=0))]
    figures, shown = [], []
    all_notes = [excerpt.notes(contender, excerpt.length) for _, contender in sparse]
    # the same lines are marked in every picture, whatever its plan reads
    flags = [(name, values) for notes in all_notes if notes is not None for name, values in notes.flags.items()]
    names = {name for name, values in flags if values.any()}
    marked = np.logical_or.reduce([np.zeros(excerpt.length, dtype=bool), *(values for _, values in flags)])
    # a part of a longer file does not know its lines' numbers
    lines = text_lines(text, offsets, marked=marked, first_line=None if excerpt.document.first else 1)
    for (style, contender), notes in zip(sparse, all_notes, strict=True):
        for name, layout, head in _layouts(result, contender, excerpt.length, notes):
            figures.append(_picture(name, layout, head, lines, notes, style))
            plane = layout.plane(0, head)
            shown.append({"plan": name, "pairs": plane.allowed_pairs, "possible": plane.possible_pairs})
    lead = (
        f"The first {excerpt.length:,} tokens of `{excerpt.document.name}`, which no plan was trained on. Each row is "
        "a query, each column a key; a query sees itself at the diagonal, where its line of the text stands, and what "
        "is coloured to the left. Dense attention would fill the whole triangle."
    )
    if marked.any():
        lead += f" Lines in bold: {' or '.join(sorted(names))}."
    facts = {"document": excerpt.document.name, "tokens": excerpt.length, "plans": shown}
    return ((Section("What each plan lets through", lead, tuple(figures)),) if figures else ()), facts


def _excerpt(result: StudyResult, data: StudyData, contenders: list[Contender]) -> _Excerpt:
    """As few tokens of one held-out document as show that every plan leaves something out."""
    stream = data.held_out
    lengths = (stream.ends - stream.firsts - 1).tolist()
    longest = min(result.config.seq_len, _LONGEST)
    wanted = min(_SHORTEST, longest)
    while True:
        long = [n for n, length in enumerate(lengths) if length >= wanted][:_LOOKED_AT] or [int(np.argmax(lengths))]
        # the first of those that show most of what the plans read
        number = max(long, key=lambda n: _num_facts(_Excerpt(data, n, wanted), contenders) if len(long) > 1 else 0)
        excerpt = _Excerpt(data, number, max(1, min(wanted, lengths[number])))
        if wanted >= longest or lengths[number] < wanted or _all_show(result, contenders, excerpt):
            return excerpt
        wanted = min(2 * wanted, longest)


def _num_facts(excerpt: _Excerpt, contenders: list[Contender]) -> int:
    notes = [excerpt.notes(contender, excerpt.length) for contender in contenders]
    return sum(
        sum(int(flags.sum()) for flags in note.flags.values()) + sum(len(links) for links in note.links.values())
        for note in notes
        if note is not None
    )


def _all_show(result: StudyResult, contenders: list[Contender], excerpt: _Excerpt) -> bool:
    length = excerpt.length
    for contender in contenders:
        notes = excerpt.notes(contender, length)
        for _, layout, head in _layouts(result, contender, length, notes):
            if layout.plane(0, head).allowed_pairs > _SHOWS * length * (length + 1) / 2:
                return False
    return True


def _layouts(
    result: StudyResult, contender: Contender, length: int, notes: Annotations | None
) -> Iterator[tuple[str, BlockLayout, int]]:
    """The different masks of a plan, each with its name, its layout and the head of the layout."""
    if contender.mask is not None:
        layout = _mask_layout(contender, length)
        heads: dict[int, list[str]] = {}
        for head in range(layout.heads):
            heads.setdefault(int(layout.index[0, head]), []).append(f"head {head}")
        for plane, names in list(heads.items())[:_MOST_PICTURES]:
            name = contender.name if len(heads) == 1 else f"{contender.name}: {_few(names)}"
            yield name, layout, int(np.flatnonzero(layout.index[0] == plane)[0])
        return
    plan = contender.plan_of_layers
    assert plan is not None
    model = result.model
    users: dict[Pattern, list[str]] = {}
    for layer in range(model.num_layers):
        pattern = plan.for_layer(layer, model.num_layers)
        if isinstance(pattern, PerHead):
            for head in range(model.layers[layer].q_heads):
                users.setdefault(pattern.head(head), []).append(f"layer {layer} head {head}")
        else:
            users.setdefault(pattern, []).append(f"layer {layer}")
    for pattern, places in list(users.items())[:_MOST_PICTURES]:
        name = contender.name if len(users) == 1 else f"{contender.name}: {_few(places)}"
        yield name, compile_layout(pattern, q_len=length, kv_len=length, annotations=notes), 0


def _mask_layout(contender: Contender, length: int) -> BlockLayout:
    assert contender.mask is not None
    mask = np.tril(load_mask(contender.mask)[..., :length, :length])
    return BlockLayout.from_mask(mask)


def _few(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])} and {len(names) - 2} more"


def _picture(
    name: str,
    layout: BlockLayout,
    head: int,
    lines: tuple[TextLine, ...],
    notes: Annotations | None,
    style: int,
) -> Figure:
    plane = layout.plane(0, head)
    length = plane.q_len
    causal = length * (length + 1) // 2
    share = plane.allowed_pairs / causal
    keys = dict(notes.flags) if notes is not None else {}
    queries = {name: _linked(rows, length) for name, rows in notes.links.items()} if notes is not None else {}
    seen = plane.allowed_pairs / length
    said = f"{100 * share:.1f} % of the causal pairs; a query sees {seen:,.0f} keys on average."
    marked = sum(line.marked for line in lines)
    return pattern_figure(
        plane,
        caption=name,
        alt=(
            f"Which of {length:,} tokens see which under the plan {name}: {plane.allowed_pairs:,} of {causal:,} causal "
            f"pairs, {100 * share:.1f} %."
            + (f" {marked} lines are marked as {' or '.join(keys)}." if keys and marked else "")
        ),
        lines=lines,
        keys=keys,
        queries=queries,
        note=said,
        style=style,
    )


def _linked(rows: Any, length: int) -> Any:
    flags = np.zeros(length, dtype=bool)
    for q_first, q_stop, *_ in rows:
        flags[q_first:q_stop] = True
    return flags


def _reach(result: StudyResult, data: StudyData) -> tuple[tuple[Section, ...], dict[str, Any]]:
    layers = result.model.num_layers
    length = min(result.config.seq_len, _REACH_TOKENS)
    excerpt = _Excerpt(data, 0, length)
    lines, figures = [], {}
    for style, contender in enumerate(result.config.everyone):
        reach = model_reach(result.model, contender, length, excerpt.notes(contender, length))
        places = tuple((float(n), share) for n, share in enumerate(reach.coverage, start=1))
        lines.append(Line(contender.name, places, (), tuple((x, y, y, y) for x, y in places), style))
        figures[contender.name] = reach.to_dict()
    said = "; ".join(f"{line.name} {100 * line.points[-1][1]:.1f} %" for line in lines)
    figure = line_figure(
        lines,
        caption="Pairs connected after each layer",
        alt=f"Share of the causal pairs of {length:,} tokens that are connected after {layers} layers: {said}.",
        x_label="layers",
        y_label="share of causal pairs",
        note=f"Exact, for the first {length:,} held-out tokens.",
        y_range=(0.0, 1.0),
        whole_x=True,
    )
    lead = (
        "What can get where: after a layer a token holds what it held and what the tokens that it sees held. A pair "
        "that is not connected after the last layer cannot matter to the model, whatever it learns."
    )
    if any(result.model.mixes):
        lead += (
            f" The short convolution, under every plan alike, counts as a window of {max(result.model.mixes)} tokens "
            "before each token, ahead of each layer."
        )
    table = Words("After the last layer: " + said + ".")
    return (Section("Reach", lead, (figure, table)),), {"tokens": length, "layers": layers, "plans": figures}
