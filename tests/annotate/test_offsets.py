"""Offsets from bytes and from tokenizers, and the refusals of what are none."""

from __future__ import annotations

from collections import UserDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openwork.annotate import byte_offsets, check_offsets, markdown_headings, offsets_of
from openwork.errors import AnnotationError

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(text=texts)
def test_every_byte_has_the_span_of_its_character(text):
    expected = [
        [index, index + 1] for index, character in enumerate(text) for _ in range(len(character.encode("utf-8")))
    ]
    assert byte_offsets(text).tolist() == expected


@given(text=texts)
def test_offsets_of_bytes_are_accepted(text):
    assert np.array_equal(check_offsets(text, byte_offsets(text)), byte_offsets(text))


@given(text=texts)
def test_offsets_of_a_real_tokenizer_are_accepted(bpe, text):
    offsets = offsets_of(bpe.encode(text))
    assert offsets[0].tolist() == offsets[-1].tolist() == [0, 0]
    assert np.array_equal(check_offsets(text, offsets), offsets)


def test_a_pair_is_read_one_text_at_a_time(bpe):
    encoding = bpe.encode("def f", "class A")
    first, second = offsets_of(encoding, sequence=0), offsets_of(encoding, sequence=1)
    assert len(first) == len(second) == len(encoding.ids)
    assert first[:, 1].max() == 5 and second[:, 1].max() == 7
    assert not ((first > 0).any(axis=1) & (second > 0).any(axis=1)).any()
    with pytest.raises(AnnotationError, match="is of a pair of texts; say which with sequence=0 or sequence=1"):
        offsets_of(encoding)
    with pytest.raises(AnnotationError, match=r"sequence=2 names no text of the encoding, which has \[0, 1\]"):
        offsets_of(encoding, sequence=2)


class Batch(UserDict):
    """What a Hugging Face fast tokenizer returns: a mapping, with the encodings of the rows beside it."""

    def __init__(self, data, encodings=None):
        super().__init__(data)
        self.encodings = encodings


def test_a_batch_gives_the_offsets_of_a_row(bpe):
    encodings = bpe.encode_batch(["def f", "x"])
    batch = Batch({"input_ids": []}, encodings)
    assert offsets_of(batch, row=1).tolist() == [[0, 0], [0, 1], [0, 0]]
    assert np.array_equal(offsets_of(Batch({}, encodings[:1])), offsets_of(encodings[0]))
    with pytest.raises(AnnotationError, match="holds 2 texts; say which with row=0 to row=1"):
        offsets_of(batch)
    with pytest.raises(AnnotationError, match="row=2 names no text of an encoding that holds 2"):
        offsets_of(batch, row=2)


def test_offset_mappings_of_any_make_are_read():
    pairs = [[0, 0], [0, 3], [3, 4]]
    for mapping in (pairs, [tuple(pair) for pair in pairs], np.array(pairs, dtype=np.int32)):
        assert offsets_of({"offset_mapping": mapping}).tolist() == pairs
        assert offsets_of(Batch({"offset_mapping": mapping})).tolist() == pairs
        assert offsets_of(mapping).tolist() == pairs
    assert offsets_of({"offset_mapping": [pairs]}).tolist() == pairs
    assert offsets_of({"offset_mapping": [pairs, pairs]}, row=1).tolist() == pairs
    assert offsets_of({"offset_mapping": [pairs, pairs[:1]]}, row=1).tolist() == pairs[:1]
    assert offsets_of([]).shape == (0, 2)


def test_tensors_are_read():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    pairs = [[0, 0], [0, 3], [3, 4]]
    assert offsets_of({"offset_mapping": torch.tensor([pairs])}).tolist() == pairs
    assert check_offsets("abcd", torch.tensor(pairs)).tolist() == pairs


def test_a_slow_tokenizer_is_refused():
    with pytest.raises(AnnotationError, match=r"has no offsets, only \['input_ids'\]. Use a fast tokenizer"):
        offsets_of({"input_ids": [1, 2]})


def test_bare_offsets_do_not_say_which_text_of_a_pair_they_are_of():
    with pytest.raises(AnnotationError, match="sequence=0 needs to know which text each token is of"):
        offsets_of([(0, 1)], sequence=0)


REFUSED = {
    "a shape": ([1, 2, 3], r"offsets must be integers \[n, 2\].*got int64 \[3\]"),
    "three columns": ([(1, 2, 3)], r"offsets must be integers \[n, 2\].*got int64 \[1, 3\]"),
    "ragged": ([(0, 1), (1,)], r"offsets must be integers \[n, 2\]"),
    "not whole": ([(0.0, 1.0)], r"offsets must be integers \[n, 2\].*got float64"),
    "words": (["ab"], r"offsets must be integers \[n, 2\]"),
    "past the end": (
        [(0, 1), (1, 4)],
        r"token 1 has the span \[1, 4\], outside the text of 3 characters. Offsets count",
    ),
    "negative": ([(-1, 1)], r"token 0 has the span \[-1, 1\], outside the text of 3 characters"),
    "reversed": ([(0, 1), (2, 1)], r"token 1 has the span \[2, 1\], which ends before it starts"),
    "going back": ([(1, 2), (0, 1)], r"token 1 has the span \[0, 1\], before the token ahead of it, \[1, 2\]"),
    "a pair": ([(0, 0), (0, 3), (0, 0), (0, 2)], r"token 3 has the span \[0, 2\].*Annotate one text at a time"),
}


@pytest.mark.parametrize(("offsets", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_offsets_are_refused_for(offsets, message):
    with pytest.raises(AnnotationError, match=message):
        check_offsets("abc", offsets)
    with pytest.raises(AnnotationError, match=message):
        markdown_headings("abc", offsets)


def test_text_that_is_no_text_is_refused():
    with pytest.raises(AnnotationError, match=r"text must be a string; got bytes. Decode bytes first"):
        byte_offsets(b"abc")  # type: ignore[arg-type]
    with pytest.raises(AnnotationError, match=r"lone surrogate '.udc80' at character 1.*errors='replace'"):
        byte_offsets("a\udc80")
