"""What the acts of the demo show on its page."""

from __future__ import annotations

from dataclasses import replace

from openwork.study.acts.reach import ReachResult, ReachRow
from openwork.study.acts.scale import DENSE, MASK, SPARSE, Scale, ScaleRow, eager_bytes
from openwork.study.acts.see import Seen
from openwork.study.report import Bar, Code, Figure, Line, Section, Table, Words, bar_figure, line_figure
from openwork.study.report.picture import pattern_figure, text_lines

__all__ = ["reach_section", "scale_section", "see_section"]

_MIB = 2**20
_EXCERPT_LINES = 3
"""Lines of the file around each end of the link that is shown."""


def see_section(seen: Seen) -> Section:
    """Act 1: the picture over the file, and the link."""
    result = seen.result
    window, definitions = result.plans
    marked = seen.annotations.flags["definition"]
    figure = pattern_figure(
        seen.layout.plane(),
        caption=f"{result.file} under {definitions.name}",
        alt=(
            f"The first {result.tokens:,} tokens of {result.file} as queries and keys: a diagonal band, and a stripe "
            f"below each line that defines something. {100 * definitions.density:.1f} % of all pairs."
        ),
        lines=text_lines(seen.text, seen.offsets, marked=marked),
        keys={"definition": marked},
        rings=[(seen.link.query, seen.link.keys[0])],
        note=f"Ring 1: {result.example}. The window ends far before it.",
    )
    figure = replace(figure, wide=True)
    needs = (
        f"Windows, and the short convolution of the study's model, would need {result.example_hops} layers"
        if result.example_hops is not None
        else "Windows never reach it"
    )
    lines = seen.text.split("\n")
    uses = result.num_links
    return Section(
        "Act 1: See",
        f"A pattern says which tokens may talk to each other: here `{definitions.pattern}` over the first "
        f"{result.tokens:,} tokens of Python's own `{result.file}`.",
        (
            figure,
            Words(
                f"In `{result.file}` {result.example}. The definitions plan sees it at once. {needs}; that "
                f"model has {result.layers}.",
                "One link",
            ),
            _excerpt(lines, seen.link.key_line, "where it is defined"),
            _excerpt(lines, seen.link.query_line, "where it is used"),
            Table(
                ("plan", "pairs kept", "definitions not seen", f"not reached in {result.layers} layers"),
                tuple(
                    (
                        plan.name,
                        f"{100 * plan.density:.1f} %",
                        f"{plan.missed_directly} of {uses}",
                        f"{plan.missed} of {uses}",
                    )
                    for plan in (window, definitions)
                ),
                f"The {uses} uses of names in these tokens. Dense causal attention keeps 50 % of all pairs.",
            ),
        ),
    )


def _excerpt(lines: list[str], line: int, caption: str) -> Code:
    first = max(0, line - 1 - _EXCERPT_LINES)
    shown = lines[first : line + _EXCERPT_LINES]
    return Code("\n".join(shown), caption, marked=(line - 1 - first,), first=first + 1)


def reach_section(result: ReachResult) -> Section:
    """Act 2: what the mask predicts beside what training gives."""
    config, rows = result.config, result.rows
    guess = 1 / result.num_choices
    curves = line_figure(
        [
            Line(row.name, row.curve, markers=((*row.curve[-1], row.accuracy, row.accuracy),), style=style)
            for style, row in enumerate(rows)
        ],
        caption="Accuracy while training",
        alt="; ".join(f"{row.name} ends at {row.accuracy:.2f}, predicted {row.predicted:.2f}" for row in rows) + ".",
        x_label="optimizer steps",
        y_label="share of lookups answered",
        levels=[(f"{row.name} predicted", row.predicted) for row in _distinct(rows)],
        note=f"On {result.num_lookups} lookups in texts that were not trained on. Guessing gives {guess:.2f}.",
    )
    bars = bar_figure(
        [row.name for row in rows],
        [
            Bar("predicted from the mask", tuple(row.predicted for row in rows), _shares(r.predicted for r in rows)),
            Bar("measured", tuple(row.accuracy for row in rows), _shares(r.accuracy for r in rows), style=1),
        ],
        caption="Predicted before training, measured after",
        alt="; ".join(
            f"{row.name}: predicted {row.predicted:.2f}, measured {row.accuracy:.2f}" for row in rows
        ) + ".",
        x_label="share of lookups answered",
        x_high=1.0,
    )  # fmt: skip
    return Section(
        "Act 2: Reach",
        f"{config.num_far + config.num_near} lookups are planted in each excerpt of real code: a definition, and "
        "further down a use that has to repeat its number. What the mask lets through decides how many can be "
        "answered, before anything is trained.",
        (
            bars,
            curves,
            *(Words(_sentence(row, rows[0]), row.name) for row in rows),
            Code(result.example, "one of the texts, up to its last lookup"),
            Words(
                f"{config.num_layers} layers, {config.dim} channels, {config.steps} steps of {config.batch_size} texts "
                f"of {config.length} tokens for each plan, the same texts in the same order. {config.num_near} "
                f"definitions stand just above their use, {config.num_far} at the top of the text. Predicted: "
                f"f + (1 - f) / {result.num_choices} for a share f of lookups whose definition reaches the token that "
                "has to know; the short convolution before attention counts as a window of its own. One seed.",
                soft=True,
            ),
        ),
    )


def _distinct(rows: tuple[ReachRow, ...]) -> list[ReachRow]:
    """One row for each predicted accuracy."""
    return list({round(row.predicted, 2): row for row in reversed(rows)}.values())[::-1]


def _shares(values: object) -> tuple[str, ...]:
    return tuple(f"{value:.2f}" for value in values)  # type: ignore[attr-defined]


def _sentence(row: ReachRow, dense: ReachRow) -> str:
    meets = (
        "as predicted"
        if row.as_predicted
        else "less than predicted: these steps were too few"
        if row.accuracy < row.predicted
        else "more than predicted"
    )
    words = (
        f"{100 * row.reached:.0f} % of the lookups are reached, so {row.predicted:.2f} can be answered; measured "
        f"{row.accuracy:.2f}, {meets}. Far definitions: {row.accuracy_far:.2f}."
    )
    if row is not dense and (own := row.steps_to(0.9)) is not None:
        other = dense.steps_to(0.9)
        words += f" 0.90 was reached after {own} steps, by dense " + (f"after {other}." if other else "not at all.")
    return words


def scale_section(scale: Scale) -> Section:
    """Act 4: time and memory at growing lengths."""
    lengths = scale.lengths
    names = (MASK, DENSE, SPARSE)
    styles = {DENSE: 0, MASK: 2, SPARSE: 1}
    times = line_figure(
        [
            *(
                Line(
                    name,
                    tuple((length, scale.row(name, length).seconds) for length in lengths),
                    markers=tuple((length, *_spread(scale.row(name, length))) for length in lengths),
                    style=styles[name],
                )
                for name in names
            ),
            Line(
                "what the pairs would allow",
                tuple((n, scale.row(DENSE, n).seconds / scale.row(SPARSE, n).theory_speedup) for n in lengths),
                style=3,
            ),
        ],
        caption="Time of one layer, forward and backward",
        alt=_times_in_words(scale),
        x_label="tokens",
        y_label="seconds",
        log_x=True,
        log_y=True,
        note=f"Both axes are logarithmic. Whiskers: fastest and slowest pass. {_passes(scale)}",
    )
    return Section(
        "Act 4: Scale",
        f"One attention layer of {scale.heads} heads of {scale.head_dim} channels, batch 1, forward and backward: "
        f"`{scale.pattern}` over `{scale.source}`. {_gain(scale)}",
        (
            times,
            _memory_figure(scale, styles),
            _scale_table(scale),
            Words(
                f"A mask does not skip work: `attn_mask=` computes every pair and throws most of them away. Attention "
                f"that keeps its scores (eager) is computed here and not run: at {lengths[-1]:,} tokens "
                f"{eager_bytes(lengths[-1], scale.heads) / 1e9:.1f} GB, at 8,192 "
                f"{eager_bytes(8192, scale.heads) / 1e9:.1f} GB. {_memory_verdict(scale)}",
            ),
            Words(
                "Passes are interleaved and medians compared. Compiling the layout is not inside the time: "
                + ", ".join(f"{scale.compile_s[str(n)] * 1e3:.0f} ms at {n:,}" for n in lengths)
                + f", once for each text. Memory: {scale.memory_meaning}; by design: output, gradients, one number for "
                "each query, and the layout.",
                soft=True,
            ),
            *_layer(scale),
        ),
    )


def _layer(scale: Scale) -> tuple[Words | Table, ...]:
    """The same pattern in a whole layer of a Hugging Face Llama."""
    if not scale.layer:
        return (
            Words(
                "With transformers installed (`pip install 'openwork[hf]'`), this act also measures a whole Llama "
                "layer through `openwork.hf.sparsify`.",
                soft=True,
            ),
        )
    width = scale.heads * scale.head_dim
    sparse = scale.layer_row(SPARSE)
    rows = tuple(
        (
            name,
            f"{row.seconds:.2f} s",
            f"{row.seconds / sparse.seconds:.1f}x" if name != SPARSE else "1",
            "-" if row.extra_bytes is None else f"{row.extra_bytes / _MIB:,.0f} MiB",
            f"{row.theory_bytes / _MIB:,.0f} MiB",
            row.backend,
        )
        for name in (MASK, DENSE, SPARSE)
        for row in [scale.layer_row(name)]
    )
    return (
        Words(
            f"a Llama layer of width {width} with its projections and feed-forward, forward and backward at "
            f"{sparse.length:,} tokens: one call, `openwork.hf.sparsify(model, pattern, annotate)`, makes it "
            f"{scale.layer_row(DENSE).seconds / sparse.seconds:.1f}x as fast as transformers' own dense attention; "
            f"what is not attention stays, so that by FLOPs {sparse.theory_speedup:.1f}x is the most. A 4-D "
            f"`attention_mask` of the same pairs takes {scale.layer_row(MASK).seconds / sparse.seconds:.1f}x as long.",
            "In a Hugging Face model",
        ),
        Table(
            ("Llama layer", "time", "over sparse", "memory", "by design", "computed by"),
            rows,
            "By design: gradients, what the dense layer keeps for its backward pass, and the layout.",
        ),
    )


def _passes(scale: Scale) -> str:
    told = (f"{len(scale.row(SPARSE, n).samples_s)} at {n:,} tokens" for n in scale.lengths)
    return f"Timed passes of each: {', '.join(told)}."


def _spread(row: ScaleRow) -> tuple[float, float, float]:
    return row.seconds, min(row.samples_s), max(row.samples_s)


def _gain(scale: Scale) -> str:
    longest = scale.lengths[-1]
    ideal = scale.row(SPARSE, longest).theory_speedup
    return (
        f"On `{scale.environment['device']}`, at {longest:,} tokens, sparse attention is {scale.speedup(longest):.1f}x "
        f"as fast as dense flash attention and {scale.speedup(longest, MASK):.1f}x as fast as the same pattern as a "
        f"mask; its pairs would allow {ideal:.1f}x."
    )


def _times_in_words(scale: Scale) -> str:
    return (
        "; ".join(
            f"{n:,} tokens: "
            + ", ".join(f"{name} {scale.row(name, n).seconds:.2f} s" for name in (MASK, DENSE, SPARSE))
            for n in scale.lengths
        )
        + "."
    )


def _memory_figure(scale: Scale, styles: dict[str, int]) -> Figure | Words:
    if any(row.extra_bytes is None for row in scale.rows):
        return Words("This system does not tell how much memory was used.", soft=True)
    names = (MASK, DENSE, SPARSE)
    values = {
        name: tuple((scale.row(name, n).extra_bytes or 0) / _MIB for n in scale.lengths) for name in names
    }  # fmt: skip
    return bar_figure(
        [f"{n:,} tokens" for n in scale.lengths],
        [Bar(name, values[name], tuple(f"{v:,.0f}" for v in values[name]), style=styles[name]) for name in names],
        caption="Memory beyond the inputs",
        alt="; ".join(f"{name}: " + ", ".join(f"{v:,.0f} MiB" for v in values[name]) for name in names) + ".",
        x_label="MiB",
    )


def _scale_table(scale: Scale) -> Table:
    rows = []
    for length in scale.lengths:
        sparse = scale.row(SPARSE, length)
        for name in (MASK, DENSE, SPARSE):
            row = scale.row(name, length)
            memory = "-" if row.extra_bytes is None else f"{row.extra_bytes / _MIB:,.0f} MiB"
            rows.append(
                (
                    f"{length:,}: {name}",
                    f"{row.seconds:.2f} s",
                    f"{row.seconds / sparse.seconds:.1f}x" if name != SPARSE else "1",
                    f"{sparse.theory_speedup:.1f}x" if name != SPARSE else "",
                    memory,
                    f"{row.theory_bytes / _MIB:,.0f} MiB",
                    row.backend,
                )
            )
    return Table(
        ("tokens", "time", "over sparse", "the pairs allow", "memory", "by design", "computed by"),
        tuple(rows),
        "Time and memory against theory.",
    )


def _memory_verdict(scale: Scale) -> str:
    longest = scale.lengths[-1]
    sparse, dense = scale.row(SPARSE, longest).extra_bytes, scale.row(DENSE, longest).extra_bytes
    if sparse is None or dense is None:
        return ""
    return (
        f"Memory against dense flash attention does not shrink, because flash attention keeps no scores either: "
        f"{sparse / _MIB:,.0f} MiB against {dense / _MIB:,.0f} MiB at {longest:,} tokens."
        if sparse > 0.9 * dense
        else f"Memory: {sparse / _MIB:,.0f} MiB against {dense / _MIB:,.0f} MiB of dense flash at {longest:,} tokens."
    )
