"""Where and with what a study ran: what a figure needs beside it to mean anything."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import openwork
from openwork.errors import StudyError
from openwork.measure import device_memory

__all__ = ["code_version", "environment", "resolve_device", "version_of"]

_PACKAGES = ("torch", "numpy", "tokenizers")
_GIT_SECONDS = 5


def resolve_device(wanted: str) -> str:
    """`auto` as the best device here; any other name once it is known to be there.

    Raises:
        StudyError: The device is not there.
    """
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if here[name])
    if not here[wanted]:
        found = ", ".join(name for name, there in here.items() if there)
        raise StudyError(f"--device {wanted} is not available here; there is {found}. `openwork doctor` says more.")
    return wanted


def code_version() -> str:
    """Version of openwork and torch, and the commit where openwork is no installed package, in words."""
    commit = _commit()
    return f"openwork {openwork.__version__}" + (f" ({commit})" if commit else "") + f", torch {torch.__version__}"


def environment(device: str, packages: Sequence[str] = ()) -> dict[str, Any]:
    """Versions, machine, threads and the code's commit, as JSON values.

    Args:
        device: What the study runs on.
        packages: Those whose versions matter beside those that always do.
    """
    return {
        "openwork": openwork.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        **{package: version_of(package) for package in (*_PACKAGES, *packages)},
        "system": platform.platform(),
        "processor": _processor(),
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "threads": torch.get_num_threads(),
        "memory_bytes": device_memory(device),
    }


def version_of(package: str) -> str | None:
    """The version of an installed package; `None` where it is not there.

    >>> version_of("no such package") is None
    True
    """
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    cpus = Path("/proc/cpuinfo")
    if cpus.exists():
        for line in cpus.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit of the code, with `-dirty` where it was changed; `None` for an installed package."""
    package = Path(openwork.__file__).resolve().parent
    root = package.parent.parent
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
