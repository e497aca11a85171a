"""Studies that are on disk: done, stopped, in progress, or damaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from openwork.errors import DataError, OpenworkError, StudyError
from openwork.runs import find_studies, in_use, read_json
from openwork.study.config import StudyConfig
from openwork.study.folder import StudyFolder
from openwork.study.result import StudyResult

__all__ = ["DAMAGED", "DONE", "RUNNING", "STOPPED", "StudyEntry", "list_studies", "read_study", "require_done"]

DONE, RUNNING, STOPPED, DAMAGED = "done", "in progress", "stopped", "damaged"


@dataclass(frozen=True, kw_only=True)
class StudyEntry:
    """One study on disk."""

    path: Path
    """Its directory, as it was given or found."""
    status: str
    """`done`, `in progress` (a process works on it), `stopped` (its command goes on with it) or `damaged`."""
    changed: datetime
    """When its record, or what there is of it, was last written; UTC."""
    note: str = ""
    """How far it is, or what is wrong with it."""
    config: StudyConfig | None = None
    """What was asked for; `None` where that cannot be read."""
    result: StudyResult | None = None
    """Figures and raw samples; `None` unless it is done."""
    recorded: dict[str, Any] = field(default_factory=dict)
    """The options as they were written: without those that openwork did not have then."""

    def to_dict(self) -> dict[str, Any]:
        """What a list says of it, as JSON values."""
        rows = self.result.rows if self.result is not None else ()
        config = self.config
        return {
            "path": str(self.path),
            "status": self.status,
            "changed": self.changed.isoformat(timespec="seconds"),
            "note": self.note,
            "plans": [contender.name for contender in config.everyone] if config is not None else [],
            "seeds": config.seeds if config is not None else None,
            "steps": config.steps if config is not None else None,
            "seconds": config.seconds if config is not None else None,
            "seq_len": config.seq_len if config is not None else None,
            "data": str(config.data) if config is not None else None,
            "bits_per_byte": {row.name: row.bits_per_byte for row in rows},
            "speedup": {row.name: row.speedup for row in rows},
        }


def list_studies(places: Sequence[Path] = ()) -> list[StudyEntry]:
    """Every study at these places or below them (the working directory without any), the latest change first.

    Raises:
        DataError: A place does not exist.
    """
    return sorted(map(read_study, find_studies(places)), key=lambda entry: entry.changed, reverse=True)


def read_study(path: Path) -> StudyEntry:
    """The study in a directory; what cannot be read is `damaged`, with the reason.

    Raises:
        DataError: There is no study there.
    """
    folder = StudyFolder(path)
    if not folder.study.exists() and not folder.record.exists():
        raise DataError(f"{path} holds no study; name the --out of one (`openwork runs list` finds them).")
    place = folder.record if folder.record.exists() else folder.study
    changed = datetime.fromtimestamp(place.stat().st_mtime, UTC)
    config = None
    try:
        content = read_json(folder.record)
        if content is not None:
            result = _result(content)
            return StudyEntry(
                path=path,
                status=DONE,
                changed=changed,
                config=result.config,
                result=result,
                recorded=content["config"],
            )
        config = _config(folder)
        done, total = _progress(folder, config)
    except OpenworkError as error:
        return StudyEntry(path=path, status=DAMAGED, changed=changed, note=f"{place.name}: {error}", config=config)
    status = RUNNING if in_use(path) else STOPPED
    return StudyEntry(path=path, status=status, changed=changed, note=f"{done} of {total} runs done", config=config)


def require_done(path: Path) -> StudyEntry:
    """The study in a directory, which is done: its `result` is there.

    Raises:
        DataError: There is no study there.
        StudyError: It is not done, or damaged.
    """
    entry = read_study(path)
    if entry.result is not None:
        return entry
    if entry.status == DAMAGED:
        raise StudyError(f"the study in {path} is damaged: {entry.note}")
    way_out = "wait for it" if entry.status == RUNNING else "the command that began it goes on with it"
    raise StudyError(f"the study in {path} has no figures yet: {entry.status}, {entry.note}; {way_out}.")


def _result(content: Any) -> StudyResult:
    if not isinstance(content, dict):
        raise StudyError("it is not a record of a study.")
    result = StudyResult.from_dict(content)
    if {record.name for record in result.records} != {contender.name for contender in result.config.everyone}:
        raise StudyError("its runs are not those of its plans: it was changed.")
    return result


def _config(folder: StudyFolder) -> StudyConfig:
    content = read_json(folder.study)
    try:
        return StudyConfig.from_dict(content["config"])
    except (KeyError, TypeError, AttributeError) as error:
        raise StudyError(f"it was changed, or written by another version of openwork ({error}).") from None


def _progress(folder: StudyFolder, config: StudyConfig) -> tuple[int, int]:
    places = folder.places(config)
    return sum(place.record.exists() for place in places), len(places)
