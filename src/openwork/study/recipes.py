"""Complete studies, named for what they do; change one with `dataclasses.replace`."""

from __future__ import annotations

import sysconfig
from pathlib import Path

from openwork.study.config import StudyConfig
from openwork.study.contender import contender_from_text

__all__ = ["DEFINITIONS", "WINDOW", "live_study"]

WINDOW = "Causal() & Window(before=255)"
DEFINITIONS = "Causal() & (Window(before=255) | Keys('definition') | Linked('use'))"


def live_study(*, seconds: float = 60.0) -> StudyConfig:
    """Python's own standard library, dense attention beside the window plus definitions, for the same seconds.

    Tests, installed packages and the tables of `encodings` are left out.

    Args:
        seconds: Training seconds of each plan.
    """
    return StudyConfig(
        data=Path(sysconfig.get_paths()["stdlib"]),
        contenders=(contender_from_text(f"window + definitions: {DEFINITIONS}"),),
        seconds=seconds,
        seq_len=4096,
        batch_size=1,
        warmup_steps=10,
        tokenizer="bpe:2048",
        model="small",
        include=("*.py",),
        exclude=("site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "encodings", "pydoc_data"),
        max_bytes=8 << 20,
        eval_tokens=32_768,
    )
