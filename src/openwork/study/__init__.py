"""The main job: one model, one data set, several plans, a dense baseline, a verdict.

Names load when they are first used: only what trains needs torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openwork.study.conduct import run
    from openwork.study.config import (
        MODEL_SHAPES,
        ModelShape,
        StudyConfig,
        with_contenders,
    )
    from openwork.study.contender import Contender, contender_from_text, read_plan, with_schedules
    from openwork.study.result import Row, StudyResult

_HOMES = {
    "conduct": ("run",),
    "config": (
        "MODEL_SHAPES",
        "ModelShape",
        "StudyConfig",
        "with_contenders",
    ),
    "contender": ("Contender", "contender_from_text", "read_plan", "with_schedules"),
    "result": ("Row", "StudyResult"),
}

__all__ = [
    "MODEL_SHAPES",
    "Contender",
    "ModelShape",
    "Row",
    "StudyConfig",
    "StudyResult",
    "contender_from_text",
    "read_plan",
    "run",
    "with_contenders",
    "with_schedules",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"openwork.study.{module}"), name)
    raise AttributeError(f"module 'openwork.study' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
