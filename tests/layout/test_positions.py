"""Index and position: DESIGN.md, Meaning 2."""

from __future__ import annotations

import numpy as np
import pytest

import openwork as ow
from openwork.errors import AnnotationError, AnnotationWarning, LayoutError, PatternError


def allowed(pattern: ow.Pattern, **arguments: object) -> np.ndarray:
    dense = ow.bind(pattern, **arguments).to_dense()
    np.testing.assert_array_equal(ow.compile_layout(pattern, block_size=(4, 3), **arguments).to_dense(), dense)
    return dense


def test_the_last_query_is_the_last_key_by_default():
    assert allowed(ow.Causal(), q_len=2, kv_len=4)[0, 0].tolist() == [[True, True, True, False], [True] * 4]


def test_q_start_zero_is_top_left():
    assert allowed(ow.Causal(), q_len=2, kv_len=4, q_start=0)[0, 0].sum(axis=1).tolist() == [1, 2]


def test_key_positions_alone_place_the_queries_last():
    dense = allowed(ow.Causal(), q_len=2, kv_len=4, kv_positions=[5, 6, 7, 8])
    assert dense[0, 0].sum(axis=1).tolist() == [3, 4]


def test_padding_is_outside_every_pattern_and_its_complement():
    positions = [[-1, -1, 0, 1], [0, 1, 2, -1]]
    for pattern in (ow.Dense(), ~ow.Dense(), ~ow.Causal(), ow.Causal()):
        dense = allowed(pattern, q_len=4, kv_len=4, kv_positions=positions)
        for row, sequence in zip(positions, dense, strict=True):
            padding = np.array(row) < 0
            assert not sequence[0][padding].any()
            assert not sequence[0][:, padding].any()
    assert allowed(ow.Dense(), q_len=4, kv_len=4, kv_positions=positions).sum() == 4 + 9


def test_equal_sequences_share_a_plane():
    layout = ow.compile_layout(ow.Causal(), q_len=3, kv_len=3, kv_positions=[[0, 1, 2], [-1, 0, 1], [0, 1, 2]])
    assert layout.index.tolist() == [[0], [1], [0]]
    assert len(layout.planes) == 2


def test_density_counts_padding_in_neither():
    layout = ow.compile_layout(ow.Dense(), q_len=4, kv_len=4, kv_positions=[[0, 1, -1, -1]])
    assert layout.density == 1.0


def test_restarted_positions_need_document_labels():
    positions = [0, 1, 2, 0, 1, 2]
    packed = allowed(ow.Causal(), q_len=6, kv_len=6, kv_positions=positions)
    assert packed[0, 0, 3, 0]  # both have position 0, and a pattern sees no more than positions
    notes = ow.Annotations(length=6, labels={"document": ow.documents_from_positions(positions)})
    apart = allowed(ow.Causal() & ow.Same("document"), q_len=6, kv_len=6, kv_positions=positions, annotations=notes)
    assert not apart[0, 0, 3:, :3].any()
    assert apart[0, 0, 3:, 3:].sum() == 6


def test_queries_share_the_facts_of_the_last_keys():
    notes = ow.Annotations(length=4, labels={"document": [0, 0, 1, 1]}, links={"use": [[3, 4, 0, 1]]})
    dense = allowed(ow.Same("document") | ow.Linked("use"), q_len=2, kv_len=4, annotations=notes)
    assert dense[0, 0].tolist() == [[False, False, True, True], [True, False, True, True]]


def test_other_queries_bring_their_own_facts():
    keys = ow.Annotations(length=3, labels={"document": [0, 1, 1]})
    queries = ow.Annotations(length=2, labels={"document": [1, 0]})
    arguments = {"q_len": 2, "kv_len": 3, "q_start": 0, "annotations": keys}
    dense = allowed(ow.Same("document"), **arguments, q_annotations=queries)
    assert dense[0, 0].tolist() == [[False, True, True], [True, False, False]]
    with pytest.raises(AnnotationError, match="pass q_annotations"):
        ow.compile_layout(ow.Same("document"), **arguments)


def test_links_of_separate_queries_may_point_past_their_own_length():
    queries = ow.Annotations(length=1, links={"use": [[0, 1, 4, 6]]}, kv_length=6)
    dense = allowed(ow.Linked("use"), q_len=1, kv_len=6, q_start=0, q_annotations=queries)
    assert dense[0, 0, 0].tolist() == [False] * 4 + [True] * 2


def test_documents_start_where_positions_do_not_exceed_the_one_before():
    assert ow.documents_from_positions([0, 1, 1, 5, -1, 6, 0]).tolist() == [0, 0, 1, 1, -1, 1, 2]
    assert ow.documents_from_positions([[-1, 0], [0, 0]]).tolist() == [[-1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"q_len": 9, "kv_len": 5}, r"q_len=9 is longer than kv_len=5, so the first 4 queries have no position"),
        ({"q_len": -1, "kv_len": 5}, r"q_len must be an integer of 0 or more; got -1"),
        ({"q_len": 5, "kv_len": "8"}, r"kv_len must be an integer of 0 or more; got '8'"),
        ({"q_len": 2, "kv_len": 5, "q_start": 0, "kv_positions": range(5)}, r"q_start=0 and kv_positions both say"),
        ({"q_len": 2, "kv_len": 5, "q_start": 1, "q_positions": [1, 2]}, r"q_start=1 and q_positions both say"),
        ({"q_len": 2, "kv_len": 5, "q_start": -3}, r"q_start must be an integer of 0 or more; got -3"),
        ({"q_len": 2, "kv_len": 3, "kv_positions": [0, -2, 1]}, r"kv_positions holds -2"),
        ({"q_len": 2, "kv_len": 3, "kv_positions": [0, 1]}, r"kv_positions has shape \[2\]; it needs \[3\]"),
        ({"q_len": 2, "kv_len": 3, "kv_positions": [0.5, 1, 2]}, r"kv_positions must be integers"),
        (
            {"q_len": 1, "kv_len": 1, "kv_positions": [[0], [0]], "q_positions": [[0]] * 3},
            r"different numbers of sequences: q_positions for 3, kv_positions for 2",
        ),
    ],
)
def test_contradictions_are_refused(arguments, message):
    with pytest.raises(LayoutError, match=message):
        ow.compile_layout(ow.Causal(), **arguments)
    with pytest.raises(LayoutError, match=message):
        ow.bind(ow.Causal(), **arguments)


def test_missing_annotations_are_named():
    with pytest.raises(AnnotationError, match=r"Keys\(name='heading'\) reads the flag 'heading': pass annotations"):
        ow.compile_layout(ow.Keys("heading"), q_len=2, kv_len=2)
    notes = ow.Annotations(length=2, flags={"title": [0, 1]})
    with pytest.raises(AnnotationError, match=r"annotations has 'title' of that kind"):
        ow.compile_layout(ow.Keys("heading"), q_len=2, kv_len=2, annotations=notes)
    with pytest.raises(AnnotationError, match=r"describes 2 tokens, but kv_len=3"):
        ow.compile_layout(ow.Keys("title"), q_len=2, kv_len=3, annotations=notes)


def test_an_empty_annotation_is_a_warning():
    notes = ow.Annotations(length=2, flags={"heading": [0, 0]})
    with pytest.warns(AnnotationWarning, match="the flag 'heading'"):
        ow.compile_layout(ow.Keys("heading"), q_len=2, kv_len=2, annotations=notes)


def test_bound_speaks_of_rows():
    bound = ow.bind(ow.Causal(), q_len=2, kv_len=4)
    assert bound.allows(0, 2) is True
    assert bound.allows(np.arange(2)[:, None], np.arange(4)).shape == (2, 4)
    with pytest.raises(LayoutError, match="q_idx=2 is outside 0 to 1"):
        bound.allows(2, 0)


def test_bound_answers_in_torch():
    torch = pytest.importorskip("torch")
    answer = ow.bind(ow.Causal(), q_len=2, kv_len=4).allows(torch.arange(2)[:, None], torch.arange(4))
    assert answer.dtype == torch.bool
    assert answer.tolist() == [[True, True, True, False], [True] * 4]


def test_bound_asks_which_head_and_sequence():
    heads = ow.bind(ow.PerHead(ow.Causal(), ow.Dense()), q_len=2, kv_len=2)
    with pytest.raises(PatternError, match=r"bound\.head"):
        heads.allows(0, 1)
    assert [heads.head(h).allows(0, 1) for h in (0, 1)] == [False, True]
    rows = ow.bind(ow.Causal(), q_len=2, kv_len=2, kv_positions=[[0, 1], [1, 0]])
    with pytest.raises(PatternError, match=r"bound.sequence\(b\)"):
        rows.allows(0, 1)
    assert [rows.sequence(b).allows(0, 1) for b in (0, 1)] == [False, True]


def test_a_tensor_is_a_layout_not_a_pattern():
    with pytest.raises(PatternError, match="from_mask"):
        ow.compile_layout(np.ones((2, 2), dtype=bool), q_len=2, kv_len=2)
