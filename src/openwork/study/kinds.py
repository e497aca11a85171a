"""What the user's files are, by their names and by what they begin with."""

from __future__ import annotations

import json
import re
from pathlib import PurePath

from openwork.annotate import Annotator, annotator_for, annotator_named
from openwork.annotate.log_lines import find_level, find_time, start_of_record
from openwork.errors import AnnotationError

__all__ = ["FEATURES", "NAMES", "RECORDS", "annotator_of_kind", "kind_of"]

NAMES = {
    "python": "Python code",
    "c": "C code",
    "code": "code",
    "markdown": "Markdown",
    "html": "HTML",
    "rst": "reStructuredText",
    "manual": "manual pages",
    "log": "logs",
    "fasta": "FASTA",
    "fastq": "FASTQ",
    "chat": "chats (JSONL)",
    "chatml": "chats (ChatML)",
    "text": "plain text",
}
"""What each kind is called."""

RECORDS = {"fasta": "records", "fastq": "reads", "chat": "conversations"}
"""Kinds whose parts do not follow from each other, and what the parts are called: one file is split by them."""

FEATURES = "features"
"""The kind of GFF3 and BED files: nothing to learn from, but facts about sequences."""

_ANNOTATORS = {"chatml": "chat"}
_FEATURE_SUFFIXES = frozenset({".gff", ".gff3", ".gtf", ".bed"})
_TEXT_SUFFIXES = frozenset({".txt", ".text"})
_TABLE_SUFFIXES = frozenset({".csv", ".tsv"})
_CODE_SUFFIXES = frozenset(
    ".cc .hh .cpp .hpp .cxx .hxx .inc .m .mm .cu .cuh .java .kt .scala .go .rs .js .mjs .jsx .ts .tsx .rb .pl "
    ".pm .php .swift .cs .fs .hs .ml .mli .lua .r .jl .sh .bash .zsh .sql .f .f90 .f95 .pas .asm .s .v .vhd .tcl .el "
    ".lisp .clj .ex .exs .erl .dart .zig .nim .groovy .gradle .cmake .proto .y .l".split()
)
_CODE_NAMES = frozenset({"makefile", "dockerfile", "cmakelists.txt", "gnumakefile", "kconfig"})
_MANUAL = re.compile(r"^[.'](?:\\\"|TH|Dd|Dt|so|SH|Sh|de|if|ie|ig|nr|\s)", re.MULTILINE)
_SEQUENCE = re.compile(r"[A-Z*.-]{10,}|[acgtun-]{10,}")
_HTML = re.compile(r"\s*(?:<!--.*?-->\s*)?(?:<!doctype html|<html[\s>])", re.IGNORECASE | re.DOTALL)
_LOG_LINES = 60
_LOG_SHARE = 0.5
_NAMED_TEXT_LOG_SHARE = 0.9
_TIME_OF_DAY = re.compile(r"\d\d:\d\d|\[ *\d+\.\d{6}\]")
"""Of a clock, or the kernel's seconds since it began."""


def annotator_of_kind(kind: str) -> Annotator | None:
    """The annotator of files of that kind; `None` where there is none."""
    try:
        return annotator_named(_ANNOTATORS.get(kind, kind))
    except AnnotationError:
        return None


def kind_of(name: str, head: str) -> str:
    """The kind of a file: a key of `NAMES`, or `FEATURES`.

    What the name says counts where the content does not speak against it; the content decides where the name says
    nothing.

    Args:
        name: The file's name; `.gz` behind it says only that it is packed.
        head: Its first characters, some thousands.

    Examples:
        >>> kind_of("genome.fa.gz", ">chr1"), kind_of("notes", "To do"), kind_of("main.c", "int main(void)")
        ('fasta', 'text', 'c')
    """
    name = PurePath(name[:-3] if name.lower().endswith(".gz") else name).name
    suffix = PurePath(name).suffix.lower()
    if suffix in _FEATURE_SUFFIXES:
        return FEATURES
    if suffix == ".chatml":
        return "chatml"
    try:
        known = annotator_for(name).name
    except AnnotationError:
        known = ""
    if known and (known != "manual" or _MANUAL.search(head)):
        return known
    if suffix in _CODE_SUFFIXES or name.lower() in _CODE_NAMES:
        return "code"
    return _kind_of_content(suffix, head)


def _kind_of_content(suffix: str, head: str) -> str:
    lines = [line for line in head.splitlines() if line.strip()]
    first = lines[0] if lines else ""
    if first.startswith("{") and _is_conversation(first):
        return "chat"
    if first.startswith(">") and len(lines) > 1 and _SEQUENCE.fullmatch(lines[1].strip()):
        return "fasta"
    if first.startswith("@") and len(lines) > 3 and lines[2].startswith("+") and len(lines[1]) == len(lines[3]):
        return "fastq"
    if _HTML.match(head):
        return "html"
    if first.startswith("#!"):
        return "python" if "python" in first else "code"
    if suffix not in _TABLE_SUFFIXES and _is_log(lines[:-1] or lines, named_text=suffix in _TEXT_SUFFIXES):
        return "log"
    return "text"


def _is_conversation(line: str) -> bool:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        # a long first line is cut by the end of what was read
        return bool(re.match(r"\{\s*\"(?:messages|conversations)\"\s*:\s*\[", line))
    return isinstance(value, dict) and any(isinstance(value.get(key), list) for key in ("messages", "conversations"))


def _is_log(lines: list[str], *, named_text: bool) -> bool:
    """Whether at least half of the lines that could begin a record do so, and have a time or a level.

    Of a file that is named as text nine tenths must, with a time of day or a level: a diary has dates too.
    """
    chosen = [line for line in lines[:_LOG_LINES] if line[:1] not in (" ", "\t")]
    begun = [line for line in chosen if start_of_record(line, 0, len(line)) and _is_told(line, named_text)]
    share = _NAMED_TEXT_LOG_SHARE if named_text else _LOG_SHARE
    return len(begun) >= 2 and len(begun) >= share * len(chosen)


def _is_told(line: str, named_text: bool) -> bool:
    time = find_time(line, 0, len(line))
    if time and (not named_text or _TIME_OF_DAY.search(line, 0, time[1])):
        return True
    return not line.startswith("{") and find_level(f"{line}\n", 0, len(line) + 1) is not None
