"""Plans in files."""

from __future__ import annotations

from pathlib import Path

from openwork.errors import DataError, PlanError
from openwork.plan.plan import Plan

__all__ = ["read_plan"]


def read_plan(path: Path) -> Plan:
    """The plan in a file that `Plan.to_json` wrote.

    Raises:
        DataError: The file cannot be read.
        PlanError: It holds no plan.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise DataError(f"--plan {path} cannot be read: {reason}.") from None
    try:
        return Plan.from_json(text)
    except PlanError as error:
        raise PlanError(f"--plan {path}: {error}") from None
