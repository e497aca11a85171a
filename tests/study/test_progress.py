"""Progress on the terminal: every event moves a bar, and none breaks it."""

from __future__ import annotations

import io
from collections.abc import Callable

from rich.console import Console

from openwork.study import StudyConfig
from openwork.study.progress import StudyProgress


def test_every_event_is_shown(tiny: Callable[..., StudyConfig]) -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=120)
    with StudyProgress(tiny(steps=10, seeds=2), console) as progress:
        progress({"event": "resume", "out": "here"})
        progress({"event": "prepare", "what": "tokens", "done": 3, "total": 9})
        progress({"event": "run", "number": 0, "total": 4, "name": "dense", "seed": 0})
        progress({"event": "step", "step": 5, "spent_s": 1.0, "loss": 2.5})
        progress({"event": "evaluate", "step": 10, "spent_s": 1.0, "done": 1, "total": 2})
        progress({"event": "stopping"})
        progress({"event": "something new"})
        progress._progress.refresh()
        progress.finish()
    words = output.getvalue()
    for part in ("Going on with the study in here", "tokens", "1/4 dense, seed 0", "measuring quality, 1/2", "Saving"):
        assert part in words


def test_under_both_limits_the_nearer_one_is_shown(tiny: Callable[..., StudyConfig]) -> None:
    console = Console(file=io.StringIO(), force_terminal=True)
    with StudyProgress(tiny(steps=100, seconds=10.0), console) as progress:
        progress({"event": "run", "number": 0, "total": 1, "name": "dense", "seed": 0})
        progress({"event": "step", "step": 10, "spent_s": 5.0, "loss": 2.5})
        assert progress._progress.tasks[-1].completed == 0.5
