"""Documents of a packed sequence, and passages around a question."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import openwork as ow
from openwork.annotate import (
    Annotator,
    byte_offsets,
    documents,
    documents_from_separators,
    offsets_of,
    passage_tokens,
    passages,
)
from openwork.errors import AnnotationError
from openwork.testing.annotators import assert_causal_annotator

lengths = st.lists(st.integers(0, 6), max_size=8)


@given(sizes=lengths, padding=st.integers(0, 3))
def test_documents_are_numbered_in_order(sizes, padding):
    notes = documents(sizes, padded_to=sum(sizes) + padding)
    assert (
        notes.labels["document"].tolist() == [n for n, size in enumerate(sizes) for _ in range(size)] + [-1] * padding
    )
    assert notes == documents(boundaries=np.cumsum([0, *sizes]), padded_to=sum(sizes) + padding)


@given(sizes=lengths, cut=st.integers(0, 40))
def test_the_documents_so_far_do_not_depend_on_what_follows(sizes, cut):
    notes = documents(sizes)
    cut = min(cut, notes.length)
    so_far, left = [], cut
    for size in sizes:
        so_far.append(min(size, left))
        left -= so_far[-1]
    assert documents(so_far) == notes.prefix(cut)


@given(ids=st.lists(st.integers(0, 3), max_size=20), ends=st.booleans(), cut=st.integers(0, 20))
def test_separators_part_documents_and_know_no_future(ids, ends, cut):
    label = documents_from_separators(ids, {0, 3}, separator_ends=ends).labels["document"]
    for index in range(1, len(ids)):
        mark = ids[index - 1] if ends else ids[index]
        assert label[index] - label[index - 1] == (mark in (0, 3))
    assert not len(ids) or label[0] == 0
    part = documents_from_separators(ids[:cut], [0, 3], separator_ends=ends)
    assert part == documents_from_separators(ids, [0, 3], separator_ends=ends).prefix(min(cut, len(ids)))


def test_documents_keep_to_themselves():
    bound = ow.bind(ow.Causal() & ow.Same("document"), q_len=5, kv_len=5, annotations=documents([2, 2], padded_to=5))
    allowed = [[bool(bound.allows(q, k)) for k in range(5)] for q in range(5)]
    assert allowed == [
        [True, False, False, False, False],
        [True, True, False, False, False],
        [False, False, True, False, False],
        [False, False, True, True, False],
        [False, False, False, False, False],
    ]


def test_tensors_of_lengths_and_ids_are_read():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    assert documents(torch.tensor([2, 1])) == documents([2, 1])
    assert documents_from_separators(torch.tensor([5, 0, 6]), 0).labels["document"].tolist() == [0, 0, 1]


REFUSED = [
    (lambda: documents(), "takes either lengths or boundaries; give exactly one of them"),
    (lambda: documents([1], boundaries=[0, 1]), "takes either lengths or boundaries"),
    (lambda: documents([2, -1]), "document 1 has -1 tokens; lengths are 0 or more"),
    (lambda: documents(boundaries=[1, 2]), r"boundaries start at 0, where the first document does; got \[1, 2\]"),
    (lambda: documents(boundaries=[0, 4, 2]), "document 1 has -2 tokens"),
    (lambda: documents([1.5]), r"lengths must be a row of integers; got float64 \[1\]"),
    (lambda: documents([[1], [2]]), r"lengths must be a row of integers; got int64 \[2, 1\]"),
    (lambda: documents(7), "lengths must be a row of integers; got 7"),
    (lambda: documents([3, 3], padded_to=5), "the documents have 6 tokens, more than padded_to=5"),
    (lambda: documents_from_separators("ab", 0), r"token_ids must be a row of integers; got <U1 \[2\]"),
    (lambda: documents_from_separators([1], []), "separator_ids names no token"),
    (lambda: passages("one", "what?"), "takes a list of passages; got a single string"),
    (lambda: passages([], "what?"), "needs at least one passage; got none"),
    (lambda: passages(["a", 3], "what?"), "passage 1 must be a string; got int. For tokens: passage_tokens"),
    (lambda: passages(["a"], None), "the question must be a string; got NoneType"),
    (lambda: passage_tokens([], [1]), "passage_tokens needs at least one passage; got none"),
    (lambda: passage_tokens([[1], ["a"]], [1]), "passage 1 must be a row of integers"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused(call, message):
    with pytest.raises(AnnotationError, match=message):
        call()


@pytest.mark.parametrize("question_first", [False, True])
def test_passages_and_question_are_labelled_in_bytes_and_tokens(bpe, question_first):
    texts, question = ["def f(): ...", "class \u00e9", ""], "what is f?"
    context = passages(texts, question, question_first=question_first)
    for offsets in (byte_offsets(context.text), offsets_of(bpe.encode(context.text))):
        notes = context(context.text, offsets)
        for (first, stop), label, asked in zip(
            offsets.tolist(), notes.labels["passage"].tolist(), notes.flags["question"].tolist(), strict=True
        ):
            owner = [n for n, (a, b) in enumerate(context.passage_spans) if stop and a < stop <= b]
            assert label == (owner[0] if owner else -1)
            assert asked == (first < context.question_span[1] and stop > context.question_span[0])
    parts = [context.text[a:b] for a, b in context.passage_spans]
    assert parts == [text + "\n\n" for text in texts]
    assert context.text[slice(*context.question_span)].strip() == question


@pytest.mark.parametrize("question_first", [False, True])
def test_passages_know_no_future(bpe, question_first):
    context = passages(["def f(): ...", "\u00e9 b"], "why?", question_first=question_first)
    assert isinstance(context, Annotator) and context.causal
    for text in (context.text, context.text + " because"):
        assert_causal_annotator(context, text, byte_offsets(text), max_cuts=None)
        assert_causal_annotator(context, text, offsets_of(bpe.encode(text)), max_cuts=None)
    context.declares.check(context(context.text, byte_offsets(context.text)))


def test_an_answer_is_flagged_like_its_question():
    context = passages(["ab"], "c?", separator=" ")
    text = context.text + " d"
    assert context(text, byte_offsets(text)).flags["question"].tolist() == [False] * 3 + [True] * 4


def test_another_text_is_refused():
    context = passages(["ab"], "c?")
    with pytest.raises(AnnotationError, match="the text is not this context: they part at character 1, 'x' for 'b"):
        context("ax", byte_offsets("ax"))


def test_tokens_of_passages_are_put_together_like_their_text():
    ids, notes = passage_tokens([[7, 8], [], [9]], [5], question_first=True)
    assert ids.tolist() == [5, 7, 8, 9]
    assert notes.labels["passage"].tolist() == [-1, 0, 0, 2]
    assert notes.flags["question"].tolist() == [True, False, False, False]


def test_passages_see_themselves_and_the_question_everything():
    ids, notes = passage_tokens([[1, 2], [3]], [4])
    pattern = ow.Same("passage") | ow.Queries("question") | ow.Keys("question")
    allowed = ow.compile_layout(pattern, q_len=len(ids), kv_len=len(ids), annotations=notes).to_dense()[0, 0]
    assert allowed.astype(int).tolist() == [[1, 1, 0, 1], [1, 1, 0, 1], [0, 0, 1, 1], [1, 1, 1, 1]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: documents([1, 2], padded_to="4"), "padded_to must be a number of tokens; got '4'"),
        (lambda: documents_from_separators([1], np.array(0.5)), "separator_ids must be a row of integers; got float64"),
        (lambda: passages(None, "q"), "passages takes a list of passages; got NoneType"),
        (lambda: passage_tokens(5, [1]), "passage_tokens takes a list of passages; got int"),
        (lambda: offsets_of({"offset_mapping": [[(0, 1)], [(0, 1)]]}, row="0"), "row='0' names no text"),
    ],
)
def test_other_things_than_lists_and_numbers_are_refused_in_words(make, message):
    with pytest.raises(AnnotationError, match=message):
        make()


def test_passages_and_separators_come_in_any_form():
    assert passages((text for text in ("ab", "c")), "d?").text == "ab\n\nc\n\nd?"
    for one in (0, np.int64(0), np.array(0), [0]):
        assert documents_from_separators([5, 0, 7], one).labels["document"].tolist() == [0, 0, 1]
