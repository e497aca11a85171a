"""Each importer against an independent statement of the convention that it reads."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from openwork.errors import PatternError
from openwork.patterns import Causal, Pattern, Window, deepspeed

N = 48
Q, K = np.arange(N)[:, None], np.arange(N)[None]


def by_loops(rule: Callable[[int, int], bool]) -> np.ndarray:
    return np.array([[rule(q, k) for k in range(N)] for q in range(N)])


def mask(pattern: Pattern) -> np.ndarray:
    return np.asarray(pattern.allows(Q, K))


@pytest.mark.parametrize("n", [1, 2, 4, 7])
def test_hugging_face_windows(n: int) -> None:
    # masking_utils: the causal overlay is `kv_idx > q_idx - n`, ANDed with causality; the bidirectional one is
    # `abs(q_idx - kv_idx) <= n`
    assert np.array_equal(mask(Window.from_hf(n)), by_loops(lambda q, k: k > q - n and k <= q))
    assert np.array_equal(mask(Window.from_hf(n, bidirectional=True)), by_loops(lambda q, k: abs(q - k) <= n))


@pytest.mark.parametrize(("left", "right"), [(3, 0), (0, 0), (3, 2), (-1, 2), (4, -1)])
def test_flash_attention_windows(left: int, right: int) -> None:
    # its docstring: query i attends to keys from i - left to i + right, both ends included; -1 is no limit
    def rule(q: int, k: int, right: int = right) -> bool:
        return (left < 0 or k >= q - left) and (right < 0 or k <= q + right)

    assert np.array_equal(mask(Window.from_flash_attention((left, right))), by_loops(rule))
    causal = mask(Window.from_flash_attention((left, right), causal=True))
    assert np.array_equal(causal, by_loops(lambda q, k: rule(q, k, 0)))


@pytest.mark.parametrize("size", [1, 2, 5])
def test_xformers_windows(size: int) -> None:
    # LowerTriangularFromBottomRightLocalAttentionMask: a triangle of ones from which the one `size` below is taken
    lower = np.tril(np.ones((N, N), dtype=bool)) & ~np.tril(np.ones((N, N), dtype=bool), -size)
    assert np.array_equal(mask(Window.from_xformers(window_size=size)), lower)
    # LocalAttentionFromBottomRightMask: upper triangle from -left, lower triangle to +right
    ones = np.ones((N, N), dtype=bool)
    both = np.triu(ones, -size) & np.tril(ones, 2)
    assert np.array_equal(mask(Window.from_xformers(window_left=size, window_right=2)), both)


@pytest.mark.parametrize("size", [1, 3])
def test_onnx_windows(size: int) -> None:
    # Attention, opset 25: key j is kept iff 0 <= p - j < local_window_size, p the query's position
    assert np.array_equal(mask(Window.from_onnx(size)), by_loops(lambda q, k: 0 <= q - k < size))


@pytest.mark.parametrize("left", [-1, 0, 3])
@pytest.mark.parametrize("right", [-1, 0, 2])
def test_onnx_windows_of_the_released_operator(left: int, right: int) -> None:
    # Attention, opset 25 (onnx 1.23): p - left <= j <= p + right for each bound that is not negative
    def rule(q: int, k: int) -> bool:
        return (left < 0 or q - left <= k) and (right < 0 or k <= q + right)

    if left == right == -1:
        pytest.skip("no window at all")
    assert np.array_equal(mask(Window.from_onnx(left_window_size=left, right_window_size=right)), by_loops(rule))


@pytest.mark.parametrize("width", [2, 8])
def test_longformer_windows(width: int) -> None:
    # attention_window is the whole window: half of it before, half after; chunks of width overlap by half
    def rule(q: int, k: int) -> bool:
        return -(width // 2) <= k - q <= width // 2

    assert np.array_equal(mask(Window.from_longformer(width)), by_loops(rule))


@pytest.mark.parametrize(
    ("make", "keys"),
    [
        (lambda: Window.from_hf(4), 4),
        (lambda: Window.from_hf(4, bidirectional=True), 9),
        (lambda: Window.from_flash_attention((4, 0)), 5),
        (lambda: Window.from_flash_attention((4, 4)), 9),
        (lambda: Window.from_xformers(4), 4),
        (lambda: Window.from_xformers(window_left=4, window_right=0), 5),
        (lambda: Window.from_longformer(8), 9),
        (lambda: Window.from_onnx(4), 4),
    ],
)
def test_interior_queries_see_as_many_keys_as_was_measured(make: Callable[[], Pattern], keys: int) -> None:
    assert mask(make())[N // 2].sum() == keys


# DeepSpeed's layouts are block by block; each function below restates one `make_layout` in its own loops.

BLOCK, BLOCKS = 4, 12


def as_pairs(layout: np.ndarray) -> np.ndarray:
    return np.kron(layout, np.ones((BLOCK, BLOCK), dtype=bool))


def window_rows(half: int, unidirectional: bool) -> np.ndarray:
    layout = np.zeros((BLOCKS, BLOCKS), dtype=bool)
    for row in range(BLOCKS):
        stop = row + 1 if unidirectional else min(row + half + 1, BLOCKS)
        layout[row, max(0, row - half) : stop] = True
    return layout


@pytest.mark.parametrize("attention", ["unidirectional", "bidirectional"])
@pytest.mark.parametrize("blocks", [1, 2, 3, 5])
def test_deepspeed_sliding_windows(blocks: int, attention: str) -> None:
    expected = window_rows(blocks // 2, attention == "unidirectional")
    found = mask(deepspeed.local_sliding_window(BLOCK, blocks, attention))
    assert np.array_equal(found, as_pairs(expected))
    if (blocks, attention) == (3, "unidirectional"):
        assert expected[6].sum() == 2  # three window blocks are two when looking back only


@pytest.mark.parametrize("attention", ["unidirectional", "bidirectional"])
@pytest.mark.parametrize(("starts", "stops"), [([0], None), ([0, 5], None), ([1, 6], [3, 7]), ([], None)])
def test_deepspeed_longformer(starts: list[int], stops: list[int] | None, attention: str) -> None:
    layout = window_rows(1, False)
    for start, stop in zip(starts, stops or [start + 1 for start in starts], strict=True):
        layout[start:stop, :] = True
        layout[:, start:stop] = True
    layout = np.tril(layout) if attention == "unidirectional" else layout
    found = mask(deepspeed.bslongformer(BLOCK, 3, starts, stops, attention))
    assert np.array_equal(found, as_pairs(layout))


@pytest.mark.parametrize("attention", ["unidirectional", "bidirectional"])
@pytest.mark.parametrize(
    ("local", "global_", "patterns", "head"), [(4, 1, 1, 0), (4, 2, 1, 0), (4, 1, 4, 3), (6, 2, 3, 4), (3, 3, 1, 0)]
)
def test_deepspeed_fixed(local: int, global_: int, patterns: int, head: int, attention: str) -> None:
    layout = np.zeros((BLOCKS, BLOCKS), dtype=bool)
    for start in range(0, BLOCKS, local):
        for row in range(start, start + local):
            layout[row, start : row + 1 if attention == "unidirectional" else start + local] = True
    first = local - (1 + head % patterns) * global_
    for start in range(first, BLOCKS, local):
        layout[0 if attention == "bidirectional" else start :, start : start + global_] = True
    found = deepspeed.fixed(BLOCK, local, global_, attention, num_different_global_patterns=patterns, head=head)
    assert np.array_equal(mask(found), as_pairs(layout))


@pytest.mark.parametrize("attention", ["unidirectional", "bidirectional"])
def test_deepspeed_bigbird(attention: str) -> None:
    layout = window_rows(1, False)
    layout[:2, :] = layout[:, :2] = True
    triangle = np.tril(np.ones_like(layout)) if attention == "unidirectional" else np.ones_like(layout)
    found = mask(deepspeed.bigbird(BLOCK, 0, 3, 2, attention))
    assert np.array_equal(found, as_pairs(layout & triangle))
    # what chance adds are whole blocks outside, one for each row that has a candidate, never ahead when unidirectional
    more = mask(deepspeed.bigbird(BLOCK, 1, 3, 2, attention, seed=3, num_blocks=BLOCKS)) & ~found
    per_row = more[::BLOCK, ::BLOCK].sum(axis=1)
    assert np.array_equal(more, as_pairs(more[::BLOCK, ::BLOCK])) and not (more & ~as_pairs(triangle)).any()
    assert per_row.max() == 1 and (per_row[4:] == 1).all()


def test_unidirectional_deepspeed_is_not_causal_inside_a_block() -> None:
    found = mask(deepspeed.local_sliding_window(BLOCK, 3))
    assert (found & ~mask(Causal())).sum() == BLOCKS * BLOCK * (BLOCK - 1) // 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: Window.from_hf(None),
            r"sliding_window=None is no window in Hugging Face: use Causal\(\), or Dense\(\)",
        ),  # type: ignore[arg-type]
        (lambda: Window.from_hf(0), "Window.from_hf sliding_window must be an integer of 1 or more; got 0"),
        (lambda: Window.from_flash_attention((-1, -1)), r"window_size=\(-1, -1\) is no window in FlashAttention"),
        (lambda: Window.from_flash_attention((-2, 0)), "left must be an integer of 0 or more; got -2. -1 is unlimited"),
        (lambda: Window.from_flash_attention(4), r"window_size must be \(left, right\); got 4"),  # type: ignore[arg-type]
        (lambda: Window.from_xformers(), "takes window_size, or window_left and window_right; got window_size=None"),
        (lambda: Window.from_xformers(3, window_left=1), "takes window_size, or window_left and window_right"),
        (lambda: Window.from_xformers(window_left=3), "window_right must be an integer of 0 or more; got None"),
        (lambda: Window.from_onnx(-1), r"local_window_size=-1 is no window in ONNX: use Causal\(\)"),
        (lambda: Window.from_onnx(0), "local_window_size must be an integer of 1 or more; got 0"),
        (lambda: Window.from_onnx(), r"left_window_size=-1, right_window_size=-1 is no window in ONNX: use Dense\(\)"),
        (
            lambda: Window.from_onnx(left_window_size=-2),
            "left_window_size must be an integer of 0 or more; got -2. -1 is",
        ),
        (
            lambda: Window.from_onnx(4, left_window_size=3),
            "takes local_window_size, or left_window_size and right_window",
        ),
        (lambda: Window.from_hf(4, bidirectional=1), "Window.from_hf bidirectional must be True or False; got 1"),
        (lambda: deepspeed.fixed(block=0), "deepspeed block must be an integer of 1 or more; got 0"),
        (lambda: deepspeed.fixed(head="0"), "deepspeed head must be an integer of 0 or more; got '0'"),
        (lambda: deepspeed.fixed(num_global_blocks=2.0), "deepspeed num_global_blocks must be an integer .* got 2.0"),
        (lambda: deepspeed.bigbird(num_global_blocks=None), "deepspeed num_global_blocks must be an integer"),
        (
            lambda: deepspeed.bslongformer(global_block_indices=5),
            "global_block_indices must be a list of integers; got 5",
        ),
        (
            lambda: deepspeed.bslongformer(global_block_end_indices=("1",)),
            "global_block_end_indices must be an integer of 0 or more; got '1'",
        ),
        (lambda: Window.from_longformer(7), "Longformer's attention_window must be even; got 7"),
        (lambda: deepspeed.fixed(attention="causal"), "must be 'unidirectional' or 'bidirectional'; got 'causal'"),
        (lambda: deepspeed.fixed(4, 3, 2), "num_local_blocks=3 must be a multiple of num_global_blocks=2"),
        (lambda: deepspeed.fixed(4, 4, 2, num_different_global_patterns=3), "must be 1 to 2; got 3"),
        (
            lambda: deepspeed.fixed(4, horizontal_global_attention=True),
            r"flag those queries with an annotation and add",
        ),
        (lambda: deepspeed.bslongformer(4, 3, [2], [2]), r"must have one end after each of \[2\]; got \[2\]"),
        (lambda: deepspeed.bigbird(4, 1), "give num_blocks, its number of blocks, or num_random_blocks=0"),
    ],
)
def test_what_cannot_be_read_says_why(call: Callable[[], Pattern], message: str) -> None:
    with pytest.raises(PatternError, match=message):
        call()
