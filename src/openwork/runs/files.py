"""Files that are whole or absent, whatever happens while they are written, and a lock on a directory."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from openwork.errors import StudyError

__all__ = ["Lock", "is_locked", "read_json", "write_file", "write_json"]

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_file(path: Path, content: bytes | memoryview | Iterator[memoryview]) -> None:
    """Writes the file so that it holds the old content or the new one, never a part; pieces are written as they come.

    The content goes to a temporary file beside it, is flushed to the disk, and takes the place of the old file in
    one step. Where that fails, the temporary file is removed and the old content stays.

    Raises:
        StudyError: The disk is full, or the path cannot be written.
    """
    temporary = path.with_name(f".{path.name}.writing")
    size = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            for piece in [content] if isinstance(content, bytes | memoryview) else content:
                size += len(piece)
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_directory(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):  # a directory that is a file cannot hold it either
            temporary.unlink(missing_ok=True)
        raise _refusal(path, size, error) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _refusal(path: Path, num_bytes: int, error: OSError) -> StudyError:
    kept = "what it held before is untouched" if path.exists() else "nothing was written"
    if error.errno in _FULL:
        return StudyError(
            f"no space left to write {path} ({num_bytes / 1e6:.1f} MB): {kept}. Free some space and repeat the "
            "same command; it goes on from there."
        )
    return StudyError(f"cannot write {path}: {error.strerror or error}; {kept}.")


def _sync_directory(directory: Path) -> None:
    if sys.platform == "win32":
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, content: Any) -> None:
    """Writes a value as JSON, whole or not at all; NaN is refused, for no other program could read it."""
    write_file(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """The value in a JSON file; `None` where there is no such file.

    Raises:
        StudyError: The file cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StudyError(f"cannot read {path}: {error.strerror or error}.") from None
    except ValueError as error:
        raise StudyError(f"{path} is not JSON ({error}); it was not written by openwork, or changed since.") from None


class Lock:
    """One writer at a time: holds a lock file for as long as the context is open.

    The system gives the lock back when the process ends, however it ends, so a killed run leaves nothing behind that
    would have to be removed by hand.

    Args:
        path: The lock file. Its directory must exist.
        holder: What the lock protects, for the message.
        patience_s: Seconds to wait for another holder before giving up.

    Raises:
        StudyError: Another process holds the lock, or the file cannot be written.
    """

    def __init__(self, path: Path, *, holder: str, patience_s: float = 0.0) -> None:
        self._path, self._holder, self._patience_s = path, holder, patience_s
        self._file: IO[str] | None = None

    def __enter__(self) -> Lock:
        try:
            file = open(self._path, "a+", encoding="utf-8")
        except OSError as error:
            raise StudyError(f"cannot write {self._path}: {error.strerror or error}.") from None
        deadline = time.monotonic() + self._patience_s
        while not _take(file):
            if time.monotonic() >= deadline:
                file.seek(0)
                owner = file.read().strip() or "unknown"
                file.close()
                raise StudyError(
                    f"{self._holder} is in use by process {owner}: wait for it, stop it, or name another --out."
                )
            time.sleep(0.05)
        self._file = file
        with contextlib.suppress(OSError):
            # the number is for the message alone: on a full disk the lock holds without it
            file.seek(0)
            file.truncate()
            file.write(str(os.getpid()))
            file.flush()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def is_locked(path: Path) -> bool:
    """Whether a process holds this lock file now; nothing is written, and a lock that is free stays free.

    It is taken for an instant to find out, so whoever wants it meanwhile needs a little `patience_s`.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return not _take(file)
    except OSError:
        return False


def _take(file: IO[str]) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0x7FFFFFFE)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
