"""What context is worth to each plan: loss by position, and loss on uses whose definition lies far back."""

from __future__ import annotations

from openwork.study.record import USE_CLASSES
from openwork.study.report.charts import Bar, Line, bar_figure, line_figure
from openwork.study.report.values import Figure, Section
from openwork.study.result import StudyResult

__all__ = ["context_sections"]

_SETTLED = 16
"""Tokens of context from which on the chart of positions shows everything: the steep start would flatten the rest."""
_USES = {
    "name_inside": "the name itself, definition inside",
    "name_outside": "the name itself, definition outside",
    "after_inside": "its arguments, definition inside",
    "after_outside": "its arguments, definition outside",
}


def context_sections(result: StudyResult) -> tuple[Section, ...]:
    """One section where positions or uses were measured, else none."""
    figures = (*_positions(result), *_uses(result))
    lead = "Held-out loss where it should fall: with more context, and on names whose definition was seen."
    return (Section("What context is worth", lead, figures),) if figures else ()


def _positions(result: StudyResult) -> tuple[Figure, ...]:
    rows = [(style, row) for style, row in enumerate(result.rows) if row.positions]
    if not rows:
        return ()
    lines = [
        # a token at position p is predicted from p + 1 tokens
        Line(row.name, tuple(((s.first + s.stop + 1) / 2, s.bits_per_token) for s in row.positions), style=style)
        for style, row in rows
    ]
    settled = [s.bits_per_token for _, row in rows for s in row.positions if s.first >= _SETTLED]
    top = max(settled, default=None)
    note = "Means of all held-out sequences; each point is a stretch of positions."
    if top is not None and any(s.bits_per_token > top for _, row in rows for s in row.positions):
        note += " The steep start is cut off."
    middle = len(rows[0][1].positions) // 2
    said = "; ".join(
        f"{row.name} {row.positions[middle].bits_per_token:.2f} from {row.positions[middle].first + 1:,} tokens and "
        f"{row.positions[-1].bits_per_token:.2f} at the end"
        for _, row in rows
    )
    figure = line_figure(
        lines,
        caption="Loss by position",
        alt=f"Held-out bits per token by tokens of context: {said}.",
        x_label="tokens of context",
        y_label="held-out bits per token",
        note=note,
        y_high=top,
        log_x=True,
    )
    return (figure,)


def _uses(result: StudyResult) -> tuple[Figure, ...]:
    rows = [(style, row) for style, row in enumerate(result.rows) if row.uses]
    shown = [name for name in USE_CLASSES if rows and name in _USES and rows[0][1].uses[name].num_tokens]
    if not shown:
        return ()
    bars = []
    for style, row in rows:
        losses = tuple(row.uses[name].bits_per_token for name in shown)
        bars.append(Bar(row.name, losses, tuple("" if loss is None else f"{loss:.2f}" for loss in losses), style=style))
    counts = {name: rows[0][1].uses[name].num_tokens for name in shown}
    said = "; ".join(
        f"{_USES[name]}: " + ", ".join(f"{row.name} {row.uses[name].bits_per_token:.2f}" for _, row in rows)
        for name in shown
    )
    window = result.records[0].use_window
    figure = bar_figure(
        [f"{_USES[name]} ({counts[name]:,} tokens)" for name in shown],
        bars,
        caption="Loss on uses of names",
        alt=f"Held-out bits per token on uses of names: {said}.",
        x_label="held-out bits per token",
        note=f"Inside: the definition lies at most {window:,} keys back; outside: further back, in the same sequence.",
    )
    return (figure,)
