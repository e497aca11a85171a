"""Which files are read, and which are kept back."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest

from openwork.errors import DataError
from openwork.study.corpus import read_corpus


def fill(root: Path, count: int = 30) -> Path:
    for number in range(count):
        (root / f"{number:02}.txt").write_text(f"text {number}\n" * (20 + number % 7))
    return root


def test_files_are_split_and_none_is_in_both(tmp_path: Path) -> None:
    corpus = read_corpus(fill(tmp_path))
    training, held_out = ({d.path for d in part} for part in (corpus.training, corpus.held_out))
    assert not training & held_out
    assert len(training | held_out) == 30
    share = sum(d.num_bytes for d in corpus.held_out) / sum(path.stat().st_size for path in tmp_path.iterdir())
    assert 0.1 <= share <= 0.2


def test_the_split_follows_from_the_texts_alone(tmp_path: Path) -> None:
    first = fill(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    second = tmp_path / "elsewhere" / "deep"
    second.mkdir()
    for path in reversed(sorted(first.glob("*.txt"))):
        shutil.copy(path, second / f"other-{path.name}")
    one, other = read_corpus(first, exclude=("elsewhere",)), read_corpus(second)
    assert [d.digest for d in one.held_out] == [d.digest for d in other.held_out]
    assert one.fingerprint == other.fingerprint
    (second / "other-00.txt").write_text("changed\n" * 30)
    assert read_corpus(second).fingerprint != other.fingerprint


def test_what_is_no_text_is_left_out_and_counted(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0\0")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 and more")
    (tmp_path / "blank.txt").write_text(" \n")
    (tmp_path / "copy.txt").write_text((tmp_path / "00.txt").read_text())
    (tmp_path / ".hidden").write_text("secret")
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "x.txt").write_text("cached")
    corpus = read_corpus(tmp_path)
    assert corpus.left_out == {"binary": 1, NOT_UTF8: 1, "empty": 1, "same content as another": 1}
    assert len(corpus.training) + len(corpus.held_out) == 3


NOT_UTF8 = "not UTF-8 (iconv -f latin1 -t utf-8 FILE > NEW converts Latin-1)"


def test_text_in_another_encoding_is_told_from_what_is_no_text(tmp_path: Path) -> None:
    # one byte of Latin-1 far behind the beginning, also in a gzip, a character that is cut off, and UTF-16
    (tmp_path / "a.c").write_bytes(b"int f(void) { return 1; }\n" * 90_000 + b"/* caf\xe9 */\n")
    (tmp_path / "b.log.gz").write_bytes(gzip.compress("\u00fcber\n".encode("latin-1") * 20))
    (tmp_path / "c.txt").write_bytes("caf\u00e9".encode()[:-1])
    (tmp_path / "d.txt").write_bytes("It was night.\n".encode("utf-16"))
    # what has no NUL by chance, but control characters as no text has
    (tmp_path / "e.bin").write_bytes(bytes(range(1, 256)) * 20)
    (tmp_path / "f.txt").write_bytes(b"caf\xe9\0" * 9)
    with pytest.raises(DataError) as error:
        read_corpus(tmp_path)
    assert f"holds no text: of 6 files, 2 binary, 4 {NOT_UTF8}. Give files of UTF-8 text" in str(error.value)


def test_names_choose_files(tmp_path: Path) -> None:
    fill(tmp_path, 4)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "a.txt").write_text("a test\n")
    (tmp_path / "b.md").write_text("# title\n")
    corpus = read_corpus(tmp_path, include=("*.txt", "*.rst"), exclude=("tests", "03*"))
    assert sorted(d.path for d in (*corpus.training, *corpus.held_out)) == ["00.txt", "01.txt", "02.txt"]


def test_too_many_bytes_are_left_out(tmp_path: Path) -> None:
    corpus = read_corpus(fill(tmp_path), max_bytes=1000)
    assert sum(d.num_bytes for d in (*corpus.training, *corpus.held_out)) <= 1000
    assert corpus.left_out["beyond --max-bytes"] > 0


def test_of_a_long_line_as_much_is_read_as_fits(tmp_path: Path) -> None:
    (tmp_path / "g.fa").write_text(">chr1\n" + "ACGT" * 1000)
    corpus = read_corpus(tmp_path, max_bytes=1000)
    assert sum(d.num_bytes for d in (*corpus.training, *corpus.held_out)) == 1000
    assert corpus.left_out == {"beyond --max-bytes": 1}


@pytest.mark.parametrize("sizes", [(10, 10_000), (5000, 5000), (1, 1, 100_000)])
def test_something_is_always_kept_back(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    for number, size in enumerate(sizes):
        (tmp_path / f"{number}.txt").write_text(f"{number}" * size)
    corpus = read_corpus(tmp_path)
    assert corpus.training and corpus.held_out


BOOK = "".join(f"It was night {number} of the tale.\n" for number in range(2000))


def test_a_small_file_beside_a_book_is_not_all_that_is_held_out(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text(BOOK)
    (tmp_path / "LICENSE").write_text("You may read this book.\n" * 7)
    corpus = read_corpus(tmp_path)
    assert corpus.split == "the last tenth of book.txt" == corpus.to_dict()["split"]
    assert {d.path for d in corpus.held_out} == {"book.txt"}
    assert {d.path for d in corpus.training} == {"book.txt", "LICENSE"}
    (held_out,) = corpus.texts(corpus.held_out)
    texts = {d.path: text for d, text in zip(corpus.training, corpus.texts(corpus.training), strict=True)}
    assert texts["book.txt"] + held_out == BOOK and len(held_out) / len(BOOK) == pytest.approx(0.1, rel=0.02)
    # the same texts under other names are split alike
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a").write_text(BOOK)
    (tmp_path / "other" / "b").write_text("You may read this book.\n" * 7)
    assert read_corpus(tmp_path / "other").fingerprint == corpus.fingerprint


def test_every_file_that_is_too_large_to_be_held_out_is_split(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / f"{name}.txt").write_text(BOOK.replace("night", name))
    for number in range(4):
        (tmp_path / f"note{number}").write_text(f"a note {number}\n" * 20)
    corpus = read_corpus(tmp_path)
    assert corpus.split.count("the last tenth of ") == 3 and corpus.split.endswith(".txt")
    assert {d.path for d in corpus.held_out} == {"one.txt", "two.txt", "three.txt"}
    sizes = [sum(d.num_bytes for d in part) for part in (corpus.training, corpus.held_out)]
    assert sizes[1] / sum(sizes) == pytest.approx(0.1, rel=0.05)


def test_a_large_file_of_records_is_split_by_record(tmp_path: Path) -> None:
    (tmp_path / "r.fastq").write_text("".join(f"@r{n}\n{'ACGT' * 9}\n+\n{'I' * 36}\n" for n in range(900)))
    (tmp_path / "README").write_text("Reads of a run.\n")
    corpus = read_corpus(tmp_path)
    assert corpus.split == "by record of r.fastq" and {d.path for d in corpus.held_out} == {"r.fastq"}


@pytest.mark.parametrize(("small", "split"), [(4200, "by file"), (2500, "the last tenth of book.txt")])
def test_files_are_split_as_files_where_that_holds_out_half_of_the_wanted_share(
    tmp_path: Path, small: int, split: str
) -> None:
    (tmp_path / "book.txt").write_text(BOOK)
    (tmp_path / "small.txt").write_text("s" * (small - 1) + "\n")
    assert len(BOOK) == 60_890
    assert read_corpus(tmp_path).split == split


def test_what_cannot_be_split_leaves_the_split_by_file(tmp_path: Path) -> None:
    chat = {"messages": [{"role": "user", "content": "word " * 500}]}
    (tmp_path / "c.jsonl").write_text(json.dumps(chat) + "\n")
    (tmp_path / "note").write_text("a note\n")
    corpus = read_corpus(tmp_path)
    assert corpus.split == "by file" and [d.path for d in corpus.held_out] == ["note"]


def test_one_file_is_split_at_a_line(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text("".join(f"line {number} caf\u00e9\n" for number in range(1000)), encoding="utf-8")
    corpus = read_corpus(path)
    (training,), (held_out,) = (list(corpus.texts(part)) for part in (corpus.training, corpus.held_out))
    assert training + held_out == path.read_text(encoding="utf-8")
    assert held_out.startswith("line 9")
    assert len(held_out) / len(training) == pytest.approx(1 / 9, rel=0.01)


def test_a_line_start_near_the_wanted_cut_is_taken_on_either_side(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    # 1,000 bytes, of which the last 140 are one line: no line begins behind byte 900, and 860 is near enough
    path.write_text("x" * 19 + "\n" + ("a line of 20 bytes.\n" * 42) + "z" * 139 + "\n")
    corpus = read_corpus(path)
    assert list(corpus.texts(corpus.held_out)) == ["z" * 139 + "\n"]


@pytest.mark.parametrize(
    "text", ["A title\n" + "w" * 991 + "\n", "w" * 989 + "\nan end...\n", "w" * 700 + "\n" + "w" * 299]
)
def test_a_line_start_far_from_a_tenth_is_not_taken(tmp_path: Path, text: str) -> None:
    path = tmp_path / "title.txt"
    path.write_text(text)
    corpus = read_corpus(path)
    (training,), (held_out,) = (list(corpus.texts(part)) for part in (corpus.training, corpus.held_out))
    assert training + held_out == path.read_text() and len(held_out) == 100
    assert corpus.split == "the last tenth"


def test_fasta_on_one_line_is_split_inside_its_sequence(tmp_path: Path) -> None:
    bases = "ACGTTGCA" * 1250
    (tmp_path / "g.fa").write_text(f">chr1 of 1\n{bases}\n")
    corpus = read_corpus(tmp_path)
    (training,), (held_out,) = (list(corpus.texts(part)) for part in (corpus.training, corpus.held_out))
    assert len(held_out) == pytest.approx(1001, abs=2)
    # the held-out text begins inside the record, and says where
    sequence = training.removeprefix(">chr1 of 1\n")
    assert sequence + held_out == bases + "\n"
    assert corpus.held_out[0].inside == ("chr1", len(sequence))


def test_one_long_line_is_split_between_characters(tmp_path: Path) -> None:
    (tmp_path / "line.txt").write_text("\u00e9\u4e2d" * 1001, encoding="utf-8")
    corpus = read_corpus(tmp_path)
    both = "".join(text for part in (corpus.training, corpus.held_out) for text in corpus.texts(part))
    assert both == "\u00e9\u4e2d" * 1001


def test_places_without_text_are_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--data .*absent does not exist; name a directory of text files, or one file"):
        read_corpus(tmp_path / "absent")
    with pytest.raises(DataError, match="holds no file; name a directory"):
        read_corpus(tmp_path)
    (tmp_path / "a.bin").write_bytes(b"\0\1\2")
    with pytest.raises(DataError, match=r"holds no text: of 1 files, 1 binary. Give files of UTF-8 text"):
        read_corpus(tmp_path)
    with pytest.raises(DataError, match=r"holds no file named \*.py or \*.pyi; name"):
        read_corpus(tmp_path, include=("*.py", "*.pyi"))
    (tmp_path / "a.bin").write_text("x")
    with pytest.raises(DataError, match="is one file of one line; split it, or give more files"):
        read_corpus(tmp_path)


@pytest.mark.parametrize("text", ["other", "longer than it was", ""])
def test_a_file_that_changed_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_text("words")
    (tmp_path / "b.txt").write_text("other words")
    corpus = read_corpus(tmp_path)
    (tmp_path / "a.txt").write_text(text)
    message = rf"a\.txt has changed since it was first read \({len(text)} bytes now, 5 then\), so its tokens are of an"
    with pytest.raises(DataError, match=message):
        list(corpus.texts((*corpus.training, *corpus.held_out)))


def test_a_conversation_that_changed_is_named(tmp_path: Path) -> None:
    line = '{"messages": [{"role": "user", "content": "%s"}]}\n'
    (tmp_path / "chats.jsonl").write_text("".join(line % f"word {number}" for number in range(8)))
    corpus = read_corpus(tmp_path)
    (tmp_path / "chats.jsonl").write_text("".join(line % f"wort {number}" for number in range(8)))
    with pytest.raises(DataError, match=r"chats\.jsonl bytes \d+-\d+ has changed since it was first read"):
        list(corpus.texts(corpus.training))


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    corpus = read_corpus(fill(tmp_path, 3))
    (tmp_path / corpus.training[0].path).unlink()
    with pytest.raises(DataError, match=r"cannot read .*txt: No such file"):
        list(corpus.texts(corpus.training))


@pytest.mark.parametrize("output", ["study.json", "openwork-report.html", "act-2.json"])
def test_what_a_study_or_the_demo_wrote_is_no_data(tmp_path: Path, output: str) -> None:
    whole = read_corpus(fill(tmp_path))
    place = tmp_path / "openwork-out"
    place.mkdir()
    for name in (output, "lock", "notes.txt"):
        (place / name).write_text("written by a study\n" * 40)
    assert read_corpus(tmp_path).fingerprint == whole.fingerprint
    (place / "lock").unlink()
    assert read_corpus(tmp_path).fingerprint != whole.fingerprint
