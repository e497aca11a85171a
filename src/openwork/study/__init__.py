"""The main job: one model, one data set, several plans, a dense baseline, a verdict."""

from openwork.study.conduct import run
from openwork.study.config import (
    MODEL_SHAPES,
    Contender,
    ModelShape,
    StudyConfig,
    contender_from_text,
    read_plan,
    with_contenders,
)
from openwork.study.result import Row, StudyResult

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
]
