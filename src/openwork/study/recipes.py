"""Complete studies, named for what they do; change one with `dataclasses.replace`."""

from __future__ import annotations

import sysconfig
from dataclasses import replace
from pathlib import Path

from openwork.study.config import StudyConfig
from openwork.study.contender import contender_from_text
from openwork.train import DenseThenSparse

__all__ = ["DEFINITIONS", "WINDOW", "live_study", "recorded_study"]

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
        seq_len=8192,
        batch_size=1,
        warmup_steps=5,
        tokenizer="bpe:2048",
        model="small",
        include=("*.py",),
        exclude=("site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "encodings", "pydoc_data"),
        max_bytes=8 << 20,
        eval_tokens=32_768,
    )


def recorded_study(
    *,
    steps: int = 300,
    seeds: int = 3,
    batch_size: int = 8,
    device: str = "auto",
    dtype: str = "float32",
    out: Path | str = "openwork-recorded",
) -> StudyConfig:
    """The study that the demo shows as recorded: what a judgement of quality needs.

    Dense attention, the window plus definitions, the same after a dense first quarter, and the control that must lose;
    equal tokens, several seeds, curves over tokens and over time. Text and tokens are the live study's; the model is
    smaller and reads shorter sequences, more of them in each step, or attention would learn too little from some
    million tokens for the control to lose (LOG.md, 2026-11-26).

    Args:
        steps: Optimizer steps of each run.
        seeds: Number of seeds.
        batch_size: Sequences of 2,048 tokens in each step.
        device: `auto`, `cpu`, `cuda` or `mps`.
        dtype: `float32` or `bfloat16`.
        out: Directory for checkpoints, record and report.
    """
    live = live_study()
    dense_first = contender_from_text(f"dense first: {DEFINITIONS}")
    return replace(
        live,
        out=Path(out),
        contenders=(*live.contenders, replace(dense_first, schedule=DenseThenSparse(steps=max(1, steps // 4)))),
        seconds=None,
        steps=steps,
        seeds=seeds,
        control=True,
        model="tiny",
        seq_len=2048,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
        warmup_steps=10,
        eval_tokens=131_072,
    )
