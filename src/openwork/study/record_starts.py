"""Where the records of sequence files begin, found in one pass."""

from __future__ import annotations

from array import array
from pathlib import Path

import numpy as np

from openwork.errors import DataError
from openwork.patterns.annotations import IntArray
from openwork.study.pieces import lines_of_file
from openwork.study.sources import read_chunks

__all__ = ["record_starts"]


def record_starts(path: Path, kind: str, size: int) -> IntArray:
    """The first byte of each record of a FASTA or FASTQ file, of those that begin before `size`: int64 `[n]`.

    The first record begins with the file.

    Raises:
        DataError: A FASTQ file breaks its rules; the message names the line.
    """
    starts = _fasta_starts(path, size) if kind == "fasta" else _fastq_starts(path, size)
    # blank lines before the first record belong to it
    return np.concatenate([np.zeros(1, np.int64), starts[1:][starts[1:] < size]])


def _fasta_starts(path: Path, size: int) -> IntArray:
    found = [np.zeros(0, dtype=np.int64)]
    done, before = 0, b"\n"
    for chunk in read_chunks(path):
        signs = np.frombuffer(before + chunk, dtype=np.uint8)
        found.append(np.flatnonzero((signs[1:] == ord(">")) & (signs[:-1] == ord("\n"))) + done)
        done, before = done + len(chunk), chunk[-1:]
        if done >= size:
            break
    return np.concatenate(found)


def _fastq_starts(path: Path, size: int) -> IntArray:
    starts = array("q")
    place = bases = scores = 0
    state, number = "header", 0
    for number, line in enumerate(lines_of_file(path), start=1):
        text = line.rstrip(b"\r\n")
        if state == "quality" and scores >= bases:
            state = "header"
        if state == "header":
            if place >= size:
                break
            if text:
                if text[:1] != b"@":
                    shown = text[:40].decode(errors="replace")
                    raise _broken(path, number, f"a record begins with '@', and this is {shown!r}")
                starts.append(place)
                state, bases, scores = "sequence", 0, 0
        elif state == "sequence":
            if text[:1] == b"+":
                state = "quality"
            else:
                bases += len(text)
        else:
            scores += len(text)
            if scores > bases:
                raise _broken(path, number, f"a quality of {scores} signs for a sequence of {bases}")
        place += len(line)
    else:
        if state != "header" and not (state == "quality" and scores == bases):
            raise _broken(path, number, f"the file ends inside record {len(starts)}")
    return np.array(starts, dtype=np.int64)


def _broken(path: Path, number: int, what: str) -> DataError:
    return DataError(
        f"{path} line {number} is no FASTQ: {what}. Mend it, or leave it out with --exclude '{path.name}'."
    )
