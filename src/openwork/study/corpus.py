"""The user's files: which are text, and which are kept back to judge on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from openwork.errors import DataError

__all__ = ["Corpus", "Document", "read_corpus", "read_text"]

HELD_OUT_SHARE = 0.1
"""Share of the bytes that is kept back, at least one file."""

_SKIPPED = ("__pycache__", "node_modules")
_PEEK_BYTES = 8192


@dataclass(frozen=True)
class Document:
    """One text: a file, or a part of the only file.

    Attributes:
        path: Where it is, below the data directory.
        num_bytes: UTF-8 bytes of its text.
        digest: SHA-256 of its text.
        first: First byte in its file.
        stop: End in its file; `None` for the whole file.
    """

    path: str
    num_bytes: int
    digest: str
    first: int = 0
    stop: int | None = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.path if self.stop is None else f"{self.path} bytes {self.first}-{self.stop}"


@dataclass(frozen=True)
class Corpus:
    """The texts of a study, split by file.

    Attributes:
        root: The data directory, or the directory of the only file.
        training: Texts to train on, in the order in which they are packed.
        held_out: Texts to judge on, likewise.
        left_out: How many files were not read, by reason.
    """

    root: Path
    training: tuple[Document, ...]
    held_out: tuple[Document, ...]
    left_out: dict[str, int] = field(default_factory=dict)

    def texts(self, documents: Sequence[Document]) -> Iterator[str]:
        """The text of each document, read when it is asked for."""
        return (read_text(self.root, document) for document in documents)

    @property
    def fingerprint(self) -> str:
        """A digest of which text is where: equal for equal data, whatever the machine."""
        lines = [f"{d.digest} {d.first} {part}" for part, ds in self._parts() for d in ds]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def _parts(self) -> tuple[tuple[str, tuple[Document, ...]], ...]:
        return ("training", self.training), ("held-out", self.held_out)

    def to_dict(self) -> dict[str, Any]:
        """What a report says of the data."""
        return {
            "root": str(self.root),
            "fingerprint": self.fingerprint,
            "training_files": len(self.training),
            "training_bytes": sum(document.num_bytes for document in self.training),
            "held_out_files": [document.name for document in self.held_out],
            "held_out_bytes": sum(document.num_bytes for document in self.held_out),
            "left_out": self.left_out,
        }


def read_text(root: Path, document: Document) -> str:
    """The text of a document, as it is in its file: line ends are kept.

    Raises:
        DataError: The file is gone or cannot be read.
    """
    path = root / document.path
    try:
        content = path.read_bytes()[document.first : document.stop]
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}.") from None
    return content.decode("utf-8", errors="replace")


def read_corpus(
    data: Path,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    max_bytes: int = 1 << 28,
) -> Corpus:
    """Finds the text files of a directory and keeps a tenth of them back.

    Which files are kept back, and the order of all, follow from their content alone, so they are the same wherever
    and whenever the directory is read. A file of the same content as another counts once. Of a single file, its last
    tenth is kept back. Hidden files and directories are not read, nor are the directories of studies.

    Args:
        data: A directory, or one file.
        include: Names of files to read, with `*` and `?`; all text files where empty.
        exclude: Names of files and directories to leave out, likewise.
        max_bytes: Most bytes of text to read.

    Raises:
        DataError: There is no such place, or no text in it.
    """
    if not data.exists():
        raise DataError(f"--data {data} does not exist; name a directory of text files, or one file.")
    root = data.parent if data.is_file() else data
    paths = [data] if data.is_file() else list(_files(data, include, exclude))
    if not paths:
        wanted = f" named {' or '.join(include)}" if include else ""
        raise DataError(f"--data {data} holds no file{wanted}; name a directory of text files, or one file.")
    left_out = {"binary": 0, "empty": 0, "same content as another": 0, "beyond --max-bytes": 0, "unreadable": 0}
    found: dict[str, Document] = {}
    total = 0
    for path in paths:
        document = _document(root, path)
        if isinstance(document, str):
            left_out[document] += 1
        elif document.digest in found:
            left_out["same content as another"] += 1
        elif total + document.num_bytes > max_bytes and found:
            left_out["beyond --max-bytes"] += 1
        else:
            found[document.digest] = document
            total += document.num_bytes
    left_out = {reason: count for reason, count in left_out.items() if count}
    if not found:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise DataError(f"--data {data} holds no text: of {len(paths)} files, {reasons}. Give files of UTF-8 text.")
    ordered = [found[digest] for digest in sorted(found)]
    training, held_out = _split_file(root, ordered[0]) if len(ordered) == 1 else _split(ordered, total)
    return Corpus(root=root, training=training, held_out=held_out, left_out=left_out)


def _files(root: Path, include: Sequence[str], exclude: Sequence[str]) -> Iterator[Path]:
    for directory, names, files in os.walk(root):
        if {"study.json", "lock"} <= set(files):
            # what a study wrote is no text to learn from, and changes while it runs
            names[:] = []
            continue
        names[:] = sorted(name for name in names if _wanted(name, exclude))
        for name in sorted(files):
            if _wanted(name, exclude) and (not include or any(fnmatch(name, glob) for glob in include)):
                yield Path(directory, name)


def _wanted(name: str, exclude: Sequence[str]) -> bool:
    return not name.startswith(".") and name not in _SKIPPED and not any(fnmatch(name, glob) for glob in exclude)


def _document(root: Path, path: Path) -> Document | str:
    try:
        with open(path, "rb") as file:
            start = file.read(_PEEK_BYTES)
            if b"\0" in start:
                return "binary"
            content = start + file.read()
    except OSError:
        return "unreadable"
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        return "binary"
    if not text.strip():
        return "empty"
    return Document(path.relative_to(root).as_posix(), len(content), hashlib.sha256(content).hexdigest())


def _split(ordered: Sequence[Document], total: int) -> tuple[tuple[Document, ...], tuple[Document, ...]]:
    """Keeps files back in the order of their digests until they hold a tenth of the bytes.

    A file that would take more than twice that share stays in training, unless it is the only choice.
    """
    held_out: list[Document] = []
    kept = 0
    for document in ordered:
        if kept >= HELD_OUT_SHARE * total or len(held_out) == len(ordered) - 1:
            break
        if kept + document.num_bytes <= 2 * HELD_OUT_SHARE * total:
            held_out.append(document)
            kept += document.num_bytes
    if not held_out:
        held_out = [min(ordered, key=lambda document: (document.num_bytes, document.digest))]
    chosen = {document.digest for document in held_out}
    return tuple(document for document in ordered if document.digest not in chosen), tuple(held_out)


def _split_file(root: Path, document: Document) -> tuple[tuple[Document, ...], tuple[Document, ...]]:
    content = (root / document.path).read_bytes()
    cut = int(len(content) * (1 - HELD_OUT_SHARE))
    # the next line end, so that neither part begins inside a line, or the one before it; else the next character
    after, before = content.find(b"\n", cut) + 1, content.rfind(b"\n", 0, cut) + 1
    cut = after if 0 < after < len(content) else before or cut
    while cut < len(content) and content[cut] & 0xC0 == 0x80:
        cut += 1
    if not 0 < cut < len(content):
        raise DataError(f"--data {root / document.path} is one file of one line; split it, or give more files.")

    def part(first: int, stop: int) -> Document:
        digest = hashlib.sha256(content[first:stop]).hexdigest()
        return Document(document.path, stop - first, digest, first, stop)

    return (part(0, cut),), (part(cut, len(content)),)
