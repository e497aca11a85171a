"""What files are, by name and by content: files of this machine among them."""

from __future__ import annotations

import json
import random
import sysconfig
from pathlib import Path

import pytest

from openwork.study.kinds import FEATURES, NAMES, annotator_of_kind, kind_of

ROOT = Path(__file__).parents[2]
CHAT = json.dumps({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]})
LOG = "2026-01-01 10:00:00 INFO a\n2026-01-01 10:00:01 INFO b\n  more\n2026-01-01 10:00:02 INFO c\n"
FOUND = [
    ("a.py", "x = 1", "python"),
    ("tool", "#!/usr/bin/env python3\nprint()", "python"),
    ("tool", "#!/bin/sh\nls", "code"),
    ("a.c", "int main(void)", "c"),
    ("a.rs", "fn main() {", "code"),
    ("Makefile", "all:\n", "code"),
    ("a.md", "# A", "markdown"),
    ("a.html", "x", "html"),
    ("page", "<!DOCTYPE html>\n<html>", "html"),
    ("ls.1.gz", '.\\" by\n.TH LS 1\n', "manual"),
    ("version.1", "the first version", "text"),
    ("book.txt", "It was a dark night.\n" * 9, "text"),
    ("a.log", "anything", "log"),
    ("app.out", LOG, "log"),
    ("events", '{"time":"2026-01-01T10:00:00Z","level":"info"}\n' * 3, "log"),
    ("values.csv", "2026-01-01,3\n2026-01-02,4\n2026-01-03,4\n", "text"),
    ("diary", "2026-01-01 I went out.\nIt rained.\nNothing else.\nReally.\nNo.\n", "text"),
    ("app.txt", "2026-01-01 10:00:00 INFO a\n" * 9 + "\tat f\n" + "2026-01-01 10:00:01 INFO b\n" * 2, "log"),
    ("messages.txt.gz", "Jan  1 10:00:00 host sshd[1]: hello\n" * 9, "log"),
    ("app.text", LOG, "log"),
    ("dmesg.txt", "[    0.000000] Linux version 6\n[    1.250000] usb 1-1: new device\n" * 3, "log"),
    # eight of ten lines are enough for a name that says nothing, not for a text
    ("talk.txt", "2026-01-01 10:00:00 INFO a\n" * 8 + "Hello.\nYou.\nMe.\n", "text"),
    ("talk", "2026-01-01 10:00:00 INFO a\n" * 8 + "Hello.\nYou.\nMe.\n", "log"),
    # dates alone are a diary or a table, and a table of times is none either
    ("diary.txt", "2026-01-01 I went out.\n2026-01-02 It rained.\n2026-01-03 No.\n2026-01-04 So.\n", "text"),
    ("values.txt", "2026-01-01,3\n2026-01-02,4\n2026-01-03,4\n2026-01-04,4\n", "text"),
    ("values.tsv", "2026-01-01 10:00:00\t3\n" * 9, "text"),
    ("chat.jsonl", f"{CHAT}\n{CHAT}\n", "chat"),
    ("chat", f"{CHAT}\n", "chat"),
    ("rows.jsonl", '{"a": 1}\n{"a": 2}\n', "text"),
    ("g.fa.gz", ">x\nAC", "fasta"),
    ("seq", ">x some\nACGTACGTACGT\n", "fasta"),
    ("mail", "> he wrote\nand I answered\n", "text"),
    ("reads", "@r\nACGT\n+\nIIII\n", "fastq"),
    ("g.gff3.gz", "##gff-version 3", FEATURES),
    ("g.bed", "chr1\t1\t2", FEATURES),
]


@pytest.mark.parametrize(("name", "head", "kind"), FOUND)
def test_a_file_is_known_by_name_and_content(name: str, head: str, kind: str) -> None:
    assert kind_of(name, head) == kind
    assert kind in NAMES or kind == FEATURES


def test_a_long_first_line_that_is_cut_is_still_a_chat() -> None:
    long = json.dumps({"messages": [{"role": "user", "content": "x" * 500}]})
    assert kind_of("a.jsonl", long[:200]) == "chat"


def test_files_of_this_machine_are_what_they_are() -> None:
    stdlib = Path(sysconfig.get_path("stdlib"))
    for path in random.Random(1).sample(sorted(stdlib.glob("*.py")), 20):
        assert kind_of(path.name, path.read_text(errors="replace")[:4000]) == "python"
        # without its name Python code is nothing else that has rules
        assert kind_of("x", path.read_text(errors="replace")[:4000]) in ("text", "python", "code")
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        assert kind_of(path.name, path.read_text()[:4000]) == "markdown"
        assert kind_of("x.txt", path.read_text()[:4000]) == "text"


def test_the_log_of_this_system_is_one_by_its_content_alone() -> None:
    path = Path("/var/log/dpkg.log")
    if not path.is_file() or path.stat().st_size < 1000:
        pytest.skip("this system has no dpkg.log")
    assert kind_of("data", path.read_text()[:8000]) == "log"


def test_a_book_is_no_log_whatever_it_is_named() -> None:
    stdlib = Path(sysconfig.get_path("stdlib"))
    books = [stdlib / "LICENSE.txt", *stdlib.glob("lib2to3/*.txt"), *stdlib.glob("pydoc_data/topics.py")]
    found = [path for path in books if path.is_file()]
    for path in found:
        assert kind_of("book.txt", path.read_text(errors="replace")[:60_000]) == "text"
    assert found
    # a letter that quotes some lines of a log
    letter = "Dear friend,\nthis is what it said:\n" + LOG * 3 + "Yours,\nme\n"
    assert kind_of("letter.txt", letter) == "text"


def test_kinds_have_the_annotators_of_their_names() -> None:
    found = {kind: annotator_of_kind(kind) for kind in NAMES}
    assert {kind for kind, annotator in found.items() if annotator is None} == {"code", "text"}
    assert found["chatml"] is found["chat"]
