"""The report of a study as one HTML file that needs nothing else: verdict, table, curves, environment, raw figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from statistics import fmean
from typing import Any

from openwork.measure import bits_per_byte
from openwork.runs import write_file
from openwork.study.chart import DASHES, Line, line_chart
from openwork.study.record import RunRecord
from openwork.study.result import StudyResult
from openwork.study.table import columns_of, table_cells

__all__ = ["page", "write_page"]

_POINTS = 120


def write_page(path: Path, result: StudyResult) -> None:
    """Writes the report, whole or not at all."""
    write_file(path, page(result).encode("utf-8"))


def page(result: StudyResult) -> str:
    """The report as HTML text."""
    import jinja2

    template = (resources.files("openwork.study") / "page.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    headers = columns_of(result)
    return environment.from_string(template).render(
        result=result,
        verdict=result.verdict.split("\n"),
        names=[row.name for row in result.rows],
        columns=headers,
        rows=list(zip(result.rows, table_cells(result), strict=True)),
        dashes=DASHES,
        charts=_charts(result),
        # "</script>" inside a string would end the element that holds the figures
        figures=json.dumps(result.to_dict()).replace("<", "\\u003c"),
        config=_readable(result.config.to_dict()),
    )


def _charts(result: StudyResult) -> list[tuple[str, str]]:
    level = ("gzip -9", result.held_out.gzip_bits_per_byte)
    label = "bits per byte"
    by_step, by_time = [], []
    for row in result.rows:
        record = result.of(row.name)[0]
        quality = _curve(record, result.training_bytes_per_token)
        seconds = _running(record)
        steps = range(1, record.steps + 1)
        held_out = record.held_out_curve
        by_step.append(
            Line(
                row.name, _thin(list(zip(steps, quality, strict=True))), tuple((step, bpb) for step, _, bpb in held_out)
            )
        )
        by_time.append(
            Line(row.name, _thin(list(zip(seconds, quality, strict=True))), tuple((s, bpb) for _, s, bpb in held_out))
        )
    return [
        (
            "Over training time",
            line_chart(
                by_time, title="Loss over training time", x_label="training seconds", y_label=label, level=level
            ),
        ),
        (
            "Over steps",
            line_chart(
                by_step, title="Loss over optimizer steps", x_label="optimizer steps", y_label=label, level=level
            ),
        ),
    ]


def _curve(record: RunRecord, bytes_per_token: float) -> list[float]:
    return [bits_per_byte(loss, 1) / bytes_per_token for loss in record.losses]


def _running(record: RunRecord) -> list[float]:
    total, seconds = 0.0, []
    for step_ms, data_ms in zip(record.step_ms, record.data_ms, strict=True):
        total += (step_ms + data_ms) / 1e3
        seconds.append(total)
    return seconds


def _thin(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Means of neighbouring points, so that a curve has few of them and its noise is less."""
    size = -(-len(points) // _POINTS) if len(points) > _POINTS else max(1, len(points) // 25)
    groups = [points[first : first + size] for first in range(0, len(points), size)]
    return tuple((fmean(x for x, _ in group), fmean(y for _, y in group)) for group in groups)


def _readable(config: dict[str, Any]) -> dict[str, str]:
    shown = {name: value for name, value in config.items() if name != "contenders"}
    return {
        name.replace("_", " "): ", ".join(value) if isinstance(value, list) else str(value)
        for name, value in shown.items()
        if value not in (None, [], "")
    }
