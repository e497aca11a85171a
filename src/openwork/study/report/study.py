"""A study's report: verdict, table, curves, trade-offs, pictures of its plans, and what it was done with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from openwork.study.config import DENSE
from openwork.study.details import details
from openwork.study.practice import ACCELERATORS
from openwork.study.proposals import data_in_words, held_out_in_words
from openwork.study.report.charts import Bar, Point, bar_figure, point_figure
from openwork.study.report.context import context_sections
from openwork.study.report.curves import curve_figures
from openwork.study.report.plans import plan_sections
from openwork.study.report.timeline import timeline_sections
from openwork.study.report.values import Cell, Figure, Part, Report, Section, Table, Words
from openwork.study.result import Row, StudyResult
from openwork.study.table import columns_of, table_cells
from openwork.study.trainer import StudyData

__all__ = ["study_report", "study_sections"]

_MIB = 2**20


def study_report(result: StudyResult, data: StudyData | None = None) -> Report:
    """The report of a study that is done; `write_report` makes a page of it.

    Args:
        result: What was measured.
        data: Its texts and tokens, over which the plans are drawn; `None` leaves pictures and reach out.
    """
    sections, figures = study_sections(result, data)
    return Report(
        title="openwork study: do all these tokens need to talk to each other?",
        lead=_asked(result),
        verdict=study_verdict(result),
        sections=sections,
        environment=environment_of(result),
        figures=result.to_dict() | figures,
    )


def study_sections(result: StudyResult, data: StudyData | None = None) -> tuple[tuple[Section, ...], dict[str, Any]]:
    """The sections of a study's report, in order, and what they show beyond the figures of `result.to_dict()`."""
    drawn, figures = ((), {}) if data is None else plan_sections(result, data)
    comparisons, practice, context = (_named(result, group) for group in details(result))
    sections = (
        Section("What each plan saved and cost", "", (_table(result), Words(_meanings(result), soft=True))),
        *_tuning(result),
        Section("Curves", "", (*curve_figures(result), *comparisons)),
        *timeline_sections(result),
        Section("Time, memory, quality", "Down and to the left is better.", _trade_offs(result)),
        *(replace(section, parts=(*section.parts, *context)) for section in context_sections(result)),
        Section("In practice", "", (_practice(result), *practice)),
        *drawn,
        Section("Data", "", (_data(result),)),
        Section("Options", "", (_options(result),), folded=True),
    )
    return sections, figures


def study_verdict(result: StudyResult) -> tuple[Words, ...]:
    """The verdict without its details, which stand beside the figures that they are about."""
    beside = {sentence for group in details(result) for sentence in group}
    short = _named(result, [sentence for sentence in result.verdict.split("\n") if sentence not in beside])
    more = "Comparisons at equal tokens and seconds, and what it comes to in practice, stand with their figures below."
    return (*short, Words(more, soft=True))


def _named(result: StudyResult, sentences: Sequence[str]) -> tuple[Words, ...]:
    """Sentences, each with the plan that it begins with set apart."""
    # longer names first: "window + definitions" begins with "window"
    names = sorted((row.name for row in result.rows), key=len, reverse=True)
    words = []
    for sentence in sentences:
        name = next((name for name in names if sentence.startswith((f"{name}: ", f"{name} "))), None)
        if name is None:
            words.append(Words(sentence))
        else:
            joint = ": " if sentence.startswith(f"{name}: ") else " "
            words.append(Words(sentence[len(name) + len(joint) :], name, joint=joint))
    return tuple(words)


def quality_parts(result: StudyResult) -> tuple[Part, ...]:
    """Curves and table alone, for a page that shows a study beside other things."""
    return (*curve_figures(result), _table(result), Words(_meanings(result), soft=True))


def environment_of(result: StudyResult) -> dict[str, str]:
    """Machine and versions, what is not known left out."""
    return {name: str(value) for name, value in result.environment.items() if value is not None}


def _asked(result: StudyResult) -> str:
    config = result.config
    budget = f"{config.seconds:g} seconds of training" if config.seconds is not None else f"{config.steps:,} steps"
    seeds = f", each with {config.seeds} seeds" if config.seeds > 1 else ""
    what = "One model trained" if config.tune is None else f"One checkpoint tuned ({config.tune})"
    return (
        f"{what} under {len(result.rows)} plans for {budget}{seeds}, on sequences of {config.seq_len:,} "
        f"tokens from `{result.data['root']}`; each plan from the same weights, on the same sequences."
    )


def _tuning(result: StudyResult) -> tuple[Section, ...]:
    """What each plan breaks when it is put on the checkpoint, and what tuning brings back."""
    found = [(row, row.untuned) for row in result.rows if row.untuned is not None]
    if not found:
        return ()
    names = [row.name for row, _ in found]
    before, after = [untuned.bits_per_byte for _, untuned in found], [row.bits_per_byte for row, _ in found]
    said = "; ".join(f"{name} {old:.3f}, then {new:.3f}" for name, old, new in zip(names, before, after, strict=True))
    figure = bar_figure(
        names,
        [
            Bar("put on untuned", tuple(before), tuple(f"{value:.3f}" for value in before), style=5),
            Bar("tuned", tuple(after), tuple(f"{value:.3f}" for value in after), style=1),
        ],
        caption="What a plan breaks, and what tuning brings back",
        alt=f"Held-out bits per byte of the checkpoint under each plan, before and after tuning: {said}.",
        x_label="held-out bits per byte, lower is better",
    )
    words = Words("dense, put on untuned, is the checkpoint as it is; tuned, what equal steps make of it.", soft=True)
    return (Section("The checkpoint", "", (figure, words)),)


def _table(result: StudyResult) -> Table:
    rows: list[tuple[str | Cell, ...]] = [
        (Cell(name, note), *cells)
        for (name, note), *cells in zip(columns_of(result), *table_cells(result), strict=True)
    ]
    rows.append(("plan", *(Cell(row.pattern, code=True) for row in result.rows)))
    return Table(("", *(row.name for row in result.rows)), tuple(rows), "Figures of each plan")


def _meanings(result: StudyResult) -> str:
    held_out = result.held_out
    return (
        f"Held-out: {held_out.num_bytes:,} bytes, {held_out.num_tokens:,} tokens, from "
        f"{held_out_in_words(result.data)}, on which no plan was trained; gzip -9 needs "
        f"{held_out.gzip_bits_per_byte:.3f} bits per byte of the same text. Memory: {result.memory_meaning}. Ideals "
        "count pairs: dense causal pairs over allowed ones, and the FLOPs of a whole step with them."
    )


def _trade_offs(result: StudyResult) -> tuple[Figure, ...]:
    rows, gzip = result.rows, [("gzip -9", result.held_out.gzip_bits_per_byte)]
    figures = []
    timed = [row for row in rows if row.step_ms]
    if timed:
        figures.append(
            _quality_against(
                rows, {row.name: row.step_ms.median for row in timed if row.step_ms}, "time of a step", "ms", gzip
            )
        )
    weighed = {row.name: row.peak_bytes / _MIB for row in rows if row.peak_bytes}
    if weighed:
        figures.append(_quality_against(rows, weighed, "most memory", "MiB", gzip))
    sparse = [row for row in rows if row.name != DENSE and row.step_ms]
    if sparse:
        figures.append(_speed_ups(sparse))
    return tuple(figures)


def _quality_against(
    rows: tuple[Row, ...], costs: dict[str, float], what: str, unit: str, levels: list[tuple[str, float]]
) -> Figure:
    points = [
        Point(row.name, costs[row.name], row.bits_per_byte, _range(row), style)
        for style, row in enumerate(rows)
        if row.name in costs
    ]
    said = "; ".join(f"{point.name} {point.x:,.0f} {unit}, {point.y:.3f} bits per byte" for point in points)
    seeds = "Whiskers: lowest to highest seed." if any(point.y_range for point in points) else ""
    return point_figure(
        points,
        caption=f"Quality against {what}",
        alt=f"Held-out quality against {what}: {said}.",
        x_label=f"{what} in {unit}",
        y_label="held-out bits per byte",
        note=seeds,
        levels=levels,
    )


def _range(row: Row) -> tuple[float, float] | None:
    seeds = row.bits_per_byte_seeds
    return (min(seeds), max(seeds)) if len(seeds) > 1 else None


def _speed_ups(rows: list[Row]) -> Figure:
    said = "; ".join(f"{row.name} {row.speedup:.2f}x, ideal {row.step_ideal:.2f}x" for row in rows)
    return bar_figure(
        [row.name for row in rows],
        [
            Bar("measured", tuple(row.speedup for row in rows), tuple(f"{row.speedup:.2f}x" for row in rows), style=1),
            Bar("ideal", tuple(row.step_ideal for row in rows), tuple(f"{r.step_ideal:.2f}x" for r in rows), style=5),
        ],
        caption="Speed-up of a whole step over dense",
        alt=f"Speed-up of a whole training step over dense attention: {said}.",
        x_label="times as fast as dense",
        note="Ideal: FLOPs of a dense step over this plan's; matrices do not get sparser.",
        levels=[("dense", 1.0)],
    )


def _practice(result: StudyResult) -> Table:
    rows = result.rows
    table: list[tuple[str | Cell, ...]] = [
        (
            Cell("hours per epoch", "every training token once, at the measured speed"),
            *(f"{row.practice.hours_per_epoch:.3g}" for row in rows),
        ),
        (
            Cell("accelerators", f"for what {ACCELERATORS} do with dense attention in the same time"),
            *(str(row.practice.accelerators) for row in rows),
        ),
    ]
    if any(row.practice.largest_batch is not None for row in rows):
        memory = f" in {result.memory_bytes / 1e9:,.0f} GB" if result.memory_bytes else ""
        table.append(
            (
                Cell("largest batch", f"sequences of a step that fit{memory}; estimated from one measurement"),
                *("-" if row.practice.largest_batch is None else f"{row.practice.largest_batch:,}" for row in rows),
            )
        )
    table += [
        (
            Cell("energy", "watt-hours per million training tokens; estimated"),
            *(f"{row.energy.wh_per_million_tokens:.3g}" for row in rows),
        ),
        (Cell("CO2e", "grams for the whole run; estimated"), *(f"{row.energy.co2e_g:.3g}" for row in rows)),
        (
            Cell("tokens to dense", "training tokens until the quality of dense attention's end"),
            *("-" if row.energy.tokens_to_dense is None else f"{row.energy.tokens_to_dense:,.0f}" for row in rows),
        ),
    ]
    return Table(("", *(row.name for row in rows)), tuple(table), "What it comes to")


def _data(result: StudyResult) -> Table:
    data = result.data
    count = data["training_files"]
    rows: list[tuple[str | Cell, ...]] = [
        ("from", Cell(str(data["root"]), code=True)),
        ("training", f"{count:,} file{'' if count == 1 else 's'}, {data['training_bytes']:,} bytes"),
        ("held out", f"{held_out_in_words(data)}, {data['held_out_bytes']:,} bytes"),
    ]
    # "Data: ...", "Left out: ...", "Near-duplicates: ...": none of a study from before they were looked for
    for line in data_in_words(data):
        name, _, words = line.partition(": ")
        rows.append(("what it is" if name == "Data" else name.lower(), words))
    if "kinds" not in data and data.get("left_out"):
        rows.append(("left out", ", ".join(f"{count:,} {reason}" for reason, count in data["left_out"].items())))
    return Table(("", "what was read"), tuple(rows), "Text to train and to judge on")


def _options(result: StudyResult) -> Table:
    shown = {name: value for name, value in result.config.to_dict().items() if name != "contenders"}
    rows = tuple(
        (name.replace("_", " "), Cell(_readable(value), code=True))
        for name, value in shown.items()
        if value not in (None, [], "")
    )
    return Table(("option", "value"), rows, "Options of the study")


def _readable(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
