"""Decoding against the dense rule, token by token, with and without declarations."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import openwork as ow
from openwork.errors import AnnotationError, LayoutError, PatternError
from openwork.layout import growing
from openwork.patterns.declarations import Declarations
from openwork.testing import strategies

LENGTH = 420


def facts(length: int = LENGTH) -> ow.Annotations:
    rng = np.random.default_rng(3)
    return ow.Annotations(
        length=length,
        flags={"heading": rng.random(length) < 0.03, "question": rng.random(length) < 0.02},
        labels={"document": np.sort(rng.integers(0, 5, length)), "speaker": rng.integers(-1, 3, length)},
        links={"use": [[200, 210, 5, 9], [202, 204, 90, 120], [400, 410, 100, 300]]},
    )


PATTERNS = [
    ow.Causal() & (ow.Window(before=20) | ow.Keys("heading") | ow.First(keys=4)),
    ow.Causal() & ow.Same("document"),
    ow.Causal() & (ow.Queries("question") | ow.Strided(37)),
    ow.Causal() & (ow.Linked("use") | ow.Window(before=3)),
    ow.Causal() & ow.PerHead(ow.Window(before=5), ow.Dilated(before=100, step=7)),
    ow.Causal() & (ow.Earlier("document") & ow.Window(before=64) | ow.Chunk(16)),
    ow.Causal() & (ow.RandomBlocks(32, 2, seed=5) | ow.PowersOfTwo()),
    ow.Causal() & ow.Grid((15, 20), (5, 5), causal=True),
    ow.Causal() & (ow.Summary(32, 2) | ow.Window(before=2)) & ~ow.Same("speaker"),
    ow.Causal() & ow.Custom(lambda q_pos, kv_pos: (q_pos + kv_pos) % 3 == 0, name="thirds"),
]


@pytest.mark.parametrize("pattern", PATTERNS, ids=repr)
@pytest.mark.parametrize("whole", [True, False], ids=["facts of the whole text", "facts of new tokens"])
def test_every_step_equals_the_dense_rule(pattern, whole):
    annotations = facts()
    dense = ow.bind(pattern, q_len=LENGTH, kv_len=LENGTH, annotations=annotations).to_dense()[0]
    decoder = ow.decoder(pattern)
    rng = np.random.default_rng(1)
    length = 0
    while length < LENGTH:
        count = min(int(rng.choice([1, 1, 1, 5, 90])), LENGTH - length)
        seen = annotations.prefix(length + count)
        decoder.append(count, seen if whole else only_new(seen, count))
        length += count
        for head, visible in enumerate(decoder.visible()[0]):
            np.testing.assert_array_equal(visible, np.flatnonzero(dense[head, length - 1, :length]))
        assert not dense[:, length:, decoder.droppable()[0]].any()
    assert decoder.lengths == [LENGTH]


@settings(max_examples=120)
@given(
    pattern=st.one_of(strategies.patterns(), strategies.per_head(max_heads=3)),
    length=st.integers(4, 60),
    data=st.data(),
)
@pytest.mark.filterwarnings("ignore::openwork.errors.AnnotationWarning")
def test_any_pattern_decodes_as_the_dense_rule_says(pattern, length, data):
    """Nothing that was droppable is seen later, whatever was declared and is true of the text."""
    notes = data.draw(strategies.facts(length))
    # links lead to keys that are there when they are made
    links = {name: np.minimum(rows, [length, length, 1, 1]) for name, rows in notes.links.items()}
    notes = ow.Annotations(length, notes.flags, notes.labels, links)
    dense = ow.bind(pattern, q_len=length, kv_len=length, annotations=notes).to_dense()[0]
    truth = true_declarations(notes)
    decoder = ow.decoder(pattern, declarations=truth if data.draw(st.booleans()) else None)
    with patch.object(growing, "_LEAST_TAIL", data.draw(st.sampled_from([2, 256]))):
        done = 0
        while done < length:
            count = data.draw(st.integers(1, min(20, length - done)))
            done += count
            decoder.append(count, notes.prefix(done))
            for head, visible in enumerate(decoder.visible()[0]):
                np.testing.assert_array_equal(visible, np.flatnonzero(dense[head, done - 1, :done]))
            assert not dense[:, done:, decoder.droppable()[0]].any()


def true_declarations(notes: ow.Annotations) -> Declarations:
    never = {name for name, values in notes.flags.items() if not values.any()}
    rising = {name for name, values in notes.labels.items() if (np.diff(values[values >= 0]) >= 0).all()}
    first = {name: int(rows[:, 2].min()) for name, rows in notes.links.items() if len(rows)}
    return Declarations(final_flags=never, nondecreasing_labels=rising, links_from=first)


def only_new(seen: ow.Annotations, count: int) -> ow.Annotations:
    old = seen.length - count
    rows = seen.links["use"]
    rows = rows[rows[:, 1] > old]
    shifted = np.maximum(rows - [old, old, 0, 0], 0)
    return ow.Annotations(
        length=count,
        flags={name: values[old:] for name, values in seen.flags.items()},
        labels={name: values[old:] for name, values in seen.labels.items()},
        links={"use": shifted},
        kv_length=seen.length,
    )


@pytest.mark.parametrize(
    ("pattern", "droppable"),
    [
        (ow.Causal() & ow.Window(before=3), list(range(7))),
        (ow.Causal() & (ow.Window(before=3) | ow.First(keys=2)), [2, 3, 4, 5, 6]),
        (ow.Causal() & ow.Chunk(4), list(range(8))),
        (ow.Causal() & (ow.Chunk(4) | ow.Summary(4, 1)), [0, 1, 2, 4, 5, 6]),
        (ow.Causal() & ow.Strided(4), []),
        (ow.Causal() & ow.PerHead(ow.Window(before=1), ow.Window(before=3)), list(range(7))),
        (ow.Dense() - ow.Dense(), list(range(10))),
    ],
)
def test_what_position_alone_lets_go(pattern, droppable):
    decoder = ow.decoder(pattern)
    decoder.append(10)
    assert decoder.droppable()[0].tolist() == droppable


def test_a_declaration_lets_more_go():
    pattern = ow.Causal() & ow.Same("document")
    labels = [0, 0, 0, 1, 1]
    notes = ow.Annotations(length=5, labels={"document": labels})
    free, bound = ow.decoder(pattern), ow.decoder(pattern, declarations=Declarations(nondecreasing_labels={"document"}))
    for decoder in (free, bound):
        decoder.append(5, notes)
    assert free.droppable()[0].tolist() == []
    assert bound.droppable()[0].tolist() == [0, 1, 2]
    assert "not declared never to decrease" in free.explain()
    assert "2 of 5 keys are kept, 3 can be dropped" in bound.explain()


def test_final_flags_and_near_links_let_more_go():
    pattern = ow.Causal() & (ow.Window(before=1) | ow.Queries("question") | ow.Linked("use"))
    decoder = ow.decoder(pattern)
    notes = ow.Annotations(length=6, flags={"question": [0, 0, 1, 0, 0, 0]}, links={"use": []})
    decoder.append(6, notes)
    assert decoder.droppable()[0].tolist() == []
    decoder.declare(Declarations(final_flags={"question"}))
    assert decoder.droppable()[0].tolist() == []
    decoder.declare(Declarations(links_from={"use": 3}))
    assert decoder.droppable()[0].tolist() == [0, 1, 2]
    more = ow.Annotations(length=1, flags={"question": [True]}, links={"use": []})
    with pytest.raises(AnnotationError, match="flag 'question' was declared final at token 6, but token 6 carries it"):
        decoder.append(1, more)
    far = ow.Annotations(length=1, flags={"question": [False]}, links={"use": [[0, 1, 2, 4]]}, kv_length=7)
    with pytest.raises(AnnotationError, match="linked to key 2"):
        decoder.append(1, far)
    assert decoder.lengths == [6]


@pytest.mark.parametrize(
    ("pattern", "droppable"),
    [
        (~ow.Linked("use"), []),
        (~ow.Linked("use") & ow.Window(before=1), [0, 1]),
        (~ow.Earlier("document"), []),
        (ow.Earlier("document"), [2]),
        (~ow.Same("document"), []),
        (~ow.Queries("question"), []),
        (~ow.Keys("question"), [1]),
    ],
    ids=repr,
)
def test_a_later_token_may_carry_no_fact_at_all(pattern, droppable):
    """What it lacks, the complement of a pattern sees."""
    pattern = ow.Causal() & pattern
    labels = {"document": [0, 1, -1]}
    notes = ow.Annotations(length=3, labels=labels, flags={"question": [0, 1, 0]}, links={"use": []})
    decoder = ow.decoder(pattern, declarations=Declarations(nondecreasing_labels={"document"}))
    decoder.append(3, notes)
    assert decoder.droppable()[0].tolist() == droppable
    bare = ow.Annotations(length=1, labels={"document": [-1]}, flags={"question": [0]}, links={"use": []})
    decoder.append(1, bare)
    assert not set(decoder.visible()[0][0].tolist()) & set(droppable)


def test_labels_declared_late_never_fall_below_the_last_one():
    decoder = ow.decoder(ow.Causal() & ow.Same("document"))
    decoder.append(4, ow.Annotations(length=4, labels={"document": [1, 5, 3, -1]}))
    decoder.declare(Declarations(nondecreasing_labels={"document"}))
    assert decoder.droppable()[0].tolist() == [0, 3]
    decoder.append(1, ow.Annotations(length=1, labels={"document": [3]}))
    assert decoder.visible()[0][0].tolist() == [2, 4]


def test_positions_that_fall_are_refused_for_the_keys_they_might_see_are_gone():
    decoder = ow.decoder(ow.Causal() & ow.Window(before=1))
    decoder.append(3, positions=[-1, 4, 7])
    assert decoder.droppable()[0].tolist() == [0, 1]
    with pytest.raises(LayoutError, match="position 7 after position 7, but positions of a decoded sequence ascend"):
        decoder.append(1, positions=[7])
    with pytest.raises(LayoutError, match=r"position 8 after position 9.* Decode documents whose positions"):
        decoder.append(3, positions=[9, -1, 8])
    with pytest.raises(LayoutError, match="position 3 after position 7"):
        decoder.append(1)
    decoder.append(2, positions=[-1, 8])
    assert decoder.visible()[0][0].tolist() == [2, 4]


def test_labels_that_fall_against_their_declaration_raise():
    decoder = ow.decoder(ow.Same("document"), declarations=Declarations(nondecreasing_labels={"document"}))
    decoder.append(2, ow.Annotations(length=2, labels={"document": [3, 3]}))
    with pytest.raises(AnnotationError, match="declared never to decrease, but token 2 has 1 after 3"):
        decoder.append(1, ow.Annotations(length=1, labels={"document": [1]}))


def test_sequences_of_different_lengths_grow_together():
    decoder = ow.decoder(ow.Causal() & ow.Window(before=1), batch=2)
    decoder.append([4, 2])
    assert [[keys.tolist() for keys in row] for row in decoder.visible()] == [[[2, 3]], [[0, 1]]]
    decoder.append()
    assert decoder.lengths == [5, 3]


def test_a_sequence_without_tokens_has_nothing_to_see_or_to_drop():
    decoder = ow.decoder(ow.Causal() & (ow.Same("document") | ow.Keys("heading")), batch=2)
    decoder.append([1, 0], ow.Annotations(length=1, labels={"document": [4]}, flags={"heading": [True]}))
    assert [[keys.tolist() for keys in row] for row in decoder.visible()] == [[[0]], [[]]]
    assert [keys.tolist() for keys in decoder.droppable()] == [[], []]
    assert "sequence 1: 0 of 0 keys are kept, 0 can be dropped" in decoder.explain()


def test_padded_slots_are_never_seen_and_always_droppable():
    decoder = ow.decoder(ow.Causal())
    decoder.append(4, positions=[-1, -1, 0, 1])
    assert decoder.visible()[0][0].tolist() == [2, 3]
    assert decoder.droppable()[0].tolist() == [0, 1]


def test_facts_about_read_tokens_do_not_change():
    decoder = ow.decoder(ow.Keys("heading"))
    decoder.append(2, ow.Annotations(length=2, flags={"heading": [0, 1]}))
    with pytest.raises(AnnotationError, match="tokens before 2 are not what was appended before"):
        decoder.append(1, ow.Annotations(length=3, flags={"heading": [1, 1, 0]}))


def test_wrong_arguments_are_named():
    decoder = ow.decoder(ow.Keys("heading"), batch=2)
    with pytest.raises(AnnotationError, match="append tokens with annotations that carry it"):
        decoder.append(1)
    with pytest.raises(AnnotationError, match="about the 2 new tokens"):
        decoder.append(2, ow.Annotations(length=5, flags={"heading": [0] * 5}))
    with pytest.raises(LayoutError, match="append got 3 counts"):
        decoder.append([1, 1, 1])
    with pytest.raises(LayoutError, match="takes 0 or more tokens; got n=-1"):
        decoder.append(-1)
    with pytest.raises(LayoutError, match="sequence 2 does not exist"):
        decoder.declare(Declarations(), sequence=2)
    with pytest.raises(LayoutError, match="batch must be 1 or more; got 0"):
        ow.decoder(ow.Causal(), batch=0)
    with pytest.raises(PatternError, match="takes a pattern"):
        ow.decoder("Causal()")
    with pytest.raises(LayoutError, match="positions of 2 new tokens must be 2 integers"):
        ow.decoder(ow.Causal()).append(2, positions=[0, -3])
