"""Importers for DeepSpeed's sparse attention: one function for each `SparsityConfig`, in its words.

DeepSpeed speaks of blocks and draws a layout of whole blocks. `attention="unidirectional"` cuts that layout at the
diagonal of blocks, so a query still sees the rest of its own block: nothing is causal inside the diagonal block unless
a mask is passed too. The patterns here mean exactly those layouts; a decoder wants `Causal() & ...` around them.
"""

from __future__ import annotations

from collections.abc import Sequence

from openwork.errors import PatternError
from openwork.patterns.base import Pattern
from openwork.patterns.checks import shown, whole, whole_row, yes_or_no
from openwork.patterns.chunk import Chunk
from openwork.patterns.first import First
from openwork.patterns.random_blocks import RandomBlocks
from openwork.patterns.summary import Summary

__all__ = ["bigbird", "bslongformer", "fixed", "local_sliding_window"]


def local_sliding_window(
    block: int = 16, num_sliding_window_blocks: int = 3, attention: str = "unidirectional"
) -> Pattern:
    """`LocalSlidingWindowSparsityConfig`: half of the blocks on each side of the own one, rounded down.

    `"unidirectional"` keeps the blocks before the own one, so 3 window blocks are 2.

    >>> local_sliding_window(block=16, num_sliding_window_blocks=3)
    Chunk(size=16, before=1, after=0)
    """
    half = whole("deepspeed num_sliding_window_blocks", num_sliding_window_blocks, at_least=1) // 2
    block = whole("deepspeed block", block, at_least=1)
    return Chunk(block, before=half, after=0 if _is_unidirectional(attention) else half)


def bslongformer(
    block: int = 16,
    num_sliding_window_blocks: int = 3,
    global_block_indices: Sequence[int] = (0,),
    global_block_end_indices: Sequence[int] | None = None,
    attention: str = "bidirectional",
) -> Pattern:
    """`BSLongformerSparsityConfig`: a window of blocks, and global blocks as keys and as queries.

    >>> bslongformer(block=16, global_block_indices=[0])
    Chunk(size=16, before=1, after=1) | First(keys=16) | First(queries=16)
    """
    block = whole("deepspeed block", block, at_least=1)
    starts = list(whole_row("deepspeed global_block_indices", global_block_indices, at_least=0))
    stops = [start + 1 for start in starts]
    if global_block_end_indices is not None:
        stops = list(whole_row("deepspeed global_block_end_indices", global_block_end_indices, at_least=0))
    if len(stops) != len(starts) or any(stop <= start for start, stop in zip(starts, stops, strict=True)):
        raise PatternError(f"deepspeed global_block_end_indices must have one end after each of {starts}; got {stops}.")
    pattern: Pattern = local_sliding_window(block, num_sliding_window_blocks, "bidirectional")
    for start, stop in zip(starts, stops, strict=True):
        for side in ("keys", "queries"):
            reached: Pattern = First(**{side: stop * block})
            pattern = pattern | (reached - First(**{side: start * block}) if start else reached)
    return _cut(pattern, block, attention)


def bigbird(
    block: int = 16,
    num_random_blocks: int = 1,
    num_sliding_window_blocks: int = 3,
    num_global_blocks: int = 1,
    attention: str = "bidirectional",
    *,
    seed: int = 0,
    num_blocks: int | None = None,
) -> Pattern:
    """`BigBirdSparsityConfig`: a window of blocks, the first blocks as keys and as queries, and random blocks.

    DeepSpeed draws its random blocks from an unseeded generator, and among all blocks of the row; the ones here are
    drawn by a stated function, and among those that the window and the global blocks leave. Everything else is equal.

    Args:
        block: As in DeepSpeed.
        num_random_blocks: As in DeepSpeed; 0 is none.
        num_sliding_window_blocks: As in DeepSpeed.
        num_global_blocks: As in DeepSpeed.
        attention: As in DeepSpeed.
        seed: Seed of the random blocks.
        num_blocks: Blocks of the sequence; bidirectional random blocks need it.

    Examples:
        >>> bigbird(block=16, num_random_blocks=0)
        Chunk(size=16, before=1, after=1) | First(keys=16) | First(queries=16)
    """
    num_global_blocks = whole("deepspeed num_global_blocks", num_global_blocks, at_least=1)
    pattern = bslongformer(block, num_sliding_window_blocks, (0,), (num_global_blocks,), "bidirectional")
    if whole("deepspeed num_random_blocks", num_random_blocks, at_least=0):
        both_ways = not _is_unidirectional(attention)
        if both_ways and num_blocks is None:
            raise PatternError(
                "deepspeed.bigbird draws from the whole sequence when bidirectional: give num_blocks, its number of "
                "blocks, or num_random_blocks=0."
            )
        near = num_sliding_window_blocks // 2
        pattern = pattern | RandomBlocks(
            block, num_random_blocks, seed, num_global_blocks, near, num_blocks if both_ways else None
        )
    return _cut(pattern, block, attention)


def fixed(
    block: int = 16,
    num_local_blocks: int = 4,
    num_global_blocks: int = 1,
    attention: str = "bidirectional",
    horizontal_global_attention: bool = False,
    num_different_global_patterns: int = 1,
    *,
    head: int = 0,
) -> Pattern:
    """`FixedSparsityConfig` for one head: local windows side by side, and global blocks at the end of each.

    Exact for lengths that are a multiple of the local window; in a shorter last window DeepSpeed moves the global
    blocks to the end of the sequence, which a pattern without a length cannot.

    Args:
        block: As in DeepSpeed.
        num_local_blocks: As in DeepSpeed.
        num_global_blocks: As in DeepSpeed.
        attention: As in DeepSpeed. When unidirectional, the global blocks of a window are seen from the first of
            them on, as its code does: for several global blocks that looks ahead by up to `num_global_blocks - 1`.
        horizontal_global_attention: False only: global queries inside each window have no pattern here.
        num_different_global_patterns: As in DeepSpeed.
        head: Which head, where several global patterns take turns.

    Examples:
        >>> fixed(block=16, num_local_blocks=4)
        Chunk(size=64, before=0, after=0) | Summary(block=64, count=16, offset=0)
    """
    block = whole("deepspeed block", block, at_least=1)
    num_local_blocks = whole("deepspeed num_local_blocks", num_local_blocks, at_least=1)
    num_global_blocks = whole("deepspeed num_global_blocks", num_global_blocks, at_least=1)
    num_different_global_patterns = whole(
        "deepspeed num_different_global_patterns", num_different_global_patterns, at_least=1
    )
    head = whole("deepspeed head", head, at_least=0)
    if num_local_blocks % num_global_blocks:
        raise PatternError(
            f"deepspeed num_local_blocks={num_local_blocks} must be a multiple of num_global_blocks="
            f"{num_global_blocks}."
        )
    if num_different_global_patterns > num_local_blocks // num_global_blocks:
        raise PatternError(
            f"deepspeed num_different_global_patterns must be 1 to {num_local_blocks // num_global_blocks}; got "
            f"{num_different_global_patterns}."
        )
    if yes_or_no("deepspeed horizontal_global_attention", horizontal_global_attention):
        raise PatternError(
            "deepspeed.fixed reads horizontal_global_attention=False only; flag those queries with an annotation and "
            "add | Queries(name)."
        )
    group = num_global_blocks * block
    local: Pattern = Chunk(num_local_blocks * block)
    summary: Pattern = Summary(num_local_blocks * block, group, offset=head % num_different_global_patterns * group)
    if _is_unidirectional(attention):
        local, summary = _cut(local, block, attention), _cut(summary, group, attention)
    return local | summary


def _is_unidirectional(attention: str) -> bool:
    if not isinstance(attention, str) or attention not in ("unidirectional", "bidirectional"):
        raise PatternError(f"deepspeed attention must be 'unidirectional' or 'bidirectional'; got {shown(attention)}.")
    return attention == "unidirectional"


def _cut(pattern: Pattern, block: int, attention: str) -> Pattern:
    return pattern & Chunk(block, before=None, after=0) if _is_unidirectional(attention) else pattern
