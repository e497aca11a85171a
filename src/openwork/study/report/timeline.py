"""What schedules decided: each change of plan, when and why."""

from __future__ import annotations

import json
from typing import Any

from openwork.plan import Plan
from openwork.study.report.values import Cell, Section, Table
from openwork.study.result import StudyResult

__all__ = ["last_changes", "timeline_sections"]

_MOST = 12
"""Changes of one run that the table shows; of more, the first and the last half."""


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


def last_changes(result: StudyResult) -> list[tuple[float, str]]:
    """Training tokens at which each plan with a schedule of its own changed for the last time, and what happened."""
    own = {contender.name for contender in result.config.contenders if contender.schedule is not None}
    seen: set[tuple[int, str]] = set()
    events = []
    for record in result.records:
        if record.name in own and record.settled_from and (key := (record.settled_from, record.name)) not in seen:
            seen.add(key)
            at = float(record.settled_from * record.tokens_per_step)
            events.append((at, f"{record.name} changes for the last time: {record.timeline[-1]['reason']}"))
    return events


def _plan(content: Any) -> str:
    if content is None:
        return ""
    if "mask" in content:
        return f"the mask {content['mask']}"
    plan = Plan.from_json(json.dumps(content))
    return repr(plan.default) if plan == Plan(default=plan.default) else repr(plan)
