"""Act 3: dense and sparse trained live for the same seconds, and the recorded study that had time to judge."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from typing import Any

from openwork.study.report import Code, Section, Words
from openwork.study.report.study import quality_parts, study_verdict
from openwork.study.result import StudyResult
from openwork.study.verdict import can_tell_quality

__all__ = ["recorded_section", "recorded_study_record", "recorded_verdict", "trial_section"]


def trial_section(study: StudyResult, *, recorded: bool) -> Section:
    """The live study: curves, and what they do not say.

    Args:
        study: What was trained.
        recorded: Whether a recorded study follows.
    """
    dense, *others = study.rows
    ahead = [row.name for row in others if row.tokens > dense.tokens]
    words = (
        f"One seed and {study.config.seconds or 0:.0f} seconds of training: no verdict on quality. "
        + (f"More tokens in the same time is what sparsity buys, and {_listed(ahead)} saw more. " if ahead else "")
        + ("Whether it learns as well from each token is what the recorded study is for." if recorded else "")
    )
    return Section(
        "Act 3: Study",
        f"The same small model from the same first weights, trained live for {study.config.seconds or 0:.0f} seconds "
        f"under each plan on sequences of {study.config.seq_len:,} tokens; dense attention is `{dense.backend}`.",
        (*quality_parts(study), Words(words.strip(), soft=True)),
    )


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def recorded_section(record: Mapping[str, Any] | None) -> list[Section]:
    """The recorded study, with its date, its machine and the command that repeats it; nothing where there is none."""
    if record is None:
        return []
    study = StudyResult.from_dict(record["result"])
    names = ", ".join(row.name for row in study.rows)
    return [
        Section(
            "The recorded study",
            f"Recorded on {record['date']} ({record['machine']}): {names}, {study.config.seeds} seeds, a model of the "
            f"shape `{study.config.model}`, {study.config.steps or 0:,} steps of {study.config.batch_size:,} sequences "
            f"of {study.config.seq_len:,} tokens, compared at equal tokens and at equal seconds, with a control that "
            "must lose.",
            (
                *study_verdict(study),
                *quality_parts(study),
                Code(record["command"], "repeats it, in a clone of the project"),
            ),
        )
    ]


def recorded_verdict(record: Mapping[str, Any] | None) -> list[str]:
    """What the recorded study judged of each plan, a sentence for each, and whether it could tell plans apart."""
    if record is None:
        return []
    study = StudyResult.from_dict(record["result"])
    counted, reason = can_tell_quality(study)
    dense, *others = study.rows
    told = "; ".join(f"{row.name} {row.bits_per_byte:.3f}, {row.speedup:.2f}x as fast" for row in others)
    judged = (
        "the control that must lose does, so differences in quality count"
        if counted
        else f"quality is not distinguishable at this budget, for {reason}"
    )
    return [
        f"on {record['date']}, {study.config.seeds} seeds, {dense.tokens / 1e3:,.0f}k tokens each: dense "
        f"{dense.bits_per_byte:.3f} bits per byte; {told}; {judged}."
    ]


@lru_cache(maxsize=1)
def recorded_study_record() -> dict[str, Any] | None:
    """The study that the package carries: date, machine, command and result; `None` where it carries none."""
    path = resources.files("openwork.study") / "recorded" / "study.json.gz"
    if not path.is_file():
        return None
    record: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    return record
