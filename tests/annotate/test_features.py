"""Features of sequences: the bases that a GFF3 or BED file means, and no others."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openwork.annotate import byte_offsets, read_features, require_causal
from openwork.errors import AnnotationError
from openwork.testing.annotators import assert_causal_annotator

FASTA = ">chr1 first\nAACCGGTT\nACGT\n>chr%202\r\nTTTT\r\n>chr3\n\n"
GFF = (
    "##gff-version 3\n"
    "chr1\tx\tgene\t3\t10\t.\t+\t.\tID=g\n"
    "chr1\tx\texon\t3\t4\t.\t+\t.\tID=e1\n"
    "chr1\tx\texon\t4\t6\t.\t+\t.\tID=e2\n"
    "chr1\tx\texon\t12\t12\t.\t+\t.\tID=e3\n"
    "chr%25202\tx\texon\t2\t99\t.\t+\t.\tID=e4\n"
    "##FASTA\n>chr1\nnothing\n"
)


def bases(notes, name: str, text: str = FASTA) -> list[tuple[int, str]]:
    """Index and sign of the flagged tokens."""
    return [(int(place), text[place]) for place in np.flatnonzero(notes.flags[name])]


@pytest.mark.parametrize("packed", [False, True])
def test_gff_counts_from_one_and_includes_its_ends(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / ("f.gff3.gz" if packed else "f.gff3")
    path.write_bytes(gzip.compress(GFF.encode()) if packed else GFF.encode())
    notes = read_features(path)(FASTA, byte_offsets(FASTA))
    one, two = FASTA.index("AACC"), FASTA.index("TTTT\r")
    # bases 3 to 10 of "AACCGGTT" and "ACGT"; the line ending between them is no base
    assert bases(notes, "gene") == [(one + i, FASTA[one + i]) for i in (2, 3, 4, 5, 6, 7, 9, 10)]
    # overlapping exons are one, and the one that goes on behind the sequence ends with it
    assert bases(notes, "exon") == [(one + i, FASTA[one + i]) for i in (2, 3, 4, 5, 12)] + [
        (two + i, "T") for i in (1, 2, 3)
    ]


def test_bed_counts_from_zero_and_leaves_the_end_out(tmp_path: Path) -> None:
    (tmp_path / "repeats.bed").write_text("track name=x\n#c\nchr1\t2\t4\tr1\nchr1\t0\t0\n")
    notes = read_features(tmp_path / "repeats.bed")(FASTA, byte_offsets(FASTA))
    assert "".join(sign for _, sign in bases(notes, "repeats")) == "CC" == FASTA[FASTA.index("AACC") + 2 :][:2]


def test_sequences_may_be_called_as_a_browser_calls_its_lines(tmp_path: Path) -> None:
    text = ">track_1\nACGT\n>browserA\nTTTT\n"
    (tmp_path / "some.bed").write_text("browser position chr1\ntrack_1\t1\t3\nbrowserA\t0\t2\n")
    notes = read_features(tmp_path / "some.bed")(text, byte_offsets(text))
    assert "".join(sign for sign, inside in zip(text, notes.flags["some"], strict=True) if inside) == "CGTT"
    (tmp_path / "some.gff3").write_text("track_1\tx\tgene\t2\t3\t.\t+\t.\tID=1\n>track_1\nACGT\n")
    notes = read_features(tmp_path / "some.gff3")(text, byte_offsets(text))
    assert notes.flags["gene"].sum() == 2 and notes.flags["gene"][text.index("CG")]


def test_a_piece_of_a_sequence_is_told_where_it_begins(tmp_path: Path) -> None:
    (tmp_path / "f.gff").write_text(GFF)
    features = read_features(tmp_path / "f.gff")
    whole = features(FASTA, byte_offsets(FASTA))
    start = FASTA.index("GGTT")
    piece = features.beginning_in("chr1", 4)(FASTA[start:], byte_offsets(FASTA[start:]))
    assert all(np.array_equal(piece.flags[name], whole.flags[name][start:]) for name in whole.flags)


def test_features_are_causal_only_where_the_caller_says_that_they_come_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "f.gff").write_text(GFF)
    with pytest.raises(AnnotationError, match=r"annotator 'f.gff' is not causal"):
        require_causal(read_features(tmp_path / "f.gff"))
    known = read_features(tmp_path / "f.gff", known_beforehand=True)
    require_causal(known)
    assert_causal_annotator(known, FASTA, byte_offsets(FASTA), max_cuts=None)


def test_other_sequences_are_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "f.gff").write_text(GFF)
    features = read_features(tmp_path / "f.gff")
    features.require_sequences(["chr9", "chr1"])
    message = r"f.gff speaks of the sequences chr%202, chr1, the data has 1, 2: no id is in both. .*'chr1' against '1'"
    with pytest.raises(AnnotationError, match=message):
        features.require_sequences(["1", "2"])


REFUSED = [
    ("f.gff3", "chr1\tx\tgene\n", r"line 1 is no feature \(GFF3: nine columns, start and end the fourth and fifth"),
    ("f.gff3", "#\nchr1\tx\tgene\ta\tb\t.\t.\t.\t.\n", r"line 2 is no feature .*got 'chr1\\tx\\tgene"),
    ("f.gff3", "chr1\tx\tgene\t0\t3\t.\t.\t.\t.\n", "has a feature from 0 to 3; .*GFF3 counts from 1"),
    ("f.bed", "chr1\t9\t3\n", "line 1 has a feature from 9 to 3; a feature ends where it starts or later"),
    ("f.bed", "chr1\t9\n", r"line 1 is no feature \(BED: sequence, start, end"),
    ("f.bed", "# nothing\n", "holds no feature; give a GFF3 or BED file"),
]


@pytest.mark.parametrize(("name", "text", "message"), REFUSED)
def test_what_is_no_feature_is_refused_by_its_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(AnnotationError, match=message):
        read_features(tmp_path / name)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"cannot read the features in .*absent.gff3: No such file"):
        read_features(tmp_path / "absent.gff3")
    (tmp_path / "cut.bed.gz").write_bytes(gzip.compress(b"chr1\t2\t4\n" * 999)[:-12])
    with pytest.raises(AnnotationError, match=r"cannot read the features in .*cut.bed.gz: Compressed file ended"):
        read_features(tmp_path / "cut.bed.gz")


@given(rows=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9)), min_size=1, max_size=6), width=st.integers(1, 9))
def test_flags_are_those_of_a_count_base_by_base(tmp_path_factory, rows: list[tuple[int, int]], width: int) -> None:
    path = tmp_path_factory.mktemp("bed") / "x.bed"
    path.write_text("".join(f"s\t{first}\t{first + size}\n" for first, size in rows))
    sequence = "ACGTACGTACGTACGTACGTACGTA"
    text = ">s\n" + "".join(f"{sequence[i : i + width]}\n" for i in range(0, len(sequence), width))
    notes = read_features(path, known_beforehand=True)(text, byte_offsets(text))
    covered = {base for first, size in rows for base in range(first, first + size)}
    flags = [flag for flag, sign in zip(notes.flags["x"], text, strict=True) if sign != "\n"][2:]
    assert flags == [base in covered for base in range(len(sequence))]
    assert_causal_annotator(read_features(path, known_beforehand=True), text, byte_offsets(text), max_cuts=30)
