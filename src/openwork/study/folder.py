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
_OURS = ("study.json", "record.json", "report.html", "tokenizer.json", "tokens", "runs", "lock")


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
        self.made = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            strangers = sorted(path.name for path in self.path.iterdir() if not path.name.startswith("."))
            probe = self.path / ".probe"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise StudyError(
                f"--out {self.path} cannot be written: {error.strerror or error}. Name a directory that can."
            ) from None
        if strangers and not any(name in _OURS for name in strangers):
            raise StudyError(
                f"--out {self.path} holds other files ({strangers[0]}, ...) and no study; name an empty or a new "
                "directory."
            )

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
        """Removes an earlier study; the lock file, which is held, and files that are not ours stay."""
        for name in _OURS:
            place = self.path / name
            if place.is_dir():
                shutil.rmtree(place)
            elif name != "lock":
                place.unlink(missing_ok=True)

    def undo(self) -> None:
        """Removes what a study that could not begin has written."""
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
