"""Complete studies, named for what they do; change one with `dataclasses.replace`."""

from __future__ import annotations

import sysconfig
from pathlib import Path

from openwork.study.config import StudyConfig
from openwork.study.contender import contender_from_text

__all__ = ["standard_library"]

WINDOW = "Causal() & Window(before=255)"
DEFINITIONS = "Causal() & (Window(before=255) | Keys('definition') | Linked('use'))"


def standard_library(*, seconds: float = 55.0, out: Path | str = "openwork-demo") -> StudyConfig:
    """Python's own standard library: dense attention, a window, and the window plus definitions.

    Sequences are long enough that attention is most of a dense step. Tests, installed packages and the tables of
    `encodings` are left out.

    Args:
        seconds: Training seconds of each plan.
        out: Directory for checkpoints, record and report.
    """
    return StudyConfig(
        data=Path(sysconfig.get_paths()["stdlib"]),
        out=Path(out),
        contenders=(
            contender_from_text(f"window: {WINDOW}"),
            contender_from_text(f"window + definitions: {DEFINITIONS}"),
        ),
        seconds=seconds,
        seq_len=8192,
        batch_size=1,
        warmup_steps=10,
        tokenizer="bpe:2048",
        model="small",
        include=("*.py",),
        exclude=("site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "encodings", "pydoc_data"),
        max_bytes=8 << 20,
        eval_tokens=32_768,
    )
