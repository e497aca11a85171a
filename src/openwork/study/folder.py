"""A study's directory: what is in it, and what may be written there."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openwork.errors import StudyError
from openwork.runs import Lock, read_json, write_json
from openwork.study.config import StudyConfig, refuse_changes
from openwork.study.contender import Contender

__all__ = ["RunPlace", "StudyFolder"]

FORMAT = 1
_PATIENCE_SECONDS = 0.3
_REMOVED = ("record.json", "report.html", "runs", "tokens", "tokenizer.json", "study.json")
"""What a study writes, in the order in which it is removed: while `study.json` is there, the rest belongs to it."""
_MARKS = ("study.json", "lock")
"""Whoever writes here writes the lock before anything else, and nobody removes it."""


@dataclass(frozen=True)
class RunPlace:
    """One run of a study and its directory."""

    contender: Contender
    seed: int
    directory: Path

    @property
    def record(self) -> Path:
        """Where its result is, once it is done."""
        return self.directory / "record.json"


class StudyFolder:
    """The directory of one study.

    Args:
        path: The directory; made by `open` where it is not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.study, self.record, self.page = path / "study.json", path / "record.json", path / "report.html"
        self.tokens, self.tokenizer = path / "tokens", path / "tokenizer.json"
        self.made = False

    def create(self) -> None:
        """Makes the directory where it is not there, and finds out whether it can be written.

        Raises:
            StudyError: It cannot be written, or is full of something else.
        """
        try:
            self.made = self._make()
            strangers = sorted(path.name for path in self.path.iterdir() if not path.name.startswith("."))
            probe = self.path / ".probe"
            probe.write_bytes(b"")
            # another command that starts here now has a probe of the same name
            probe.unlink(missing_ok=True)
        except OSError as error:
            raise StudyError(
                f"--out {self.path} cannot be written: {error.strerror or error}. Name a directory that can."
            ) from None
        if strangers and not any(name in _MARKS for name in strangers):
            raise StudyError(
                f"--out {self.path} holds other files ({strangers[0]}, ...) and no study; name an empty or a new "
                "directory."
            )

    def _make(self) -> bool:
        # asked of the system alone, which gives one of two commands that start together the directory
        try:
            self.path.mkdir(parents=True)
        except FileExistsError:
            if not self.path.is_dir():
                raise
            return False
        return True

    def lock(self) -> Lock:
        """One study at a time in this directory."""
        # whoever lists studies takes the lock for an instant to see whether it is held
        return Lock(self.path / "lock", holder=f"--out {self.path}", patience_s=_PATIENCE_SECONDS)

    def begin(self, config: StudyConfig, facts: dict[str, Any], *, fresh: bool) -> dict[str, Any]:
        """What is recorded of the study: an earlier call's where it meant the same, else anew.

        Args:
            config: What is asked for now.
            facts: What is known now, recorded with a study that begins.
            fresh: Remove an earlier study.

        Raises:
            StudyError: An earlier study had other options or other data.
        """
        if fresh:
            self.clear()
        known: dict[str, Any] | None = read_json(self.study)
        if known is None:
            # what is left of a study that was removed in part: its runs are not those of the one that begins
            self.clear()
            known = {"openwork_study": FORMAT, "config": config.to_dict(), **facts}
            write_json(self.study, known)
            return known
        if known.get("openwork_study") != FORMAT:
            raise StudyError(f"{self.study} was written by another version of openwork; use --fresh or another --out.")
        refuse_changes(known["config"], config.to_dict())
        if known["data"]["fingerprint"] != facts["data"]["fingerprint"]:
            raise StudyError(
                f"the files in --data {config.data} have changed since the study in {self.path} began; use --fresh, "
                "or name another --out."
            )
        return known

    def clear(self) -> None:
        """Removes an earlier study; the lock file, which is held, and files that are not ours stay.

        A kill on the way leaves either `study.json` with some of what belongs to it, whole, or no `study.json`.
        """
        for name in _REMOVED:
            place, aside = self.path / name, self.path / f".{name}.removed"
            shutil.rmtree(aside, ignore_errors=True)
            if place.is_dir():
                # a directory goes in one step: half of the tokens would be taken for all of them
                place.rename(aside)
                shutil.rmtree(aside)
            else:
                place.unlink(missing_ok=True)

    def undo(self) -> None:
        """Removes what a study that could not begin has written; only for who holds the lock."""
        self.clear()
        if self.made:
            shutil.rmtree(self.path, ignore_errors=True)

    def places(self, config: StudyConfig) -> list[RunPlace]:
        """All runs, in the order in which they are done: each seed's plans together."""
        return [
            RunPlace(contender, seed, self.path / "runs" / f"{number}-{_slug(contender.name)}-seed{seed}")
            for seed in range(config.seed, config.seed + config.seeds)
            for number, contender in enumerate(config.everyone)
        ]


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "plan"
