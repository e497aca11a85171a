"""FASTA and FASTQ records, against the files' own rules."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openwork import compile_layout, parse_pattern
from openwork.annotate import byte_offsets, fasta_records, fastq_records, offsets_of
from openwork.testing.annotators import assert_causal_annotator


def test_a_record_begins_with_its_header() -> None:
    text = ">a one\nACGT\nAC\n\n>b\nGG>GG\n>c"
    notes = fasta_records(text, byte_offsets(text))
    assert "".join(map(str, notes.labels["record"])) == "0" * 16 + "1" * 9 + "2" * 2
    assert "".join(np.array(list(text))[notes.flags["header"]]) == ">a one>b>c"


def test_what_stands_before_the_first_header_belongs_to_it() -> None:
    assert fasta_records("\n>a\nA\n>b", byte_offsets("\n>a\nA\n>b")).labels["record"].tolist() == [0] * 6 + [1] * 2
    assert fasta_records("ACGT", byte_offsets("ACGT")).labels["record"].tolist() == [0] * 4


def write_fastq(rng: random.Random, count: int, wrapped: bool) -> tuple[str, list[tuple[str, str]]]:
    text, reads = "", []
    for number in range(count):
        size = rng.randrange(1, 9)
        bases, scores = ("".join(rng.choices(signs, k=size)) for signs in ("ACGTN", "@+!I>"))
        reads.append((bases, scores))
        lines = [
            part for whole in (bases, scores) for part in ((whole[:4], whole[4:]) if wrapped else (whole,)) if part
        ]
        cut = 2 if wrapped and size > 4 else 1
        text += "\n".join([f"@r{number} x", *lines[:cut], "+", *lines[cut:]]) + "\n"
    return text, reads


@pytest.mark.parametrize("wrapped", [False, True])
def test_qualities_are_as_long_as_their_sequences_whatever_they_begin_with(wrapped: bool) -> None:
    text, reads = write_fastq(random.Random(1), 200, wrapped)
    notes = fastq_records(text, byte_offsets(text))
    signs, record = np.array(list(text)), notes.labels["record"]
    assert record.max() == 199
    for number, (_, scores) in enumerate(reads):
        assert "".join(signs[(record == number) & notes.flags["quality"]]) == scores
        assert "".join(signs[(record == number) & notes.flags["header"]]) == f"@r{number} x"


def test_a_fastq_that_stops_anywhere_passes_the_prefix_test(bpe) -> None:
    text, _ = write_fastq(random.Random(2), 30, True)
    assert_causal_annotator(fastq_records, text, byte_offsets(text), max_cuts=None)
    assert_causal_annotator(fastq_records, text, offsets_of(bpe.encode(text)), max_cuts=None)


def test_the_patterns_for_dna_stay_within_a_record() -> None:
    text = ">a\n" + "ACGT" * 10 + "\n>b\n" + "TTGA" * 10 + "\n"
    notes = fasta_records(text, byte_offsets(text))
    record, where = notes.labels["record"], np.arange(len(text))
    for entry, ahead in (("dna", True), ("dna_causal", False)):
        pattern = parse_pattern(f"{entry}(window=3, reach=20, step=5)")
        mask = compile_layout(pattern, q_len=len(text), kv_len=len(text), annotations=notes).to_dense()[0, 0]
        apart = where[:, None] - where[None, :]
        expected = (record[:, None] == record[None, :]) & (
            (np.abs(apart) <= 3) | ((np.abs(apart) <= 20) & (apart % 5 == 0))
        )
        assert np.array_equal(mask, expected & ((apart >= 0) | ahead)), entry


SIGNS = [">", "@", "+", "\n", "\n", "\r\n", "\r", "A", "CG", " x", "\u00e9", ">a\nAC\n", "@r\nACG\n+\n@II\n"]


@pytest.mark.parametrize("annotator", [fasta_records, fastq_records], ids=["fasta", "fastq"])
@given(text=st.lists(st.sampled_from(SIGNS), max_size=20).map("".join))
def test_no_token_knows_the_future(annotator, text: str) -> None:
    assert_causal_annotator(annotator, text, byte_offsets(text), max_cuts=None)
