"""Logs: where each record begins, its time and its level."""

from __future__ import annotations

from itertools import pairwise

from openwork.annotate.base import TextAnnotator
from openwork.annotate.characters import CharacterFacts, to_tokens
from openwork.annotate.headings import lines_of
from openwork.annotate.log_lines import LEVELS, find_level, find_time, start_of_record
from openwork.patterns.annotations import Annotations, IntArray
from openwork.patterns.declarations import Declarations

__all__ = ["LEVELS", "log_records"]


def _facts(text: str) -> CharacterFacts:
    starts: list[int] = []
    times: list[tuple[int, int]] = []
    levels: list[tuple[int, int]] = []
    formatted = False
    for line in lines_of(text):
        stop = line.start + len(line.text)
        found = start_of_record(text, line.start, stop)
        # until a format has been seen, every line begins a record, unless it is indented
        begins = not formatted and line.text[:1] not in ("", " ", "\t")
        if found is not None:
            formatted = True
        if not (begins or found):
            continue
        first = line.start if begins else found.known - 1 if found else 0
        starts.append(first)
        if (time := find_time(text, line.start, stop)) is not None:
            # said of the line before it is known to begin a record, it would be said too early
            times.append((max(time[0], first), time[1]))
        if found is not None and found.level >= 0:
            levels.append((found.known - 1, found.level))
        elif (level := find_level(text, line.start, min(stop + 1, len(text)))) is not None:
            levels.append((max(level[0], first), level[1]))
    edges = [0, *starts[1:], len(text)] if starts else [0, len(text)]
    spans = list(pairwise(edges))
    ends = [next_start for _, next_start in spans]
    grave = []
    record = 0
    for first, value in levels:
        while ends[record] <= first:
            record += 1
        grave.append((first, ends[record], value))
    return CharacterFacts(
        flags={
            "record_start": [(first, first + 1) for first in starts],
            "timestamp": times,
            "error": [(first, stop) for first, stop, value in grave if value >= LEVELS["error"]],
        },
        labels={"record": [(first, stop, number) for number, (first, stop) in enumerate(spans)], "level": grave},
    )


def _annotate(text: str, offsets: IntArray) -> Annotations:
    return to_tokens(_facts(text), text, offsets)


log_records = TextAnnotator("log", _annotate, causal=True, declares=Declarations(nondecreasing_labels={"record"}))
"""Records of a log: labels `record` and `level`, flags `record_start`, `timestamp` and `error`.

Common formats are known: ISO times (dpkg, journald, Python's logging, log4j, PostgreSQL), syslog with and without its
priority, web servers' access and error logs, klog, the kernel's, JSON lines, logfmt, and a level at the start of a
line. A line that begins in none of these ways (a stack trace, an indented line) belongs to the record before. Until the
first line in a known format every line that is not indented is a record.

A record begins at the character that shows it to be one, such as the last digit of a date; what stands before that in
its line counts to the record before. `level` (a value of `LEVELS`) and, from `LEVELS["error"]` on, flag `error` are on
what follows the word that names the level, through the record's last line. Web servers' answers 4xx are warnings, 5xx
errors.
"""
