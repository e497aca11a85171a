"""What a study says of its data, and the plans that it proposes for it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from openwork.cli.main import main
from openwork.errors import StudyError
from openwork.study import StudyConfig, StudyResult, run
from openwork.study.corpus import Corpus, Document, read_corpus
from openwork.study.folder import StudyFolder
from openwork.study.notes import require_annotations
from openwork.study.prepare import load_data
from openwork.study.proposals import data_in_words, held_out_in_words, proposals
from openwork.study.report import study_report
from openwork.study.trainer import StudyData

TURNS = [[{"role": "user", "content": f"{n}^2?"}, {"role": "assistant", "content": f"{n * n}!"}] for n in range(60)]
CHAT = "".join(json.dumps({"messages": turns}) + "\n" for turns in TURNS)


def sequences(sign: str) -> str:
    rng = random.Random(3)
    bases = ["".join(rng.choices("ACGT", k=60)) for _ in range(80)]
    if sign == "@":
        return "".join(f"@r{n}\n{line}\n+\n{'I' * 60}\n" for n, line in enumerate(bases))
    return "".join(f">c{n} x\n{line}\n" for n, line in enumerate(bases))


FILES = {
    "python": ("a.py", "def f(x):\n    return x\n\n\ny = f(3)\n" * 50),
    "c": ("a.c", "int f(int x)\n{\n    return x;\n}\n" * 50),
    "code": ("a.go", "func f(x int) int {\n    return x\n}\n" * 50),
    "markdown": ("a.md", "# Title\n\nText, and more.\n\n" * 50),
    "log": ("a.log", "2026-01-01 10:00:00 ERROR no disk\n" * 50),
    "fasta": ("a.fa", sequences(">")),
    "fastq": ("a.fq", sequences("@")),
    "chat": ("a.jsonl", CHAT),
    "text": ("a.txt", "It was a dark and stormy night.\n" * 50),
}
PLANS = {
    "python": ("source code", "Linked(name='use')"),
    "c": ("source code", "Linked(name='use')"),
    "code": ("first keys", "First(keys=4)"),
    "markdown": ("headings", "Keys(name='heading')"),
    "log": ("logs", "Keys(name='error')"),
    "fasta": ("dna", "Same(name='record') & (Window(before=63, after=0) | Dilated(before=255, after=0, step=15))"),
    "fastq": ("reads", "Causal() & Same(name='record')"),
    "chat": ("turns", "Same(name='turn')"),
    "text": ("first keys", "First(keys=4)"),
}


@pytest.mark.parametrize("kind", FILES)
def test_each_kind_has_a_plan_that_reads_what_its_annotator_gives(tmp_path: Path, kind: str) -> None:
    name, text = FILES[kind]
    (tmp_path / name).write_text(text)
    corpus = read_corpus(tmp_path)
    assert list(corpus.kinds) == [kind]
    window, own = proposals(corpus, 256)
    assert (window.name, repr(window.plan.default)) == ("window", "Causal() & Window(before=63, after=0)")
    assert own.name == PLANS[kind][0] and PLANS[kind][1] in repr(own.plan.default)
    require_annotations(corpus.training, own.plan.needs)


def test_of_many_kinds_the_largest_have_plans(tmp_path: Path) -> None:
    for name, text in FILES.values():
        whole = name in ("a.md", "a.log", "a.fa")
        (tmp_path / name).write_text(text if whole else "".join(text.splitlines(keepends=True)[:4]))
    plans = {plan.name: repr(plan.plan.default) for plan in proposals(read_corpus(tmp_path), 4096)}
    assert set(plans) == {"window", "headings", "logs", "dna"}
    # beside other kinds, whose tokens have no record, there is a window for all
    assert plans["dna"].startswith("Causal() & (Window(before=255, after=0) | Same(name='record') & Dil")


def test_windows_fit_the_sequences(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(FILES["text"][1])
    corpus = read_corpus(tmp_path)
    assert ["before=15" in repr(proposals(corpus, n)[0].plan.default) for n in (32, 64, 65)] == [True] * 3
    assert "before=255" in repr(proposals(corpus, 100_000)[0].plan.default)


def test_the_data_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text(FILES["log"][1])
    (tmp_path / "b.md").write_text(FILES["markdown"][1])
    (tmp_path / "x.bin").write_bytes(b"\0")
    corpus = read_corpus(tmp_path)
    copies = {"shared": 0.5, "documents": 1, "share": 1.0, "names": ["b.md"], "threshold": 0.5, "shingle_bytes": 32}
    lines = data_in_words(corpus.to_dict() | {"near_duplicates": copies}, proposals(corpus, 1024))
    assert lines[0] == "Data: logs (1 file, 1.7 kB), Markdown (1 file, 1.3 kB); 1.3 kB held out, by file."
    assert lines[1] == "Left out: 1 binary."
    assert lines[2] == (
        "Near-duplicates: 1 of 1 held-out document, 100.0% of their bytes, such as b.md (at least 50% of each is in "
        "the training text); 50% of the held-out pieces of 32 bytes are in the training text."
    )
    assert lines[3].startswith("Proposed for it") and len(lines) == 7
    none = data_in_words(corpus.to_dict() | {"near_duplicates": copies | {"documents": 0, "names": []}})
    assert none[2].startswith("Near-duplicates: none of 1 held-out document; 50% of")


def words_of(data: Path) -> str:
    return held_out_in_words(read_corpus(data).to_dict())


def test_what_is_held_out_is_told_as_what_it_is(tmp_path: Path) -> None:
    book = "".join(f"It was night {number}.\n" for number in range(900))
    (tmp_path / "book.txt").write_text(book)
    assert words_of(tmp_path) == "the last tenth of book.txt"
    (tmp_path / "small").write_text("a note\n")
    assert words_of(tmp_path) == "the last tenth of book.txt"
    (tmp_path / "other.txt").write_text(book.replace("night", "day"))
    (tmp_path / "small").write_text("a note\n" * 500)
    assert words_of(tmp_path) == "1 file"
    for number in range(1200):
        (tmp_path / f"{number}.md").write_text(f"{number}\n" * 1000)
    corpus = read_corpus(tmp_path, include=("*.md",))
    assert held_out_in_words(corpus.to_dict()) == f"{len(corpus.held_out)} files" and len(corpus.held_out) > 100
    many = Corpus(tmp_path, (), tuple(Document(f"{n}.md", 1, f"{n}") for n in range(1500)))
    # a record names 1,000 of them
    assert held_out_in_words(many.to_dict()) == "1,500 files"


def test_records_that_are_held_out_are_told_as_such(tmp_path: Path) -> None:
    chats = [json.dumps({"messages": [{"role": "user", "content": f"{n}?"}]}) for n in range(50)]
    (tmp_path / "c.jsonl").write_text("\n".join(chats) + "\n")
    count = len(read_corpus(tmp_path).held_out)
    assert words_of(tmp_path) == f"{count} conversations of c.jsonl" and count >= 5
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "r.fastq").write_text(sequences("@") * 20)
    blocks = len(read_corpus(tmp_path / "r").held_out)
    assert words_of(tmp_path / "r") == f"{blocks} runs of reads of r.fastq" and blocks > 1
    (tmp_path / "r" / "README").write_text("Reads\n")
    assert words_of(tmp_path / "r") == "whole records of r.fastq"


def test_proposals_are_trained_where_no_plan_is_given(tmp_path: Path, tiny: Callable[..., StudyConfig]) -> None:
    (tmp_path / "logs").mkdir()
    lines = [f"2026-01-01 10:00:{n % 60:02} {'ERROR' if n % 9 == 0 else 'INFO'} job {n * n}\n" for n in range(200)]
    (tmp_path / "logs" / "a.log").write_text("".join(lines))
    events: list[dict[str, Any]] = []
    config = tiny(data=tmp_path / "logs", steps=2)
    result = run(config, propose=True, report=events.append)
    assert [row.name for row in result.rows] == ["dense", "window", "logs"]
    assert result.data["kinds"]["log"]["files"] == 1 and result.data["split"] == "the last tenth"
    assert 0 < result.data["near_duplicates"]["shared"] < 1
    (told,) = (event["lines"] for event in events if event["event"] == "data")
    assert told[0].startswith("Data: logs (1 file") and any("logs: Causal()" in line for line in told)
    # the same command goes on with the same plans, and what was found stays
    again = run(config, propose=True, report=events.append)
    assert again.to_dict()["data"] == result.to_dict()["data"] and {"event": "resume", "out": str(config.out)} in events
    mine = run(tiny(data=tmp_path / "logs", steps=1, out=tmp_path / "mine"), patterns=["Causal()"], propose=True)
    assert [row.name for row in mine.rows] == ["dense", "Causal()"]


def _shown(result: StudyResult, data: StudyData, plan: str) -> tuple[int, float]:
    """Pairs in the report's picture of a plan, and its coverage after the first layer."""
    found = study_report(result, data).figures
    pairs = sum(shown["pairs"] for shown in found["pictures"]["plans"] if shown["plan"] == plan)
    return pairs, found["reach"]["plans"][plan]["coverage"][0]


def test_features_are_read_where_they_are_named(
    tmp_path: Path, tiny: Callable[..., StudyConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "dna").mkdir()
    (tmp_path / "dna" / "a.fa").write_text(sequences(">"))
    rows = [f"c{n}\tx\texon\t5\t40\t.\t+\t.\tID={n}\n" for n in range(80)]
    (tmp_path / "a.gff3").write_text("".join(rows))
    pattern = "exons: Causal() & (Window(before=15) | Keys('exon') & Same('record'))"
    config = tiny(data=tmp_path / "dna", steps=1, features=tmp_path / "a.gff3")
    windows = run(tiny(data=tmp_path / "dna", steps=1, out=tmp_path / "w"), patterns=["Causal() & Window(before=15)"])
    result = run(config, patterns=[pattern])
    assert result.rows[1].density > windows.rows[1].density
    data = load_data(config, StudyFolder(config.out))
    blind = replace(data, corpus=replace(data.corpus, features=None))
    (pairs, coverage), (fewer, less) = (_shown(result, seen, "exons") for seen in (data, blind))
    assert pairs > fewer and coverage > less
    arguments = ["study", "--data", str(tmp_path / "dna"), "--pattern", pattern, "--out", str(tmp_path / "no")]
    assert main(arguments) == 2
    assert "the plan reads the flag 'exon', which no annotator gives for this data" in capsys.readouterr().err
    (tmp_path / "a.gff3").write_text("".join(rows).replace("\t40\t", "\t41\t"))
    message = r"holds a study with other options: --features \(the file of .*a.gff3 has changed\). Repeat it as it was"
    with pytest.raises(StudyError, match=message):
        run(config, patterns=[pattern])
    (tmp_path / "a.gff3").write_text("".join(rows).replace("c", "chr"))
    assert main([*arguments, "--features", str(tmp_path / "a.gff3")]) == 2
    assert "no id is in both" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a.fa", "a.jsonl"])
def test_broken_data_is_one_line_and_a_code(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_text(f"{CHAT}{{\n" if name == "a.jsonl" else "ACGT\n")
    assert main(["study", "--data", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1 and output.err.startswith("error: ")
    assert ("line 61 is no JSON" in output.err) if name == "a.jsonl" else ("has no header" in output.err)
    assert not (tmp_path / "out").exists()
