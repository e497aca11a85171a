"""Act 3: dense and sparse trained live for the same seconds, and the recorded study that had time to judge."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from typing import Any

from openwork.study.report import Code, Section, Words
from openwork.study.report.study import quality_parts
from openwork.study.result import StudyResult

__all__ = ["recorded_section", "recorded_study_record", "trial_section"]


def trial_section(study: StudyResult) -> list[Section]:
    """The live study: curves, and what they do not say."""
    dense = study.rows[0]
    return [
        Section(
            "Act 3: Study",
            f"The same small model from the same first weights, trained live for {study.config.seconds or 0:.0f} "
            f"seconds under each plan on sequences of {study.config.seq_len:,} tokens; dense attention is "
            f"`{dense.backend}`.",
            (
                *quality_parts(study),
                Words(
                    "One seed and a minute of training: no verdict on quality. A plan that is ahead here has seen more "
                    "tokens in the same time, which is what sparsity buys; whether it learns as well from each token "
                    "is what the recorded study below is for.",
                    soft=True,
                ),
            ),
        )
    ]


def recorded_section(record: Mapping[str, Any] | None) -> list[Section]:
    """The recorded study, with its date, its machine and the command that repeats it; nothing where there is none."""
    if record is None:
        return []
    study = StudyResult.from_dict(record["result"])
    names = ", ".join(row.name for row in study.rows)
    return [
        Section(
            "The recorded study",
            f"Recorded on {record['date']} ({record['machine']}): {names}, {study.config.seeds} seeds, "
            f"{study.config.steps or 0:,} steps of {study.config.batch_size * study.config.seq_len:,} tokens each, "
            "compared at equal tokens and at equal seconds, with a control that must lose.",
            (
                *(Words(sentence) for sentence in study.verdict.split("\n")),
                *quality_parts(study),
                Code(record["command"], "repeats it"),
            ),
        )
    ]


@lru_cache(maxsize=1)
def recorded_study_record() -> dict[str, Any] | None:
    """The study that the package carries: date, machine, command and result; `None` where it carries none."""
    path = resources.files("openwork.study") / "recorded" / "study.json.gz"
    if not path.is_file():
        return None
    record: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    return record
