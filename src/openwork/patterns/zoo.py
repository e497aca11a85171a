"""The literature in the words of the patterns: each entry is one line and cites its source.

`parse_pattern` reads every name here, as `longformer(window=512)` or `zoo.longformer(window=512)`; what it gives back
prints in the words of the patterns. Entries for decoders are causal, entries for encoders are not; each says so.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import reduce, wraps
from typing import ParamSpec

from openwork.errors import PatternError
from openwork.patterns.base import Pattern
from openwork.patterns.causal import Causal
from openwork.patterns.checks import LARGEST, fact_name, whole, whole_row
from openwork.patterns.chunk import Chunk
from openwork.patterns.dilated import Dilated
from openwork.patterns.first import First
from openwork.patterns.flags import Keys, Queries
from openwork.patterns.grid import Grid
from openwork.patterns.labels import Earlier, Same
from openwork.patterns.links import Linked
from openwork.patterns.powers import PowersOfTwo
from openwork.patterns.random_blocks import RandomBlocks
from openwork.patterns.strided import Strided
from openwork.patterns.summary import Summary
from openwork.patterns.window import Window

__all__ = [
    "bigbird_causal",
    "bigbird_etc",
    "bigbird_itc",
    "block_diffusion",
    "block_sparse",
    "dna",
    "dna_causal",
    "gemma",
    "gpt_oss",
    "llama4_chunked",
    "log_sparse",
    "logs",
    "longformer",
    "longnet",
    "mistral",
    "natten_2d",
    "policy_documents",
    "power_attention",
    "retrieved_passages",
    "source_code",
    "sparse_transformer_fixed",
    "sparse_transformer_strided",
    "streaming_llm",
]

P = ParamSpec("P")

_FROM_ZERO = frozenset({"after", "before", "head", "offset", "reach", "seed", "window"})
"""Numbers that may be 0; all others are 1 or more."""


def _entry(build: Callable[P, Pattern]) -> Callable[P, Pattern]:
    """An entry whose numbers and names are checked, and whose errors say which entry they are about."""
    name = f"zoo.{build.__name__}"
    signature = inspect.signature(build)

    @wraps(build)
    def entry(*args: P.args, **kwargs: P.kwargs) -> Pattern:
        given = signature.bind(*args, **kwargs).arguments
        for argument, value in given.items():
            kind = signature.parameters[argument].annotation
            if kind == "int":
                most = 2**64 - 1 if argument == "seed" else LARGEST
                whole(f"{name} {argument}", value, at_least=argument not in _FROM_ZERO, at_most=most)
            elif kind == "str":
                fact_name(f"{name} {argument}:", value)
        try:
            return build(*args, **kwargs)
        except PatternError as error:
            raise PatternError(f"{name}: {error}") from None

    return entry


@_entry
def block_sparse(block: int = 64, before: int = 1, after: int = 1) -> Pattern:
    """Encoder: the query's own block and blocks beside it (Blockwise attention, Qiu et al. 2019, arXiv 1911.02972)."""
    return Chunk(block, before=before, after=after)


@_entry
def sparse_transformer_strided(stride: int = 128) -> Pattern:
    """Decoder: the last `stride` keys, and every `stride`-th one (Child et al. 2019, arXiv 1904.10509, section 4.2).

    The paper's window reaches `stride` back, its code's `stride - 1`; the key between them is on the stride, so the
    union is the same. The paper also splits the two among heads: `PerHead` of the two terms.

    >>> sparse_transformer_strided(128)
    Causal() & (Window(before=127, after=0) | Strided(stride=128))
    """
    return Causal() & (Window(before=stride - 1) | Strided(stride))


@_entry
def sparse_transformer_fixed(block: int = 128, c: int = 8, offset: int = 0) -> Pattern:
    """Decoder: the own block, and the last `c` keys of each block (Child et al. 2019, arXiv 1904.10509, section 4.2).

    The paper writes the cells `t..l` with `t = l - c`, which are `c + 1`; this follows its text, "c cells". Its code
    gives other heads other cells: `offset`.

    >>> sparse_transformer_fixed(128, c=8)
    Causal() & (Chunk(size=128, before=0, after=0) | Summary(block=128, count=8, offset=0))
    """
    return Causal() & (Chunk(block) | Summary(block, c, offset))


@_entry
def longformer(window: int = 512, flag: str = "global") -> Pattern:
    """Encoder: half a window on each side, and global tokens both ways (Beltagy et al. 2020, arXiv 2004.05150).

    Paper and code agree on the pairs; the code reads global tokens through projections of their own.
    """
    return Window.from_longformer(window) | Keys(flag) | Queries(flag)


@_entry
def bigbird_itc(
    num_blocks: int,
    block: int = 64,
    window_blocks: int = 3,
    global_blocks: int = 2,
    random_blocks: int = 3,
    seed: int = 0,
) -> Pattern:
    """Encoder: window, first blocks both ways, random blocks (Zaheer et al. 2020, arXiv 2007.14062, section 2).

    The internal construction: global tokens are tokens of the text. This follows the paper, where they are the
    first; its code takes the first block and the last. `RandomBlocks` says how the drawing differs.
    """
    near = window_blocks // 2
    drawn = RandomBlocks(block, random_blocks, seed, skip_first=global_blocks, skip_near=near, num_blocks=num_blocks)
    return Chunk(block, near, near) | First(keys=global_blocks * block) | First(queries=global_blocks * block) | drawn


@_entry
def bigbird_etc(
    num_blocks: int,
    block: int = 84,
    window_blocks: int = 3,
    random_blocks: int = 3,
    seed: int = 0,
    flag: str = "global",
) -> Pattern:
    """Encoder: window, added global tokens both ways, random blocks (Zaheer et al. 2020, arXiv 2007.14062, section 2).

    The extended construction: global tokens are added to the text; here they carry flag `flag`, wherever they stand.
    """
    near = window_blocks // 2
    drawn = RandomBlocks(block, random_blocks, seed, skip_near=near, num_blocks=num_blocks)
    return Chunk(block, near, near) | Keys(flag) | Queries(flag) | drawn


@_entry
def bigbird_causal(
    block: int = 64, window_blocks: int = 2, global_blocks: int = 1, random_blocks: int = 3, seed: int = 0
) -> Pattern:
    """Decoder: what causality leaves of BigBird, drawn from the past (ours, after Zaheer et al., arXiv 2007.14062).

    The paper has no causal form: its decoder for summaries attends fully.
    """
    drawn = RandomBlocks(block, random_blocks, seed, skip_first=global_blocks, skip_near=window_blocks - 1)
    return Causal() & (Chunk(block, before=window_blocks - 1) | First(keys=global_blocks * block) | drawn)


@_entry
def streaming_llm(sinks: int = 4, window: int = 1020) -> Pattern:
    """Decoder: sink tokens and the `window` keys before the query (Xiao et al. 2023, arXiv 2309.17453).

    The figures of its cache, `sinks` and `window` tokens, to which the query's own key comes. Its positions are those
    in the cache; a pattern says which pairs talk, not which positions they are given.
    """
    return Causal() & (Window(before=window) | First(keys=sinks))


@_entry
def mistral(window: int = 4096) -> Pattern:
    """Decoder: the last `window` keys, the own among them (Mistral 7B, Jiang et al. 2023, arXiv 2310.06825).

    The paper's text writes positions `i - window` to `i`, one more; this follows the code.

    >>> mistral()
    Causal() & Window(before=4095, after=0)
    """
    return Causal() & Window.from_hf(window)


@_entry
def gemma(window: int = 1024) -> Pattern:
    """Decoder, local layers: the last `window` keys (Gemma 3, 2025, arXiv 2503.19786; Gemma 2: 4096, 2408.00118).

    Gemma 3 has five local layers to one dense, Gemma 2 one to one: a `Plan` says which layer takes which.
    """
    return Causal() & Window.from_hf(window)


@_entry
def gpt_oss(window: int = 128) -> Pattern:
    """Decoder, every second layer: the last `window` keys (gpt-oss model card, OpenAI 2025, arXiv 2508.10925).

    Its learned denominator is not a pair: pass `sink_logits` to `sparse_attention`.
    """
    return Causal() & Window.from_hf(window)


@_entry
def llama4_chunked(size: int = 8192) -> Pattern:
    """Decoder, three layers of four: the own chunk (Llama 4, Meta 2025, `attention_chunk_size` of its released code).

    >>> llama4_chunked()
    Causal() & Chunk(size=8192, before=0, after=0)
    """
    return Causal() & Chunk(size)


@_entry
def longnet(
    segments: Sequence[int] = (2048, 4096, 8192, 16384, 32768),
    dilations: Sequence[int] = (1, 2, 4, 8, 16),
    head: int = 0,
) -> Pattern:
    """Decoder: segments whose every r-th token talks to the others of it (LongNet, Ding et al. 2023, arXiv 2307.02486).

    Head `head` takes the tokens at `head % r`. The paper weighs its segments by their softmax denominators, so a pair
    in several of them counts as often; here it counts once. Its largest setting has dilations that do not divide
    their segments; here they must.

    >>> longnet(segments=(4, 8), dilations=(1, 2), head=1)  # doctest: +NORMALIZE_WHITESPACE
    Causal() & (Chunk(size=4, before=0, after=0)
        | Chunk(size=8, before=0, after=0) & Strided(stride=2) & Summary(block=2, count=1, offset=0))
    """
    segments = whole_row("segments", segments, at_least=1)
    dilations = whole_row("dilations", dilations, at_least=1)
    if len(segments) != len(dilations) or not segments:
        raise PatternError(f"one dilation for each segment is needed; got segments={segments}, dilations={dilations}.")
    for segment, step in zip(segments, dilations, strict=True):
        if segment % step:
            raise PatternError(f"segment {segment} must be a multiple of its dilation; got {step}.")
    branches = (
        Chunk(segment) if step == 1 else Chunk(segment) & Strided(step) & Summary(step, 1, step - 1 - head % step)
        for segment, step in zip(segments, dilations, strict=True)
    )
    return Causal() & reduce(lambda some, more: some | more, branches)


@_entry
def power_attention(window: int = 255) -> Pattern:
    """Decoder: a window, and keys at distances that double (PowerAttention, Chen et al. 2025, arXiv 2503.03588)."""
    return Causal() & (Window(before=window) | PowersOfTwo())


@_entry
def log_sparse() -> Pattern:
    """Decoder: keys at distances that double (LogSparse Transformer, Li et al. 2019, arXiv 1907.00235)."""
    return Causal() & PowersOfTwo()


@_entry
def natten_2d(height: int, width: int, kernel: int = 13, dilation: int = 1) -> Pattern:
    """Encoder: neighbourhoods of an image, row by row (Hassani et al. 2022, arXiv 2204.07143; dilated: 2209.15001)."""
    return Grid((height, width), kernel, dilation)


@_entry
def block_diffusion(block: str = "block", half: str = "half", clean: str = "clean") -> Pattern:
    """Training of block diffusion on noised and clean text side by side (Arriola et al. 2025, arXiv 2503.09573).

    Both halves carry the number of their block as label `block`; label `half` tells the halves apart, and flag
    `clean` marks the clean one. A noised block sees itself and the clean blocks before it; clean text is block-causal.
    """
    return Same(block) & Same(half) | Keys(clean) & Earlier(block)


@_entry
def source_code(window: int = 255, sinks: int = 4, definitions: str = "definition", uses: str = "use") -> Pattern:
    """Decoder (ours): a window, first keys, lines that define, and links from each use to its definition.

    After the memory tokens of LongCoder (Guo et al. 2023, arXiv 2306.14893). The facts are those of the source
    code annotator: flag `definition`, links `use`.
    """
    return Causal() & (Window(before=window) | First(keys=sinks) | Keys(definitions) | Linked(uses))


@_entry
def policy_documents(window: int = 255, sinks: int = 4, headings: str = "heading") -> Pattern:
    """Decoder (ours): a window, first keys, every heading; after Longformer's global tokens (arXiv 2004.05150)."""
    return Causal() & (Window(before=window) | First(keys=sinks) | Keys(headings))


@_entry
def retrieved_passages(passages: str = "passage", question: str = "question", sinks: int = 4) -> Pattern:
    """Decoder (ours): passages see themselves, the question all; after block-attention (arXiv 2409.15355)."""
    return Causal() & (Same(passages) | Queries(question) | First(keys=sinks))


@_entry
def logs(window: int = 255, sinks: int = 4, record: str = "record", alarms: str = "error") -> Pattern:
    """Decoder (ours): a window, the own record, first keys, and lines with flag `error`.

    After Longformer's global tokens (arXiv 2004.05150).
    """
    return Causal() & (Window(before=window) | Same(record) | First(keys=sinks) | Keys(alarms))


@_entry
def dna(window: int = 255, reach: int = 16383, step: int = 64, record: str = "record") -> Pattern:
    """Encoder (ours): within a record, near bases all and far ones by steps, both ways.

    After Longformer's dilated window (arXiv 2004.05150).
    """
    return Same(record) & (Window(window, window) | Dilated(reach, reach, step=step))


@_entry
def dna_causal(window: int = 255, reach: int = 16383, step: int = 64, record: str = "record") -> Pattern:
    """Decoder (ours): what causality leaves of `dna`, near bases before the query all and far ones by steps.

    After Longformer's dilated window (arXiv 2004.05150).

    >>> dna_causal() == Causal() & Same("record") & (Window(before=255) | Dilated(before=16383, step=64))
    True
    """
    return Causal() & Same(record) & (Window(before=window) | Dilated(before=reach, step=step))
