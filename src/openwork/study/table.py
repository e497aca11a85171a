"""The table of a study, once in words for the terminal and the page alike."""

from __future__ import annotations

from typing import Any

from openwork.measure import Spread
from openwork.study.result import Row, StudyResult

__all__ = ["columns_of", "rich_table", "table_cells"]

_HELP = {
    "bits/byte": "held-out quality: lower is better",
    "perplexity": "of a held-out token; only for this tokenizer",
    "training": "bits per byte of the last tenth of the training steps",
    "step": "median time of an optimizer step, layouts included (10th to 90th percentile)",
    "speed-up": "dense step time over this plan's; beside it what the whole step and attention alone could gain",
    "tokens/s": "training tokens of a step over its median time, data included",
    "layouts": "of the step, median time to compile layouts; 0 where one serves all steps",
    "data": "median time to read and annotate the sequences, before the step",
    "memory": "most memory while training (of that, above the empty process)",
    "density": "allowed pairs over all pairs (over those of dense causal attention)",
    "steps": "optimizer steps done",
    "backend": "what computed attention",
}


_TUNED_HELP = {
    "untuned bits/byte": "the same of the checkpoint with the plan put on, before any step",
    "untuned perplexity": "the same before any step",
}
_AFTER = "perplexity"
"""Columns of a tuned checkpoint and of the user's metric stand after this one."""


def columns_of(result: StudyResult) -> list[tuple[str, str]]:
    """Name and explanation of each column after the plan's name."""
    columns = []
    for name, text in _HELP.items():
        if name != "memory" or result.config.isolate:
            columns.append((name, text))
        if name == _AFTER:
            if result.config.tune is not None:
                columns += _TUNED_HELP.items()
            columns += [(metric, f"by {result.config.metric}") for metric in _metrics(result)]
    return columns


def _metrics(result: StudyResult) -> tuple[str, ...]:
    """Names of what the user's metric gave, none of which hides a column."""
    return tuple(dict.fromkeys(name for row in result.rows for name in row.metrics if name not in _HELP))


def table_cells(result: StudyResult) -> list[list[str]]:
    """The cells of each row, in the order of `columns_of`."""
    shown = [name for name, _ in columns_of(result)]
    return [[cells.get(name, "-") for name in shown] for cells in map(_cells, result.rows)]


def _cells(row: Row) -> dict[str, str]:
    spread = ""
    if len(row.bits_per_byte_seeds) > 1:
        spread = f" ({min(row.bits_per_byte_seeds):.3f}-{max(row.bits_per_byte_seeds):.3f})"
    tuned = {}
    if row.untuned is not None:
        tuned["untuned bits/byte"] = f"{row.untuned.bits_per_byte:.3f}"
        tuned["untuned perplexity"] = f"{row.untuned.perplexity:.4g}"
    before = {} if row.untuned is None else row.untuned.metrics
    for name, value in row.metrics.items():
        tuned[name] = f"{value:.4g}" + (f" (untuned {before[name]:.4g})" if name in before else "")
    return tuned | {
        "bits/byte": f"{row.bits_per_byte:.3f}{spread}",
        "perplexity": f"{row.perplexity:.4g}",
        "training": f"{row.training_bits_per_byte:.3f}",
        "step": _time(row.step_ms),
        "speed-up": f"{row.speedup:.2f}x (ideal {row.step_ideal:.2f}x; attention {row.attention_ideal:.1f}x)",
        "tokens/s": f"{row.tokens_per_s:,.0f}",
        "layouts": f"{row.layout_ms:.0f} ms",
        "data": f"{row.data_ms:.0f} ms",
        "memory": _memory(row),
        "density": f"{row.density:.4f} ({row.causal_density:.4f})",
        "steps": f"{row.steps:.0f}",
        "backend": row.backend.partition(":")[0],
    }


def _time(times: Spread | None) -> str:
    if times is None:
        return "-"
    return f"{times.median:,.0f} ms ({times.low:,.0f}-{times.high:,.0f})"


def _memory(row: Row) -> str:
    if row.peak_bytes is None or row.model_bytes is None:
        return "-"
    return f"{row.peak_bytes / 2**20:,.0f} MiB ({row.model_bytes / 2**20:,.0f})"


def rich_table(result: StudyResult) -> Any:
    """The table for a terminal: one column for each plan, for plans are few and figures are many."""
    from rich.table import Table

    table = Table(title="Study", title_justify="left", show_lines=False)
    table.add_column("")
    for row in result.rows:
        table.add_column(row.name, overflow="fold")
    for (name, _), *cells in zip(columns_of(result), *table_cells(result), strict=True):
        table.add_row(name, *cells)
    return table
