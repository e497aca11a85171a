"""What a run knows between two steps: everything that it needs to go on, and what it has measured."""

from __future__ import annotations

import io
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from openwork.errors import StudyError
from openwork.runs import write_file

__all__ = ["RunState", "load_checkpoint", "save_checkpoint"]


@dataclass(kw_only=True)
class RunState:
    """Progress and raw samples of one run; lists have one entry for each step done unless said otherwise."""

    step: int = 0
    """Optimizer steps done."""
    spent_s: float = 0.0
    """Training seconds, those of earlier sessions included; neither checkpoints nor evaluation."""
    losses: list[float] = field(default_factory=list)
    """Mean negative log-likelihood of the training tokens, in nats."""
    step_ms: list[float] = field(default_factory=list)
    """Layouts, forward, backward and optimizer, in milliseconds."""
    layout_ms: list[float] = field(default_factory=list)
    """Of that, compiling layouts."""
    data_ms: list[float] = field(default_factory=list)
    """Reading, annotating and cutting the sequences, before the step."""
    density: list[float] = field(default_factory=list)
    """Allowed pairs over all pairs, mean over layers and sequences."""
    block_density: list[float] = field(default_factory=list)
    """Executed pairs over all pairs, likewise."""
    evaluated: list[tuple[int, float, float]] = field(default_factory=list)
    """Held-out quality on the way: step, training seconds, nats of the curve's held-out tokens."""
    tally: dict[str, Any] = field(default_factory=dict)
    """The evaluation under way: what `Evaluator` has summed so far; empty where none is."""
    final: dict[str, Any] = field(default_factory=dict)
    """What the evaluation at the end measured on all held-out tokens; empty until then."""
    untuned: dict[str, Any] = field(default_factory=dict)
    """What was measured of a checkpoint under the plan before the first step; empty where none is tuned."""
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    """What the user's metric gave, by when: `untuned` and `final`."""
    peak_bytes: int = 0
    """Most memory of any session."""
    start_bytes: int = 0
    """Memory in use before the model was made, least of any session."""
    fixed_bytes: int = 0
    """Parameters, gradients and optimizer state: what training needs however few sequences a step has."""
    timeline: list[dict[str, Any]] = field(default_factory=list)
    """What the schedule changed: optimizer step from which it holds, reason, plan as JSON values."""
    backend: str = ""
    """What computed the plan's attention; empty until then."""
    sessions: int = 0
    """How often the run was started or resumed."""
    code: list[str] = field(default_factory=list)
    """The versions of the code that did it, in order: one, unless the code changed between two sessions."""


def save_checkpoint(path: Path, state: RunState, tensors: dict[str, Any]) -> None:
    """Writes state and tensors, whole or not at all.

    Raises:
        StudyError: The disk is full or the path cannot be written; the checkpoint before it is untouched.
    """
    content = io.BytesIO()
    torch.save({"state": {f.name: getattr(state, f.name) for f in fields(state)}, **tensors}, content)
    write_file(path, content.getbuffer())


def load_checkpoint(path: Path) -> tuple[RunState, dict[str, Any]] | None:
    """What `save_checkpoint` wrote; `None` where there is nothing.

    Raises:
        StudyError: The file cannot be read.
    """
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        return RunState(**content.pop("state")), content
    except Exception as error:  # torch and pickle raise whatever they like for a damaged file
        raise StudyError(
            f"cannot read the checkpoint {path} ({type(error).__name__}): it was changed or written by another "
            "version. --fresh starts anew."
        ) from None
