"""Facts of characters become facts of tokens: against a slow restatement, and at the odd places."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from openwork.annotate import CharacterFacts, CharacterLink, byte_offsets, to_tokens

LENGTH = 12
spans = st.tuples(st.integers(0, LENGTH), st.integers(0, LENGTH)).map(lambda pair: (min(pair), max(pair)))
links = st.builds(
    lambda known, more, kv: CharacterLink(known, known + more, *kv), st.integers(1, LENGTH), st.integers(0, 5), spans
)


@st.composite
def offsets(draw):
    """Spans in reading order, some empty, some alike, some special."""
    edges = sorted(draw(st.lists(st.tuples(st.integers(0, LENGTH), st.integers(0, LENGTH)), max_size=9)))
    tokens, stop = [], 0
    for first, last in edges:
        stop = max(stop, first, last)
        tokens.append((first, stop))
    for place in draw(st.lists(st.integers(0, len(tokens)), max_size=3)):
        tokens.insert(place, (0, 0))
    return tokens


def slowly(facts: CharacterFacts, tokens: list[tuple[int, int]]) -> tuple[list[bool], list[int], set[tuple[int, int]]]:
    """The same by the definition, token by token, for text in ASCII; of links, the pairs of tokens."""
    covered = [(first if first < stop else stop - 1, stop) if stop else (0, 0) for first, stop in tokens]
    flags = [
        any(a <= character < b for character in range(*token) for a, b in facts.flags["flag"]) for token in covered
    ]
    labels = []
    for token in covered:
        values = [n for character in range(*token) for a, b, n in facts.labels["label"] if a <= character < b]
        labels.append(values[-1] if values else -1)
    pairs = set()
    for link in facts.links["link"]:
        start = next((n for n, token in enumerate(covered) if token[1] >= link.known), None)
        if start is None:
            continue
        kv = {
            n
            for n, (first, stop) in enumerate(covered[:start])
            if stop and max(first, link.kv_first) < min(stop, link.kv_stop)
        }
        q = {start} | {n for n, (first, stop) in enumerate(covered) if n > start and stop and first < link.stop}
        pairs |= {(a, b) for a in q for b in kv}
    return flags, labels, pairs


@given(
    tokens=offsets(),
    flag=st.lists(spans, max_size=3),
    edges=st.lists(spans, max_size=3),
    link=st.lists(links, max_size=3),
)
def test_tokens_get_what_their_characters_have(tokens, flag, edges, link):
    cuts = sorted({edge for span in edges for edge in span})
    label = [(first, stop, number) for number, (first, stop) in enumerate(zip(cuts[::2], cuts[1::2], strict=False))]
    facts = CharacterFacts(flags={"flag": flag}, labels={"label": label}, links={"link": link})
    notes = to_tokens(facts, "x" * LENGTH, tokens)
    pairs = {
        (q, kv)
        for q_first, q_stop, kv_first, kv_stop in notes.links["link"].tolist()
        for q in range(q_first, q_stop)
        for kv in range(kv_first, kv_stop)
    }
    assert (notes.flags["flag"].tolist(), notes.labels["label"].tolist(), pairs) == slowly(facts, tokens)


def test_special_tokens_carry_nothing_and_split_links():
    facts = CharacterFacts(
        flags={"flag": [(0, 6)]}, labels={"label": [(0, 6, 3)]}, links={"link": [CharacterLink(4, 6, 0, 2)]}
    )
    notes = to_tokens(facts, "abcdef", [(0, 0), (0, 1), (0, 0), (1, 4), (0, 0), (4, 6), (0, 0)])
    assert np.flatnonzero(notes.flags["flag"]).tolist() == [1, 3, 5]
    assert notes.labels["label"].tolist() == [-1, 3, -1, 3, -1, 3, -1]
    assert notes.links["link"].tolist() == [[3, 4, 1, 2], [5, 6, 1, 2]]


def test_white_space_that_a_tokenizer_trimmed_is_the_character_before():
    facts = CharacterFacts(flags={"flag": [(0, 3)]})
    # `a`, three spaces trimmed to nothing, `b`
    assert to_tokens(facts, "a   b", [(0, 1), (4, 4), (4, 5)]).flags["flag"].tolist() == [True, False, False]
    assert to_tokens(facts, "a   b", [(0, 1), (3, 3), (4, 5)]).flags["flag"].tolist() == [True, True, False]


def test_a_byte_of_a_character_knows_only_what_came_before_it():
    text = "a\u4e2d"
    known_at_the_end = CharacterFacts(links={"link": [CharacterLink(2, 2, 0, 1)]})
    assert to_tokens(known_at_the_end, text, byte_offsets(text)).links["link"].tolist() == [[3, 4, 0, 1]]
    known_before = CharacterFacts(links={"link": [CharacterLink(1, 2, 0, 1)]})
    assert to_tokens(known_before, "ab", byte_offsets("ab")).links["link"].tolist() == []
    assert to_tokens(known_before, "ab", [(0, 0), (0, 1), (1, 2)]).links["link"].tolist() == []


def test_a_link_that_no_token_is_late_enough_for_is_left_out():
    facts = CharacterFacts(links={"link": [CharacterLink(3, 3, 0, 1)]})
    assert to_tokens(facts, "abc", [(0, 1), (1, 2)]).links["link"].tolist() == []


def test_no_tokens_and_no_text_are_fine():
    facts = CharacterFacts(flags={"flag": []}, labels={"label": []}, links={"link": []})
    notes = to_tokens(facts, "", [])
    assert (notes.length, notes.names) == (0, ("flag", "label", "link"))
    assert to_tokens(facts, "", [(0, 0)]).labels["label"].tolist() == [-1]


def test_a_span_that_ends_before_it_starts_is_no_span():
    facts = CharacterFacts(flags={"flag": [(4, 1), (0, 5)]})
    assert to_tokens(facts, "abcdef", byte_offsets("abcdef")).flags["flag"].tolist() == [True] * 5 + [False]
