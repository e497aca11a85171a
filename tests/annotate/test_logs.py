"""Logs: records, times and levels in the formats that files really have, and none of it too early."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openwork import compile_layout, parse_pattern
from openwork.annotate import LEVELS, byte_offsets, log_records, offsets_of
from openwork.testing.annotators import assert_causal_annotator

# the format, a record in it, its time as far as it is said, its level
FORMATS = [
    ("ISO", "2026-11-26T14:37:45.123+01:00 app ready", "6T14:37:45.123+01:00", None),
    ("dpkg", "2026-11-26 14:37:45 status installed libc6:amd64 2.36-9", "6 14:37:45", None),
    ("Python", "2026-11-26 14:37:45,123 - web - WARNING - slow", "6 14:37:45,123", "warning"),
    ("Python, no time", "ERROR:root:it broke", "", "error"),
    ("log4j", "2026-11-26 14:37:45,123 [main] INFO  com.example.Main - up", "6 14:37:45,123", "info"),
    ("logback", "14:37:45.123 [main] DEBUG com.example.Main - up", "5.123", "debug"),
    ("syslog", "Nov 26 14:37:45 host sshd[812]: error: no hostkey", "14:37:45", "error"),
    ("syslog, one digit", "Nov  6 04:07:45 host kernel: usb 1-1: new device", "04:07:45", None),
    ("RFC 3164", "<34>Oct 11 22:14:15 mymachine su: 'su root' failed", "1 22:14:15", "critical"),
    ("RFC 5424", "<165>1 2003-10-11T22:14:15.003Z host app - ID47 - said", "1T22:14:15.003Z", "notice"),
    ("journald", "2026-11-26T14:37:45+0000 host systemd[1]: Started it.", "6T14:37:45+0000", None),
    (
        "Apache error",
        "[Wed Oct 11 14:32:52.123456 2000] [core:error] [pid 3] no",
        "1 14:32:52.123456 2000",
        "error",
    ),
    ("nginx error", "2024/01/02 10:11:12 [crit] 123#0: *1 failed", "2 10:11:12", "critical"),
    ("access", '127.0.0.1 - - [10/Oct/2000:13:55:36 -0700] "GET /a HTTP/1.0" 200 2326', "0:13:55:36 -0700", "info"),
    (
        "access, not found",
        'h.example.org - bob [10/Oct/2000:13:55:36 -0700] "GET / HTTP/1.0" 404 9',
        None,
        "warning",
    ),
    ("access, failed", '::1 - - [10/Oct/2000:13:55:36 -0700] "POST / HTTP/1.1" 502 9 "-"', None, "error"),
    ("klog", "E1126 14:37:45.123456    1234 server.go:12] no", "5.123456", "error"),
    ("kernel", "[    0.123456] Linux version 6.1", "]", None),
    ("JSON", '{"time":"2026-11-26T14:37:45Z","level":"error","msg":"no"}', "2026-11-26T14:37:45Z", "error"),
    ("pino", '{"level":50,"time":1700000000000,"msg":"no"}', "1700000000000", "error"),
    ("logfmt", "time=2026-11-26T14:37:45Z level=warn msg=slow", "2026-11-26T14:37:45Z", "warning"),
    ("bracketed", "[FATAL] disk gone", "", "critical"),
    ("alternatives", "update-alternatives 2026-11-26 14:37:45: run with --install", "6 14:37:45", None),
    ("npm", "2026-11-26 npm ERR! code", "6 ", "error"),
]
NAMES = [name for name, *_ in FORMATS]
TRACE = 'Traceback (most recent call last):\n  File "a.py", line 3, in <module>\nValueError: 2 is no number\n'


def parts(text: str) -> list[str]:
    """The text of each record, by its label."""
    record = log_records(text, byte_offsets(text)).labels["record"]
    return ["".join(np.array(list(text))[record == number]) for number in range(record.max() + 1)]


@pytest.mark.parametrize(("name", "line", "time", "level"), FORMATS, ids=NAMES)
def test_a_record_in_each_format_is_found_between_others(
    name: str, line: str, time: str | None, level: str | None
) -> None:
    before = "2026-01-01 00:00:00 first\n"
    text = f"{before}{line}\n{TRACE}2026-01-01 00:00:01 last\n"
    notes = log_records(text, byte_offsets(text))
    begun = notes.flags["record_start"].nonzero()[0]
    assert len(begun) == 3 and len(before) <= begun[1] < len(before) + len(line)
    # it goes through the stack trace, up to where the next one is certain
    record = notes.labels["record"]
    assert (
        record[len(before) + len(line)] == 1
        and (record[text.index("Trace") : text.index("2026-01-01 00:00:01")] == 1).all()
    )
    here = slice(len(before), len(before) + len(line))
    stamped = "".join(sign for sign, flag in zip(line, notes.flags["timestamp"][here], strict=True) if flag)
    if time is not None:
        assert stamped == time
    levels = set(notes.labels["level"][here].tolist()) - {-1}
    assert levels == ({LEVELS[level]} if level else set())
    error = notes.flags["error"]
    assert error[text.index("Trace")] == (level in ("error", "critical"))
    assert not error[-3]


@pytest.mark.parametrize("line", [line for _, line, *_ in FORMATS], ids=NAMES)
def test_no_token_knows_the_future_in_any_format(line: str) -> None:
    text = f"caf\u00e9\n{line}\n{TRACE}{line}"
    assert_causal_annotator(log_records, text, byte_offsets(text), max_cuts=None)


def test_words_that_are_no_level_are_none() -> None:
    lines = ["the ERROR_CODE is", "std::error::Kind", "no error here", "an errors: list", "INFORMATIVE text", "x=error"]
    for line in lines:
        text = f"2026-01-01 00:00:00 {line}\n"
        assert log_records(text, byte_offsets(text)).labels["level"].max() == -1, line


def test_lines_are_records_until_a_format_is_known() -> None:
    assert parts("starting\nloading\n  more\n2026-01-01 00:00:00 a\nraw\n2026-01-01 00:00:01 b\n") == [
        "starting\n",
        "loading\n  more\n",
        "2026-01-01 00:00:00 a\nraw\n2026-01-0",
        "1 00:00:01 b\n",
    ]


def test_a_log_of_this_system_has_a_record_a_line() -> None:
    path = Path("/var/log/dpkg.log")
    if not path.is_file() or path.stat().st_size < 1000:
        pytest.skip("this system has no dpkg.log")
    text = path.read_text(encoding="utf-8")[:60_000].rpartition("\n")[0] + "\n"
    notes = log_records(text, byte_offsets(text))
    lines = text.splitlines()
    assert notes.labels["record"].max() + 1 == notes.flags["record_start"].sum() == len(lines)
    # "14:36:25" and what comes before it from the last digit of the date on
    assert notes.flags["timestamp"].sum() == 10 * len(lines)
    assert_causal_annotator(log_records, text[:9000], byte_offsets(text[:9000]), max_cuts=150)


def test_tokens_of_several_characters_know_no_more(bpe) -> None:
    text = "".join(f"{line}\n" for _, line, *_ in FORMATS) + TRACE
    assert_causal_annotator(log_records, text, offsets_of(bpe.encode(text)), max_cuts=None)


def test_the_pattern_for_logs_reads_these_facts() -> None:
    text = "2026-01-01 00:00:00 ERROR bad disk\n" + "2026-01-01 00:00:01 INFO fine\n" * 20
    offsets = byte_offsets(text)
    mask = compile_layout(
        parse_pattern("logs(window=7, sinks=1)"),
        q_len=len(text),
        kv_len=len(text),
        annotations=log_records(text, offsets),
    ).to_dense()[0, 0]
    last = "".join(sign for sign, seen in zip(text, mask[-1], strict=True) if seen)
    assert last == "2 bad disk\n2026-01-01 00:00:01 INFO fine\n".replace("2026-01-0", "2026-01-0", 1)


PIECES = (
    [line for _, line, *_ in FORMATS]
    + ["\n"] * 20
    + ["  at x", "error", ": ", "ERROR", "[", "]", "2026-", "\u00e9", "\r"]
)


@given(text=st.lists(st.sampled_from(PIECES), max_size=8).map("".join), cut=st.integers(0, 30))
def test_no_token_knows_the_future(text: str, cut: int) -> None:
    text = text[cut:][:160]
    assert_causal_annotator(log_records, text, byte_offsets(text), max_cuts=None)
