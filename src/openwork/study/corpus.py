"""The user's files: which are text, what they are, and which are kept back to judge on."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from openwork.annotate import SequenceFeatures
from openwork.errors import DataError
from openwork.study.kinds import FEATURES
from openwork.study.pieces import NOT_UTF8, Document, Scan, chat_documents, cut_before, documents_of, read_text, scan
from openwork.study.record_starts import record_starts

__all__ = ["Corpus", "Document", "read_corpus", "read_text", "sequence_ids"]

HELD_OUT_SHARE = 0.1
"""Share of the bytes that is kept back, at least one file."""

_OUTPUTS = {"study.json", "openwork-report.html", "act-2.json", "act-4.json"}
"""Files of which one stands beside a lock in a directory that a study or the demo writes."""
_SKIPPED = ("__pycache__", "node_modules")
_BLOCK_BYTES = 1 << 16
_BLOCKS = 200
"""Records of one file are split in blocks of neighbours: about so many, each at most `_BLOCK_BYTES` or one record."""
_NAMED_PARTS = 1000
"""Most held-out parts that a record names; the fingerprint fixes them all."""
_LEFT_OUT = {
    FEATURES: "features of sequences (name them with --features)",
    NOT_UTF8: "not UTF-8 (iconv -f latin1 -t utf-8 FILE > NEW converts Latin-1)",
}


@dataclass(frozen=True)
class _Unit:
    """What goes to training or to the held-out part as a whole: a file, or some records of the only one."""

    digest: str
    num_bytes: int
    documents: tuple[Document, ...]

    @classmethod
    def of(cls, documents: Iterable[Document]) -> _Unit:
        documents = tuple(documents)
        digests = [document.digest for document in documents]
        joined = digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
        return cls(joined, sum(document.num_bytes for document in documents), documents)


_Parted = tuple[tuple[Document, ...], tuple[Document, ...], str]
"""Training and held-out documents, and how they were parted."""


@dataclass(frozen=True)
class Corpus:
    """The texts of a study, split by file, or within files where there is one, or where all others are too small.

    Attributes:
        root: The data directory, or the directory of the only file.
        training: Texts to train on, in the order in which they are packed.
        held_out: Texts to judge on, likewise.
        left_out: How many files were not read, by reason.
        split: How training and held-out texts were parted: `by file`, `by record` or `the last tenth` of the only file;
            `the last tenth of book.txt` where the other files are too small to judge on.
        features: Facts about the sequences of its FASTA files, where the user names some.
    """

    root: Path
    training: tuple[Document, ...]
    held_out: tuple[Document, ...]
    left_out: dict[str, int] = field(default_factory=dict)
    split: str = "by file"
    features: SequenceFeatures | None = None

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

    @property
    def kinds(self) -> dict[str, dict[str, int]]:
        """Files and bytes of each kind, the kind with the most bytes first."""
        files: dict[str, set[str]] = {}
        sizes: dict[str, int] = {}
        for document in (*self.training, *self.held_out):
            files.setdefault(document.kind, set()).add(document.path)
            sizes[document.kind] = sizes.get(document.kind, 0) + document.num_bytes
        ordered = sorted(sizes, key=lambda kind: (-sizes[kind], kind))
        return {kind: {"files": len(files[kind]), "bytes": sizes[kind]} for kind in ordered}

    def to_dict(self) -> dict[str, Any]:
        """What a report says of the data."""
        return {
            "root": str(self.root),
            "fingerprint": self.fingerprint,
            "kinds": self.kinds,
            "split": self.split,
            "training_files": len({document.path for document in self.training}),
            "training_documents": len(self.training),
            "training_bytes": sum(document.num_bytes for document in self.training),
            "held_out_files": _names(self.held_out),
            "num_held_out_files": len({document.path for document in self.held_out}),
            "held_out_documents": len(self.held_out),
            "held_out_bytes": sum(document.num_bytes for document in self.held_out),
            "left_out": self.left_out,
        }


def _names(documents: Sequence[Document]) -> list[str]:
    """Files, and the parts of files, neighbours joined."""
    parts: list[tuple[str, int, int | None]] = []
    for document in documents:
        if parts and document.stop is not None and parts[-1][0] == document.path and parts[-1][2] == document.first:
            parts[-1] = (document.path, parts[-1][1], document.stop)
        else:
            parts.append((document.path, document.first, document.stop))
    names = [Document(path, 0, "", first, stop).name for path, first, stop in parts]
    more = len(names) - _NAMED_PARTS
    return names if more <= 0 else [*names[:_NAMED_PARTS], f"and {more} more; the fingerprint fixes them"]


def sequence_ids(corpus: Corpus) -> set[str]:
    """The ids of the FASTA records of a corpus: the first word of each header."""
    documents = [document for document in (*corpus.training, *corpus.held_out) if document.kind == "fasta"]
    return {name for text in corpus.texts(documents) for name in re.findall(r"^>[ \t]*(\S+)", text, re.MULTILINE)}


def read_corpus(
    data: Path,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    max_bytes: int = 1 << 28,
) -> Corpus:
    """Finds the text files of a directory, gzipped ones too, and keeps a tenth of them back.

    Which files are kept back, and the order of all, follow from their content alone, so they are the same wherever
    and whenever the directory is read. A file of the same content as another counts once. A single file is split by
    record where its records do not follow from each other (FASTA, FASTQ, chats); of any other its last tenth is kept
    back, from the start of a line on, in a log from the start of a record on, and from the next character on where no
    line begins near a tenth. So is each large file of a directory whose other files are less than a twentieth of it;
    these are trained on. Hidden files and directories are not read, nor are the directories of studies. No file is
    held in memory whole: long ones are several documents.

    Args:
        data: A directory, or one file.
        include: Names of files to read, with `*` and `?`; all text files where empty.
        exclude: Names of files and directories to leave out, likewise.
        max_bytes: Most bytes of text to read.

    Raises:
        DataError: There is no such place, no text in it, or a file is broken: a gzip that is cut short, FASTA without
            a header, FASTQ or a chat with a line that breaks its rules.
    """
    if not data.exists():
        raise DataError(f"--data {data} does not exist; name a directory of text files, or one file.")
    root = data.parent if data.is_file() else data
    paths = [data] if data.is_file() else list(_files(data, include, exclude))
    if not paths:
        wanted = f" named {' or '.join(include)}" if include else ""
        raise DataError(f"--data {data} holds no file{wanted}; name a directory of text files, or one file.")
    units, scans, left_out = _read_files(root, paths, max_bytes)
    if not units:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise DataError(f"--data {data} holds no text: of {len(paths)} files, {reasons}. Give files of UTF-8 text.")
    if len(units) == 1:
        digest, unit = next(iter(units.items()))
        parted = _split_file(root, unit, scans[digest])
        if isinstance(parted, str):
            raise DataError(f"--data {root / unit.documents[0].path} {parted}")
        training, held_out, split = parted
    else:
        training, held_out, split = _split_files(root, units, scans)
    return Corpus(root=root, training=training, held_out=held_out, left_out=left_out, split=split)


def _read_files(
    root: Path, paths: Sequence[Path], max_bytes: int
) -> tuple[dict[str, _Unit], dict[str, Scan], dict[str, int]]:
    """Each file as a unit, by the digest of its content, and how many were left out for which reason."""
    same, beyond = "same content as another", "beyond --max-bytes"
    left_out = dict.fromkeys(["binary", "empty", same, beyond, "unreadable", *_LEFT_OUT.values()], 0)
    units: dict[str, _Unit] = {}
    scans: dict[str, Scan] = {}
    total = 0
    for path in paths:
        found = scan(path, max_bytes - total)
        if isinstance(found, str):
            left_out[_LEFT_OUT.get(found, found)] += 1
            continue
        if not found.whole:
            left_out[beyond] += 1
            if units or not found.size:
                continue
        if found.digest in scans:
            left_out[same] += 1
            continue
        name = path.relative_to(root).as_posix()
        if found.kind == "fastq":
            record_starts(path, found.kind, found.size)  # refuses what is broken
        documents = list(_documents(root, name, found))
        units[found.digest], scans[found.digest] = _Unit.of(documents), found
        total += found.size
    return units, scans, {reason: count for reason, count in left_out.items() if count}


def _documents(root: Path, name: str, found: Scan) -> Iterator[Document]:
    if found.kind == "chat":
        return chat_documents(root, name, found.size)
    return iter(documents_of(root, name, found))


def _files(root: Path, include: Sequence[str], exclude: Sequence[str]) -> Iterator[Path]:
    for directory, names, files in os.walk(root):
        if "lock" in files and _OUTPUTS & set(files):
            # what a study or the demo wrote is no text to learn from, and changes while it runs
            names[:] = []
            continue
        names[:] = sorted(name for name in names if _wanted(name, exclude))
        for name in sorted(files):
            if _wanted(name, exclude) and (not include or any(fnmatch(name, glob) for glob in include)):
                yield Path(directory, name)


def _wanted(name: str, exclude: Sequence[str]) -> bool:
    return not name.startswith(".") and name not in _SKIPPED and not any(fnmatch(name, glob) for glob in exclude)


def _split(units: Sequence[_Unit]) -> tuple[tuple[Document, ...], tuple[Document, ...]]:
    """Keeps units back in the order of their digests until they hold a tenth of the bytes.

    One that would take more than twice that share stays in training, unless it is the only choice.
    """
    total = sum(unit.num_bytes for unit in units)
    held_out: list[_Unit] = []
    kept = 0
    for unit in units:
        if kept >= HELD_OUT_SHARE * total or len(held_out) == len(units) - 1:
            break
        if kept + unit.num_bytes <= 2 * HELD_OUT_SHARE * total:
            held_out.append(unit)
            kept += unit.num_bytes
    if not held_out:
        held_out = [min(units, key=lambda unit: (unit.num_bytes, unit.digest))]
    chosen = {unit.digest for unit in held_out}
    training = [document for unit in units if unit.digest not in chosen for document in unit.documents]
    return tuple(training), tuple(document for unit in held_out for document in unit.documents)


def _split_files(root: Path, units: Mapping[str, _Unit], scans: Mapping[str, Scan]) -> _Parted:
    """Keeps files back, or of each large file a part, where the small ones together are less than half a share."""
    order = sorted(units)
    training, held_out = _split([units[digest] for digest in order])
    kept = sum(document.num_bytes for document in held_out)
    if kept >= HELD_OUT_SHARE / 2 * sum(unit.num_bytes for unit in units.values()):
        return training, held_out, "by file"
    # what was not kept back is too large for it: such a file is split as an only one is; the small ones are trained on
    small = {document.path for document in held_out}
    parts: dict[str, _Parted] = {}
    for digest in order:
        if units[digest].documents[0].path not in small:
            parted = _split_file(root, units[digest], scans[digest])
            if not isinstance(parted, str):
                parts[digest] = parted
    if not parts:
        return training, held_out, "by file"
    training = tuple(d for digest in order for d in (parts[digest][0] if digest in parts else units[digest].documents))
    split = " and ".join(f"{how} of {units[digest].documents[0].path}" for digest, (_, _, how) in parts.items())
    return training, tuple(document for _, kept_back, _ in parts.values() for document in kept_back), split


def _split_file(root: Path, unit: _Unit, found: Scan) -> _Parted | str:
    """A file split by record where its records stand alone, otherwise before its last tenth; or why it cannot be."""
    path = unit.documents[0].path
    if found.kind == "chat":
        blocks = {document.digest: _Unit.of([document]) for document in unit.documents}
    elif found.kind in ("fasta", "fastq"):
        blocks = {block.digest: block for block in _blocks(root, path, found)}
    else:
        blocks = {}
    if len(blocks) > 1:
        training, held_out = _split([blocks[digest] for digest in sorted(blocks)])
        share = sum(document.num_bytes for document in held_out) / sum(block.num_bytes for block in blocks.values())
        # a few large records, such as chromosomes, leave no choice of about a tenth
        if share <= 2 * HELD_OUT_SHARE or found.kind == "chat":
            return training, held_out, "by record"
    if found.kind == "chat":
        return "holds one conversation; give more of them."
    cut = cut_before(root / path, found.kind, int(found.size * (1 - HELD_OUT_SHARE)), found.size)
    if not 0 < cut < found.size:
        return "is one file of one line; split it, or give more files."
    documents = documents_of(root, path, found, cut=cut)
    training = tuple(document for document in documents if document.first < cut)
    return training, tuple(document for document in documents if document.first >= cut), "the last tenth"


def _blocks(root: Path, path: str, found: Scan) -> Iterator[_Unit]:
    """Neighbouring records of a file, enough blocks of them to choose from."""
    starts = [*record_starts(root / path, found.kind, found.size).tolist(), found.size]
    wanted = min(_BLOCK_BYTES, found.size // _BLOCKS)
    first = 0
    for stop in starts[1:]:
        if stop - first >= wanted or stop == found.size:
            yield _Unit.of(documents_of(root, path, found, first=first, stop=stop))
            first = stop
