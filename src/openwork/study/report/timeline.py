"""What schedules decided: each change of plan, when and why."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from openwork.plan import Plan
from openwork.study.config import DENSE
from openwork.study.record import RunRecord
from openwork.study.report.values import Cell, Section, Table
from openwork.study.result import StudyResult

__all__ = ["decision_events", "timeline_sections"]

_MOST_EVENTS = 4
"""Changes of one plan up to which each has its line on a chart; of more, the first and the last have."""
_MOST = 12
"""Changes of one run that the table shows; of more, the first and the last half."""


Places = Callable[[RunRecord], npt.NDArray[np.float64]]


def timeline_sections(result: StudyResult) -> tuple[Section, ...]:
    """A table of every change of plan; nothing for a study without schedules."""
    rows: list[tuple[str | Cell, ...]] = []
    for record in result.records:
        name = f"{record.name}, seed {record.seed}" if result.config.seeds > 1 else record.name
        changes = list(record.timeline)
        if len(changes) > _MOST:
            left_out = len(changes) - _MOST
            gap = {"step": "", "reason": f"and {left_out} more changes", "plan": None}
            changes = [*changes[: _MOST // 2], gap, *changes[-(_MOST // 2) :]]
        for change in changes:
            rows.append((name, f"{change['step']}", change["reason"], Cell(_plan(change["plan"]), code=True)))
            name = ""
    if not rows:
        return ()
    lead = "A schedule changed these plans while they trained. Speed and density are those after the last change."
    table = Table(("", "from step", "why", "plan"), tuple(rows), "Changes of plan")
    return (Section("Time line", lead, (table,)),)


def decision_events(result: StudyResult, places: Places) -> list[tuple[float, str]]:
    """Place and words of each change of plan in the runs of the first seed; plans that changed alike share one."""
    together: dict[tuple[float, str], list[str]] = {}
    for record in result.records:
        if record.seed != result.config.seed or record.name == DENSE:
            continue
        # what holds from the first step is no change
        changes = [entry for entry in record.timeline if 0 < entry["step"] < record.steps]
        left_out = ""
        if len(changes) > _MOST_EVENTS:
            left_out = f"; {len(changes) - 2} more between the first and the last"
            changes = [changes[0], changes[-1]]
        x = places(record)
        for entry in changes:
            # the plan holds from the end of the step before
            place = float(x[entry["step"] - 1])
            together.setdefault((place, entry["reason"] + left_out), []).append(record.name)
            left_out = ""
    seed = f" (seed {result.config.seed})" if result.config.seeds > 1 else ""
    return [(place, f"{', '.join(names)}{seed}: {reason}") for (place, reason), names in together.items()]


def _plan(content: Any) -> str:
    if content is None:
        return ""
    if "mask" in content:
        return f"the mask {content['mask']}"
    plan = Plan.from_json(json.dumps(content))
    return repr(plan.default) if plan == Plan(default=plan.default) else repr(plan)
