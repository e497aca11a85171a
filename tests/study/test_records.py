"""One file: split by record where records stand alone, read in pieces where it is long, refused where it is broken."""

from __future__ import annotations

import gzip
import json
import os
import random
from pathlib import Path

import pytest

from openwork.annotate import render_chat
from openwork.errors import DataError
from openwork.study import pieces
from openwork.study.corpus import Corpus, read_corpus, read_text, sequence_ids


def genome(count: int = 40, lines: int = 30) -> str:
    rng = random.Random(count)
    return "".join(
        f">chr{number} of {count}\n"
        + "".join("".join(rng.choices("ACGT", k=60)) + "\n" for _ in range(rng.randrange(1, lines)))
        for number in range(count)
    )


def reads(count: int = 300) -> str:
    rng = random.Random(count)
    bases = ["".join(rng.choices("ACGT", k=rng.randrange(20, 90))) for _ in range(count)]
    return "".join(f"@r{n}\n{b}\n+\n{'@' * len(b)}\n" for n, b in enumerate(bases))


def conversations(count: int = 50) -> list[dict[str, list[dict[str, str]]]]:
    turns = [[{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"{n}!"}] for n in range(count)]
    return [{"messages": pair} for pair in turns]


def both(corpus: Corpus) -> tuple[list[str], list[str]]:
    return list(corpus.texts(corpus.training)), list(corpus.texts(corpus.held_out))


@pytest.mark.parametrize("name", ["g.fa", "g.fa.gz", "r.fastq", "r.fastq.gz"])
def test_sequences_are_split_between_records(tmp_path: Path, name: str) -> None:
    text, sign = (genome(), ">") if ".fa" in name and "fastq" not in name else (reads(), "@r")
    (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    corpus = read_corpus(tmp_path)
    training, held_out = both(corpus)
    assert corpus.split == "by record" and all(part.startswith(sign) for part in (*training, *held_out))
    assert sorted("".join(training + held_out).split("\n")) == sorted(text.split("\n"))
    assert 0.1 <= sum(map(len, held_out)) / len(text) <= 0.2
    # packed or not, it is the same data
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / name.removesuffix(".gz")).write_text(text)
    assert read_corpus(tmp_path / "other").fingerprint == corpus.fingerprint


def test_two_chromosomes_leave_the_last_tenth(tmp_path: Path) -> None:
    text = ">one\n" + "ACGTTGCA\n" * 500 + ">two\n" + "TTGACCAT\n" * 600
    (tmp_path / "g.fa").write_text(text)
    corpus = read_corpus(tmp_path)
    training, held_out = both(corpus)
    assert corpus.split == "the last tenth" and "".join(training + held_out) == text
    assert held_out[0].startswith("TTGACCAT\n") and 0.08 < len(held_out[0]) / len(text) < 0.12
    assert corpus.held_out[0].inside == ("two", 8 * held_out_line(text, held_out[0]))


def held_out_line(text: str, held_out: str) -> int:
    return text[: len(text) - len(held_out)].split(">two\n")[1].count("\n")


@pytest.mark.parametrize("form", ["messages", "conversations"])
def test_each_conversation_is_a_document(tmp_path: Path, form: str) -> None:
    chats = conversations()
    if form == "conversations":
        chats = [
            {form: [{"from": turn["role"], "value": turn["content"]} for turn in chat["messages"]]} for chat in chats
        ]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, chats)) + "\n\n")
    corpus = read_corpus(tmp_path)
    training, held_out = both(corpus)
    assert corpus.split == "by record" and len(training) + len(held_out) == 50 and len(held_out) >= 5
    assert sorted(training + held_out) == sorted(map(render_chat, chats))
    assert all(d.num_bytes == len(t.encode()) for d, t in zip(corpus.training, training, strict=True))


def test_half_a_character_in_a_chat_is_a_question_mark(tmp_path: Path) -> None:
    chats = [{"messages": [{"role": "user", "content": f"{n} \ud83d!"}]} for n in range(20)]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, chats)))
    corpus = read_corpus(tmp_path)
    texts = list(corpus.texts(corpus.training))
    assert all(" ?!<|im_end|>" in text for text in texts)
    assert [len(text.encode()) for text in texts] == [document.num_bytes for document in corpus.training]


def test_a_log_is_cut_where_a_record_begins(tmp_path: Path) -> None:
    text = "".join(f"2026-01-01 10:00:{n % 60:02} INFO {n}\nTrace {n}\n  at x\n" for n in range(300))
    (tmp_path / "app.log").write_text(text)
    corpus = read_corpus(tmp_path)
    training, held_out = both(corpus)
    assert corpus.split == "the last tenth" and "".join(training + held_out) == text
    assert held_out[0].startswith("2026-01-01") and 0.08 < len(held_out[0]) / len(text) < 0.12


@pytest.mark.parametrize("name", ["g.fa", "g.fa.gz", "a.log", "a.txt", "line.txt"])
def test_a_long_file_is_several_documents_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", 5000)
    text = {
        "g": genome(8, 400),
        "a": "".join(f"2026-01-01 10:00:00 INFO caf\u00e9 {n}\nTrace\n" for n in range(900)),
        "line": "\u00e9\u4e2d\U0001f600" * 3000,
    }[name.split(".")[0]]
    content = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    (tmp_path / "other.txt").write_text("other\n" * (len(content) // 50))
    corpus = read_corpus(tmp_path)
    documents = [d for d in (*corpus.training, *corpus.held_out) if d.path == name]
    parts = [read_text(tmp_path, document) for document in documents]
    assert "".join(parts) == text and len(parts) > 3
    assert max(d.num_bytes for d in documents) <= 5000
    assert len({d.path for d in corpus.training} & {d.path for d in corpus.held_out}) == 0
    if name == "a.log":
        assert all(part.startswith("2026") for part in parts)
    if name.startswith("g"):
        assert sequence_ids(corpus) == {f"chr{n}" for n in range(8)}
        for document, part in zip(documents, parts, strict=True):
            assert (document.inside is None) == part.startswith(">")
            if document.inside is not None:
                name_of, before = document.inside
                sequence = text.split(f">{name_of} ")[1].split("\n", 1)[1].replace("\n", "")
                assert sequence[before:].startswith(part.split("\n")[0])


def test_no_more_is_read_than_asked_for(tmp_path: Path) -> None:
    (tmp_path / "g.fa").write_text(genome())
    corpus = read_corpus(tmp_path, max_bytes=20_000)
    assert 15_000 < sum(d.num_bytes for d in (*corpus.training, *corpus.held_out)) <= 20_000
    assert corpus.left_out == {"beyond --max-bytes": 1} and corpus.split == "by record"
    assert all(text.startswith(">") for part in both(corpus) for text in part)


def test_a_mixed_directory_is_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "g.fa").write_text(genome(5))
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, conversations())))
    (tmp_path / "a.py").write_text("def f():\n    return 1\n" * 99)
    (tmp_path / "app.log").write_text("2026-01-01 10:00:00 INFO x\n" * 99)
    (tmp_path / "genes.gff3").write_text("chr1\tx\tgene\t1\t9\t.\t.\t.\t.\n")
    facts = read_corpus(tmp_path).to_dict()
    assert set(facts["kinds"]) == {"fasta", "chat", "python", "log"} and facts["split"] == "by file"
    assert facts["left_out"] == {"features of sequences (name them with --features)": 1}
    assert facts["training_files"] + len(facts["held_out_files"]) >= 4


BROKEN = [
    ("cut.fa.gz", gzip.compress(genome().encode())[:-99], "cut.fa.gz ends before its gzip stream does, after"),
    (
        "bare.fa",
        b"ACGT\nACGT\n",
        "bare.fa has no header: its first line is 'ACGT', and a record of FASTA begins with '>'",
    ),
    ("bare.fq", b"ACGT\n", "bare.fq has no header: .*a record of FASTQ begins with '@'"),
    ("r.fq", b"@a\nAC\n+\nII\nGG\n", "r.fq line 5 is no FASTQ: a record begins with '@', and this is 'GG'"),
    ("r.fq", b"@a\nAC\n+\nIII\n", "r.fq line 4 is no FASTQ: a quality of 3 signs for a sequence of 2"),
    ("r.fq", b"@a\nAC\n+\nII\n@b\nAC\n+\nI\n", "r.fq line 8 is no FASTQ: the file ends inside record 2"),
    (
        "c.jsonl",
        b'{"messages": [{"role": "user", "content": "x"}]}\n\n{"messages": [}\n',
        r"c.jsonl line 3 is no JSON \(Expecting value at column 15\); mend or remove it",
    ),
    (
        "c.jsonl",
        b'{"messages": [{"role": "user", "content": "x"}]}\n{"text": "x"}\n',
        'c.jsonl line 2: a conversation is an object with a list "messages"',
    ),
    ("c.jsonl", b'{"messages": [{"role": "user", "content": "x"}]}\n', "c.jsonl holds one conversation; give more of"),
]


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize(("name", "content", "message"), BROKEN)
def test_a_broken_file_is_refused_by_its_line(
    tmp_path: Path, name: str, content: bytes, message: str, alone: bool
) -> None:
    (tmp_path / name).write_bytes(content)
    if not alone:
        if "one conversation" in message:
            return
        (tmp_path / "other.txt").write_text("other\n" * (len(content) // 50))
    with pytest.raises(DataError, match=message) as caught:
        read_corpus(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_real_genome_is_read_in_pieces() -> None:
    path = Path(os.environ.get("OPENWORK_GENOME", ""))
    if not path.is_file():
        pytest.skip("OPENWORK_GENOME names no FASTA file")
    corpus = read_corpus(path, max_bytes=8 << 20)
    assert set(corpus.kinds) == {"fasta"} and corpus.held_out
    assert max(d.num_bytes for d in corpus.training) <= pieces.PIECE_BYTES
    for document in (*corpus.training[:3], *corpus.held_out[:3]):
        text = read_text(corpus.root, document)
        assert text.startswith(">") or document.inside is not None
        assert len(text.encode()) == document.num_bytes
