"""Progress of a study on the terminal."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from openwork.study.config import StudyConfig

__all__ = ["StudyProgress"]

_LINE_SECONDS = 20.0
"""Time between two lines of progress where there is no terminal."""
_EVALUATION = 0.1
"""Share of a bar that measuring quality takes, beside the 1 of training."""


class StudyProgress:
    """Shows what `run` reports: call it with each event while the context is open.

    Args:
        config: The study; it says how long a run is.
        console: Where to draw; stderr, so that stdout stays for results.
    """

    def __init__(self, config: StudyConfig, console: Console | None = None) -> None:
        self._config = config
        self._console = console or Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._last_line = time.monotonic()
        self._preparing: dict[str, TaskID] = {}
        self._task: TaskID | None = None
        self._name = ""

    def __enter__(self) -> StudyProgress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # a study that is refused before it starts ends in its error line alone, not in that of an empty display too
        if self._progress.live.is_started:
            self._progress.stop()

    def __call__(self, event: dict[str, Any]) -> None:
        """Shows one event."""
        show = getattr(self, f"_on_{event['event']}", None)
        if show is not None:
            self._progress.start()
            show(event)

    def _on_resume(self, event: dict[str, Any]) -> None:
        self._progress.print(f"Going on with the study in {event['out']}.")

    def _on_stopping(self, event: dict[str, Any]) -> None:
        self._progress.print("Saving; the same command goes on from here.")

    def _on_data(self, event: dict[str, Any]) -> None:
        for line in event["lines"]:
            self._progress.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _on_prepare(self, event: dict[str, Any]) -> None:
        what, total = event["what"], event["total"] or None
        if what not in self._preparing:
            self._preparing[what] = self._progress.add_task(what, total=total, figures="")
        self._progress.update(self._preparing[what], completed=event["done"], total=total)

    def _on_run(self, event: dict[str, Any]) -> None:
        self._finish()
        seed = f", seed {event['seed']}" if self._config.seeds > 1 else ""
        self._name = f"{event['number'] + 1}/{event['total']} {event['name'][:40]}{seed}"
        self._task = self._progress.add_task(self._name, total=1 + _EVALUATION, figures="starting")
        self._line()

    def _on_schedule(self, event: dict[str, Any]) -> None:
        self._progress.print(
            f"{self._name}, from step {event['step']}: {event['reason']}", highlight=False, markup=False
        )

    def _on_step(self, event: dict[str, Any]) -> None:
        config = self._config
        shares = []
        if config.steps is not None:
            shares.append(event["step"] / config.steps)
        if config.seconds is not None:
            shares.append(event["spent_s"] / config.seconds)
        self._update(min(1.0, max(shares)), f"step {event['step']}, loss {event['loss']:.3f}")

    def _on_evaluate(self, event: dict[str, Any]) -> None:
        self._update(
            1 + _EVALUATION * event["done"] / event["total"], f"measuring quality, {event['done']}/{event['total']}"
        )

    def _update(self, share: float, figures: str) -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=share, figures=figures)
            if time.monotonic() - self._last_line >= _LINE_SECONDS:
                self._line(figures)

    def _line(self, figures: str = "") -> None:
        """A line of its own where there is no terminal to draw bars on: a log or a pipe must not stay silent."""
        if not self._console.is_terminal:
            self._last_line = time.monotonic()
            self._console.print(f"{self._name}: {figures}" if figures else self._name, highlight=False, soft_wrap=True)

    def _finish(self) -> None:
        for task in self._preparing.values():
            self._progress.update(task, total=1, completed=1)
        if self._task is not None:
            self._progress.update(self._task, completed=1 + _EVALUATION, figures="done")

    def finish(self) -> None:
        """Shows the last run as done."""
        self._finish()


class DemoProgress(StudyProgress):
    """Progress of the demo: a bar for each act, and those of its study.

    Args:
        config: The study of act 3.
        console: Where to draw.
    """

    def _on_act(self, event: dict[str, Any]) -> None:
        self._finish()
        self._preparing.clear()
        self._name = f"act {event['act']}: {event['what']}" if event["act"] else event["what"]
        self._task = self._progress.add_task(self._name, total=1.0, figures="")
        self._line()

    def _on_share(self, event: dict[str, Any]) -> None:
        self._update(event["share"], event["what"])
