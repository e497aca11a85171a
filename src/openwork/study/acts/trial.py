"""Act 3: dense and sparse trained live for the same seconds, and the recorded study that had time to judge."""

from __future__ import annotations

import gzip
import json
from functools import lru_cache
from importlib import resources
from typing import Any

from openwork.study.report import Code, Section, Words
from openwork.study.report.study import quality_parts
from openwork.study.result import StudyResult

__all__ = ["recorded_section", "recorded_studies", "trial_section"]

_NAMES = ("tokens", "seconds")
"""The recorded studies: at equal tokens, at equal seconds."""


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


def recorded_section() -> list[Section]:
    """The recorded studies, with their date and the command that repeats them."""
    sections = []
    for name, record in recorded_studies().items():
        study = StudyResult.from_dict(record["result"])
        sections.append(
            Section(
                f"Recorded study at equal {name}",
                f"Recorded on {record['date']} on {record['machine']}, {study.config.seeds} seeds. {record['words']}",
                (
                    *quality_parts(study),
                    *(Words(sentence) for sentence in study.verdict.split("\n")),
                    Code(record["command"], "repeats it"),
                ),
            )
        )
    return sections


@lru_cache(maxsize=1)
def recorded_studies() -> dict[str, dict[str, Any]]:
    """The studies that the package carries, by what their plans have in common: date, machine, command, result."""
    found = {}
    for name in _NAMES:
        path = resources.files("openwork.study") / "recorded" / f"{name}.json.gz"
        if path.is_file():
            found[name] = json.loads(gzip.decompress(path.read_bytes()))
    return found
