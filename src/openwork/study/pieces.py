"""Files as documents: whole where they are small, else in pieces that end where a line or a record does."""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from openwork.annotate import render_chat
from openwork.annotate.log_lines import start_of_record
from openwork.errors import AnnotationError, DataError
from openwork.study.kinds import FEATURES, kind_of
from openwork.study.sources import read_chunks, read_range

__all__ = [
    "NOT_UTF8",
    "Document",
    "Scan",
    "chat_documents",
    "cut_before",
    "documents_of",
    "lines_of_file",
    "read_text",
    "scan",
]

PIECE_BYTES = 1 << 20
"""Most bytes of a document, roughly: a longer file is several."""
NOT_UTF8 = "not UTF-8"
"""Why text in another encoding is left out."""
_HEAD_BYTES = 1 << 16
_CONTROLS = np.isin(np.arange(256), [*range(8), *range(14, 27), *range(28, 32), 127])
"""Control characters that text hardly has: not backspace, tab, line ends, form feed and escape."""
_MOST_CONTROLS = 0.02
"""Largest share of them in text; in packed bytes it is a tenth."""
_LINE_BYTES = 1 << 14
_LINE_HEAD = 200
"""Bytes of a line that say whether it begins a log's record."""


@dataclass(frozen=True)
class Document:
    """One text: a file, or a part of it.

    Attributes:
        path: Where it is, below the data directory.
        num_bytes: UTF-8 bytes of its text.
        digest: SHA-256 of its text.
        first: First byte in its file, of the text where that is gzipped.
        stop: End in its file; `None` for the whole file.
        kind: What it is, a key of `openwork.study.kinds.NAMES`; empty where only the name says it.
        inside: Of a piece that begins inside a FASTA record: the record's id, and the bases before the piece.
    """

    path: str
    num_bytes: int
    digest: str
    first: int = 0
    stop: int | None = None
    kind: str = ""
    inside: tuple[str, int] | None = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.path if self.stop is None else f"{self.path} bytes {self.first}-{self.stop}"


@dataclass(frozen=True)
class Scan:
    """What one pass over a file found out.

    Attributes:
        kind: What it is.
        size: Bytes of its text that are read.
        digest: SHA-256 of them.
        whole: Whether that is all of it.
    """

    kind: str
    size: int
    digest: str
    whole: bool


def read_text(root: Path, document: Document) -> str:
    """The text of a document, as it is in its file: line ends are kept, a chat is rendered.

    Raises:
        DataError: The file is gone, cannot be read, or is no longer what it was.
    """
    content = read_range(root / document.path, document.first, document.stop)
    text = content.decode("utf-8", errors="replace")
    if document.kind == "chat":
        try:
            text = _rendered(text)
        except (ValueError, AnnotationError) as error:
            raise DataError(f"{document.name} is no conversation any more ({error}); the file changed.") from None
        content = text.encode("utf-8")
    if hashlib.sha256(content).hexdigest() != document.digest:
        size = f"{len(content):,} bytes now, {document.num_bytes:,} then"
        raise DataError(
            f"{root / document.name} has changed since it was first read ({size}), so its tokens are of another text; "
            "change it back, or start anew with --fresh."
        )
    return text


def scan(path: Path, limit: int) -> Scan | str:
    """Reads a file once, in chunks: its kind, size and digest, or why it is left out (`binary`, `not UTF-8`, ...).

    Of a file with more than `limit` bytes of text, the lines (or records) that fit are read.

    Raises:
        DataError: It is gzipped and broken, or it breaks the rules of its kind.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    digest, size, kind, blank, chunk = hashlib.sha256(), 0, "", True, b""
    try:
        for chunk in read_chunks(path):
            if not kind:
                kind = _kind(path, chunk[:_HEAD_BYTES])
                if kind in ("binary", NOT_UTF8, FEATURES):
                    return kind
            decoder.decode(chunk)
            blank = blank and not chunk.strip()
            size += len(chunk)
            if size > limit:
                return Scan(kind, *_beginning(path, kind, limit), whole=False)
            digest.update(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return NOT_UTF8 if _like_text(chunk) else "binary"
    except OSError:
        return "unreadable"
    return "empty" if blank else Scan(kind, size, digest.hexdigest(), whole=True)


def _like_text(content: bytes) -> bool:
    """Whether bytes that are no UTF-8 may be text in another encoding: no NUL, few control characters."""
    values = np.frombuffer(content, dtype=np.uint8)
    return bool(values.all() and _CONTROLS[values].sum() <= _MOST_CONTROLS * len(values))


def _is_utf16(head: bytes) -> bool:
    if not head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return False
    try:
        return "\0" not in codecs.getincrementaldecoder("utf-16")().decode(head)
    except UnicodeDecodeError:
        return False


def _kind(path: Path, head: bytes) -> str:
    if b"\0" in head:
        return NOT_UTF8 if _is_utf16(head) else "binary"
    text = head.decode("utf-8", errors="ignore")
    kind = kind_of(path.name, text)
    sign = {"fasta": ">", "fastq": "@"}.get(kind, "")
    if text.strip() and not text.lstrip().startswith(sign):
        line = text.lstrip().splitlines()[0]
        raise DataError(
            f"{path} has no header: its first line is {line[:40]!r}, and a record of {kind.upper()} begins with "
            f"{sign!r}. Give it one, or name the file otherwise."
        )
    return kind


def _beginning(path: Path, kind: str, limit: int) -> tuple[int, str]:
    """Size and digest of the lines or records that lie in the first `limit` bytes."""
    start = max(0, limit - PIECE_BYTES)
    content = read_range(path, start, limit)
    size = start + _last_cut(content, kind, least=len(content) // 2) if limit else 0
    digest = hashlib.sha256()
    for first in range(0, size, PIECE_BYTES):
        digest.update(read_range(path, first, min(size, first + PIECE_BYTES)))
    return size, digest.hexdigest()


def documents_of(
    root: Path, path: str, found: Scan, *, first: int = 0, stop: int | None = None, cut: int = 0
) -> list[Document]:
    """A file as documents, each no longer than `PIECE_BYTES` where lines allow it.

    Args:
        root: The data directory.
        path: The file, below it.
        found: What is known of it.
        first: Where to begin: the start of a line or of a record.
        stop: Where to end; `None` for the end of what is read.
        cut: A place where a document must end.
    """
    stop = found.size if stop is None else stop
    if found.whole and (first, stop, cut) == (0, found.size, 0) and found.size <= PIECE_BYTES:
        return [Document(path, found.size, found.digest, kind=found.kind)]
    documents: list[Document] = []
    inside: tuple[str, int] | None = None
    while first < stop:
        end = cut if first < cut < stop else stop
        content = read_range(root / path, first, min(end, first + PIECE_BYTES))
        if first + len(content) < end:
            content = content[: _last_cut(content, found.kind)]
        if not content:
            raise DataError(f"{root / path} is shorter than it was a moment ago; do not change it while it is read.")
        digest = hashlib.sha256(content).hexdigest()
        inside = None if content[:1] == b">" else inside
        documents.append(Document(path, len(content), digest, first, first + len(content), found.kind, inside))
        if found.kind == "fasta":
            inside = _place_after(content, inside)
        first += len(content)
    return documents


def _last_cut(content: bytes, kind: str, *, least: int = 0) -> int:
    """Where to cut, from `least` on: before the last record, else after the last line, else between characters."""
    if kind == "fasta" and (cut := content.rfind(b"\n>", least) + 1):
        return cut
    cut = content.rfind(b"\n", least) + 1
    if kind == "log":
        line, seen = content.rfind(b"\n", 0, max(0, cut - 1)) + 1, 0
        while line and seen < _LINE_BYTES and not _begins_record(content[line : line + _LINE_HEAD]):
            seen, line = cut - line, content.rfind(b"\n", 0, line - 1) + 1
        cut = line if line and seen < _LINE_BYTES else cut
    if cut:
        return cut
    cut = len(content)
    while cut > 1 and content[cut - 1] & 0xC0 == 0x80:
        cut -= 1
    # the character that may be cut off goes to the next piece
    return max(1, cut - 1) if content[cut - 1] >= 0xC0 else cut


def _begins_record(line: bytes) -> bool:
    text = line.split(b"\n", 1)[0].decode("utf-8", errors="replace")
    return start_of_record(text, 0, len(text)) is not None


def cut_before(path: Path, kind: str, wanted: int, size: int) -> int:
    """Where to cut a file near `wanted`: where a line begins (of a log: a record), if one does near enough.

    Near enough is half of what lies behind `wanted`, so that a tenth stays about a tenth, and `PIECE_BYTES` at most.
    The first such place behind `wanted` is taken, else the last one before it. Where there is none, in a file of long
    lines, the cut is at the next character.

    Args:
        path: The file.
        kind: What it is.
        wanted: Where a cut is wanted.
        size: Bytes of the file's text.
    """
    reach = min(PIECE_BYTES, (size - wanted) // 2)
    # a few bytes more, for the end of a character and for the beginning of a line that says what it is
    content = read_range(path, wanted, min(size, wanted + reach + _LINE_HEAD))
    cut = content.find(b"\n", 0, reach) + 1
    if kind == "log":
        line = cut
        while line and not _begins_record(content[line : line + _LINE_HEAD]):
            line = content.find(b"\n", line, reach) + 1
        cut = line or cut
    if cut:
        return wanted + cut
    start = max(0, wanted - reach)
    if before := read_range(path, start, wanted).rfind(b"\n") + 1:
        return start + before
    while cut < len(content) and content[cut] & 0xC0 == 0x80:
        cut += 1
    return wanted + cut


def _place_after(content: bytes, inside: tuple[str, int] | None) -> tuple[str, int] | None:
    """Where in a sequence the text that follows `content` begins."""
    header = content.rfind(b"\n>") + 1
    sequence, before = inside if inside is not None else ("", 0)
    start = 0
    if content[header : header + 1] == b">":
        line = content[header + 1 :].split(b"\n", 1)[0]
        start, before = header + 1 + len(line), 0
        words = line.decode("utf-8", errors="replace").split(maxsplit=1)
        sequence = words[0] if words else ""
    return sequence, before + int((np.frombuffer(content[start:], dtype=np.uint8) > ord(" ")).sum())


def chat_documents(root: Path, path: str, size: int) -> Iterator[Document]:
    """The conversations in the first `size` bytes of a JSONL file, one document each.

    Raises:
        DataError: A line is no JSON or no conversation; the message names it.
    """
    first = 0
    for number, line in enumerate(lines_of_file(root / path), start=1):
        if first >= size:
            return
        if line.strip():
            try:
                content = _rendered(line).encode("utf-8")
            except AnnotationError as error:
                raise DataError(f"{root / path} line {number}: {error}") from None
            except (ValueError, RecursionError) as error:
                reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
                raise DataError(f"{root / path} line {number} is no JSON ({reason}); mend or remove it.") from None
            digest = hashlib.sha256(content).hexdigest()
            yield Document(path, len(content), digest, first, first + len(line), "chat")
        first += len(line)


def _rendered(line: str | bytes) -> str:
    """The conversation of a line as text; half of a pair of surrogates, which JSON can write, is a question mark."""
    return render_chat(json.loads(line)).encode("utf-8", errors="replace").decode("utf-8")


def lines_of_file(path: Path) -> Iterator[bytes]:
    """The lines of a file with their endings, read in chunks."""
    rest: list[bytes] = []
    for chunk in read_chunks(path):
        head, newline, tail = chunk.rpartition(b"\n")
        if not newline:
            rest.append(chunk)
            continue
        yield from _split(b"".join([*rest, head, newline]))
        rest = [tail]
    if last := b"".join(rest):
        yield last


def _split(content: bytes) -> list[bytes]:
    return [part + b"\n" for part in content.split(b"\n")[:-1]]
