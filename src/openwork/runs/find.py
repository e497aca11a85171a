"""Finding studies on disk: which directories hold one, and whether somebody is working in it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from openwork.errors import DataError
from openwork.runs.files import is_locked

__all__ = ["find_studies", "in_use"]

STUDY, RECORD, LOCK = "study.json", "record.json", "lock"
_SKIPPED = ("__pycache__", "node_modules")


def find_studies(places: Sequence[Path] = ()) -> list[Path]:
    """The directories that hold a study, at these places or below them, in the order of their names.

    Args:
        places: Directories of studies, or directories to search; the working directory where there are none. Hidden
            directories are not searched, nor is what lies inside a study.

    Raises:
        DataError: A place does not exist.
    """
    found: dict[Path, None] = {}
    for place in places or (Path(),):
        if not place.is_dir():
            raise DataError(f"{place} is not a directory; name the --out of a study, or a directory above some.")
        for root, names, files in os.walk(place):
            if STUDY in files:
                found[Path(root)] = None
                names[:] = []
            names[:] = sorted(name for name in names if not name.startswith(".") and name not in _SKIPPED)
    return list(found)


def in_use(study: Path) -> bool:
    """Whether a process is working in the study's directory now."""
    return is_locked(study / LOCK) if sys.platform != "win32" else False
