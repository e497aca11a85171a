"""Zoo entries against the rules of their papers, written as loops over positions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from openwork.errors import PatternError
from openwork.layout import bind
from openwork.patterns import Annotations, Causal, Pattern, PerHead, Strided, Window, parse_pattern, zoo

N = 40
NEEDED: dict[str, tuple[Any, ...]] = {"bigbird_itc": (8,), "bigbird_etc": (8,), "natten_2d": (16, 20)}


def made(name: str) -> Pattern:
    """The entry with its defaults, and the least that it asks for."""
    return getattr(zoo, name)(*NEEDED.get(name, ()))  # type: ignore[no-any-return]


def mask(pattern: Pattern, notes: Annotations | None = None, n: int = N) -> np.ndarray:
    return bind(pattern, q_len=n, kv_len=n, annotations=notes).to_dense()[0, 0]


def by_loops(rule: Callable[[int, int], bool], n: int = N) -> np.ndarray:
    return np.array([[rule(q, k) for k in range(n)] for q in range(n)])


@pytest.mark.parametrize("name", zoo.__all__)
def test_every_entry_reads_back_by_name_and_by_its_words(name: str) -> None:
    pattern = made(name)
    text = f"{name}({', '.join(map(repr, NEEDED.get(name, ())))})"
    assert parse_pattern(text) == parse_pattern(f"zoo.{text}") == parse_pattern(repr(pattern)) == pattern
    assert name not in repr(pattern)


@pytest.mark.parametrize("name", zoo.__all__)
def test_entries_for_decoders_look_back_only(name: str) -> None:
    pattern = made(name)
    decoder = (getattr(zoo, name).__doc__ or "").startswith("Decoder")
    assert (isinstance(pattern, type(Causal() & Strided(2))) and pattern.patterns[0] == Causal()) == decoder


POSITION_RULES: dict[str, tuple[Pattern, Callable[[int, int], bool]]] = {
    "block_sparse": (zoo.block_sparse(4), lambda q, k: abs(q // 4 - k // 4) <= 1),
    "strided, as the paper writes it": (
        zoo.sparse_transformer_strided(6),
        lambda q, k: k <= q and (k >= q - 6 or (q - k) % 6 == 0),
    ),
    "strided, as the code has it": (
        zoo.sparse_transformer_strided(6),
        lambda q, k: k <= q and (q - k < 6 or (q - k) % 6 == 0),
    ),
    "fixed": (zoo.sparse_transformer_fixed(8, c=2), lambda q, k: k <= q and (q // 8 == k // 8 or k % 8 in (6, 7))),
    "fixed, another head": (
        zoo.sparse_transformer_fixed(8, c=2, offset=2),
        lambda q, k: k <= q and (q // 8 == k // 8 or k % 8 in (4, 5)),
    ),
    "streaming_llm": (zoo.streaming_llm(2, 5), lambda q, k: k <= q and (k < 2 or q - k <= 5)),
    "mistral": (zoo.mistral(5), lambda q, k: 0 <= q - k < 5),
    "gemma": (zoo.gemma(5), lambda q, k: 0 <= q - k < 5),
    "gpt_oss": (zoo.gpt_oss(5), lambda q, k: 0 <= q - k < 5),
    "llama4_chunked": (zoo.llama4_chunked(7), lambda q, k: k <= q and q // 7 == k // 7),
    "power_attention": (
        zoo.power_attention(3),
        lambda q, k: k <= q and (q - k <= 3 or q - k in {1, 2, 4, 8, 16, 32}),
    ),
    "log_sparse": (zoo.log_sparse(), lambda q, k: q - k in {0, 1, 2, 4, 8, 16, 32}),
}


@pytest.mark.parametrize("entry", POSITION_RULES)
def test_entries_follow_their_papers(entry: str) -> None:
    pattern, rule = POSITION_RULES[entry]
    assert np.array_equal(mask(pattern), by_loops(rule))


def test_longformer_is_a_window_and_global_tokens_both_ways() -> None:
    notes = Annotations(N, flags={"global": np.isin(np.arange(N), (0, 17))})
    expected = by_loops(lambda q, k: abs(q - k) <= 3 or q in (0, 17) or k in (0, 17))
    assert np.array_equal(mask(zoo.longformer(6), notes), expected)


def test_bigbird_is_window_global_and_random() -> None:
    pattern = zoo.bigbird_itc(10, block=4, window_blocks=3, global_blocks=1, random_blocks=2, seed=1)
    blocks = mask(pattern)[::4, ::4]
    known = by_loops(lambda q, k: abs(q - k) <= 1 or q < 1 or k < 1, 10)
    assert (blocks & known).sum() == known.sum()
    assert set((blocks & ~known).sum(axis=1)[1:]) == {2}  # two random blocks for every row that is not global
    notes = Annotations(N, flags={"global": np.arange(N) == 20})
    etc = mask(zoo.bigbird_etc(10, block=4, random_blocks=1), notes)
    assert etc[20].all() and etc[:, 20].all()


def longnet_by_loops(segments: tuple[int, ...], dilations: tuple[int, ...], head: int) -> np.ndarray:
    """The paper's procedure: cut the sequence in segments, keep every r-th row from `head % r` on, attend within."""
    allowed = np.zeros((N, N), dtype=bool)
    for segment, step in zip(segments, dilations, strict=True):
        for start in range(0, N, segment):
            kept = [p for p in range(start, min(start + segment, N)) if (p - start) % step == head % step]
            for q in kept:
                for k in kept:
                    allowed[q, k] |= k <= q
    return allowed


@pytest.mark.parametrize("head", range(4))
def test_longnet_dilates_longer_segments(head: int) -> None:
    found = mask(zoo.longnet((4, 8, 32), (1, 2, 4), head))
    assert np.array_equal(found, longnet_by_loops((4, 8, 32), (1, 2, 4), head))


def test_longnet_refuses_what_it_cannot_say() -> None:
    with pytest.raises(
        PatternError,
        match=r"zoo\.longnet: one dilation for each segment is needed; got segments=\(4, 8\), dilations=\(1,\)",
    ):
        zoo.longnet((4, 8), (1,))
    with pytest.raises(PatternError, match=r"zoo\.longnet: segment 8 must be a multiple of its dilation; got 3"):
        zoo.longnet((8,), (3,))


def test_block_diffusion_is_the_published_mask() -> None:
    # BD3-LM trains on [noised; clean]: block-diagonal in each half, noised sees earlier clean blocks, clean is
    # block-causal
    half, size = N // 2, 5
    position = np.arange(N)
    notes = Annotations(
        N,
        flags={"clean": position >= half},
        labels={"block": position % half // size, "half": position // half},
    )

    def rule(q: int, k: int) -> bool:
        q_block, k_block = q % half // size, k % half // size
        q_clean, k_clean = q >= half, k >= half
        block_diagonal = q_block == k_block and q_clean == k_clean
        offset_block_causal = q_block > k_block and k_clean and not q_clean
        block_causal = q_block >= k_block and k_clean and q_clean
        return block_diagonal or offset_block_causal or block_causal

    assert np.array_equal(mask(zoo.block_diffusion(), notes), by_loops(rule))


def test_our_own_entries_keep_what_they_promise() -> None:
    position = np.arange(N)
    notes = Annotations(
        N,
        flags={
            "heading": position % 11 == 3,
            "definition": position % 13 == 4,
            "question": position >= 35,
            "error": position == 9,
        },
        labels={"passage": np.where(position < 35, position // 12, -1), "record": position // 10},
        links={"use": [[30, 33, 7, 9]]},
    )
    code = mask(zoo.source_code(window=3, sinks=2), notes)
    assert np.flatnonzero(code[31]).tolist() == [0, 1, 4, 7, 8, 17, 28, 29, 30, 31]
    policy = mask(zoo.policy_documents(window=3, sinks=1), notes)
    assert np.flatnonzero(policy[31]).tolist() == [0, 3, 14, 25, 28, 29, 30, 31]
    passages = mask(zoo.retrieved_passages(sinks=1), notes)
    assert passages[37, :38].all() and np.flatnonzero(passages[26]).tolist() == [0, 24, 25, 26]
    logs = mask(zoo.logs(window=2, sinks=1), notes)
    assert np.flatnonzero(logs[37]).tolist() == [0, 9, *range(30, 38)]
    dna = mask(zoo.dna(window=1, reach=6, step=3), notes)
    assert np.flatnonzero(dna[14]).tolist() == [11, 13, 14, 15, 17] and np.flatnonzero(dna[10]).tolist() == [
        10,
        11,
        13,
        16,
    ]


def test_dna_for_decoders_is_what_causality_leaves_of_it() -> None:
    notes = Annotations(length=N, labels={"record": np.arange(N) // 15})
    both, past = (mask(entry(window=2, reach=9, step=3), notes) for entry in (zoo.dna, zoo.dna_causal))
    assert np.array_equal(past, np.tril(both)) and not np.array_equal(past, both)


def test_the_two_heads_of_the_sparse_transformer_can_stand_apart() -> None:
    heads = Causal() & PerHead(Window(before=5), Strided(6))
    union = mask(heads.head(0)) | mask(heads.head(1))
    assert np.array_equal(union, mask(zoo.sparse_transformer_strided(6)))


@pytest.mark.parametrize("name", zoo.__all__)
def test_entries_name_their_argument_where_a_value_is_bad(name: str) -> None:
    parameters = inspect.signature(getattr(zoo, name)).parameters
    needed = dict(
        zip((p for p in parameters if parameters[p].default is inspect.Parameter.empty), (8, 8), strict=False)
    )
    for argument in parameters:
        for bad in (None, "", -1, 2.5, 10**30, True):
            with pytest.raises(PatternError) as refused:
                getattr(zoo, name)(**{**needed, argument: bad})
            assert f"zoo.{name}" in str(refused.value) and argument in str(refused.value)


def test_entries_say_where_they_come_from_when_a_pattern_refuses() -> None:
    with pytest.raises(PatternError, match=r"^zoo\.longformer: Longformer's attention_window must be even; got 7"):
        zoo.longformer(window=7)
