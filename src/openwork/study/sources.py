"""Bytes of the user's files, plain or gzipped, in pieces: no file is ever held whole."""

from __future__ import annotations

import gzip
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from openwork.errors import DataError

__all__ = ["is_packed", "read_chunks", "read_range"]

_CHUNK = 1 << 20
_PACKED_CHUNK = 1 << 14
_GZIP = b"\x1f\x8b"
_WINDOW_BITS = 31
"""Of zlib, for a gzip header."""
_PLACE_BYTES = 1 << 20
"""Text between two places of a gzipped file from which it can be unpacked."""


def is_packed(path: Path) -> bool:
    """Whether a file is gzipped, by its first bytes.

    Raises:
        OSError: It cannot be read.
    """
    with open(path, "rb") as file:
        return file.read(2) == _GZIP


def read_chunks(path: Path, size: int = _CHUNK) -> Iterator[bytes]:
    """The bytes of a file, unpacked where it is gzipped: `size` at a time, and what is left.

    Raises:
        DataError: It is gzipped, and cut short or broken.
        OSError: It cannot be read.
    """
    done = 0
    packed = is_packed(path)
    with cast(BinaryIO, gzip.open(path, "rb")) if packed else open(path, "rb") as file:
        while True:
            try:
                chunk = file.read(size)
            except EOFError:
                raise _broken(path, done, "ends before its gzip stream does") from None
            except (gzip.BadGzipFile, zlib.error) as error:
                raise _broken(path, done, f"is no whole gzip file ({error})") from None
            if not chunk:
                return
            done += len(chunk)
            yield chunk


def _broken(path: Path, done: int, what: str) -> DataError:
    return DataError(
        f"{path} {what}, after {done} bytes of text: it was cut short or damaged. Fetch it again, or leave it out with "
        f"--exclude '{path.name}'."
    )


def read_range(path: Path, first: int, stop: int | None) -> bytes:
    """The bytes `first` to `stop` of a file (its end where that is `None`), of its text where it is gzipped.

    Raises:
        DataError: The file is gone, cannot be read or is broken.
    """
    try:
        if is_packed(path):
            stat = path.stat()
            return _packed(path, stat.st_size, stat.st_mtime_ns).read(first, stop)
        with open(path, "rb") as file:
            file.seek(first)
            return file.read() if stop is None else file.read(stop - first)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}.") from None


class _Place(NamedTuple):
    """A place from which unpacking can begin: bytes of text and of the file before it, and zlib's state there."""

    text: int
    packed: int
    state: zlib._Decompress | None
    """`None` between two members of a file, where a new one begins."""


class _Packed:
    """A gzipped file that can be read from anywhere: places are noted as they are passed, a megabyte apart.

    Files of several gzip members, such as those of bgzip, are one text.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places = [_Place(0, 0, None)]

    def read(self, first: int, stop: int | None) -> bytes:
        """The bytes `first` to `stop` of the text."""
        text, packed, state = self._places[bisect_right(self._places, first, key=lambda place: place.text) - 1]
        state = None if state is None else state.copy()
        found: list[bytes] = []
        with open(self._path, "rb") as file:
            while stop is None or text < stop:
                file.seek(packed)
                data = file.read(_PACKED_CHUNK)
                if state is None and not data.strip(b"\0"):
                    break  # the end, or zeros that fill a block of a tape
                if not data:
                    raise _broken(self._path, text, "ends before its gzip stream does")
                state = state or zlib.decompressobj(_WINDOW_BITS)
                try:
                    out = state.decompress(data)
                except zlib.error as error:
                    raise _broken(self._path, text, f"is no whole gzip file ({error})") from None
                packed += len(data) - len(state.unused_data)
                found.append(out[max(0, first - text) : None if stop is None else max(0, stop - text)])
                text += len(out)
                if state.eof:
                    state = None
                if text - self._places[-1].text >= _PLACE_BYTES:
                    self._places.append(_Place(text, packed, None if state is None else state.copy()))
        return b"".join(found)


@lru_cache(maxsize=64)
def _packed(path: Path, size: int, changed: int) -> _Packed:
    # size and time are there so that a file that changed is read anew
    return _Packed(path)
