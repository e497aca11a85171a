"""Act 4: one attention layer at growing lengths. What a mask costs, what dense attention costs, what sparse costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from openwork.layout import BlockLayout
from openwork.measure import PeakMemory
from openwork.ops import explain, sparse_attention
from openwork.study.acts.passes import interleaved
from openwork.study.environment import environment

__all__ = ["CONTENDERS", "Scale", "ScaleRow", "eager_bytes", "measure_scale"]

DENSE, MASK, SPARSE = "dense", "dense with a mask", "sparse"
CONTENDERS = (DENSE, MASK, SPARSE)
"""What is measured: causal flash attention, the same operation with the pattern as a mask, and openwork."""

_FLOAT_BYTES = 4
_EAGER_MATRICES = 4
"""Scores and probabilities, both kept for the backward pass, and the gradient of each."""

Progress = Callable[[int, int, str], None]
"""Told how many passes are done, of how many, and what comes next."""


@dataclass(frozen=True, kw_only=True)
class ScaleRow:
    """One way to compute attention at one length, forward and backward."""

    name: str
    """One of `CONTENDERS`."""
    length: int
    """Tokens."""
    samples_s: tuple[float, ...]
    """Time of each timed pass, in seconds."""
    extra_bytes: int | None
    """Most memory beyond query, key, value and their incoming gradient, in bytes; `None` where unknown."""
    theory_bytes: int
    """What has to be held by design, in bytes."""
    theory_speedup: float
    """Dense pairs over the pairs that this way has to compute."""
    backend: str
    """What computed it."""

    @property
    def seconds(self) -> float:
        """Median time of a pass."""
        return median(self.samples_s)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What act 4 measured."""

    pattern: str
    """The pattern's text."""
    source: str
    """The text that it follows."""
    heads: int
    """Query, key and value heads."""
    head_dim: int
    """Channels of each."""
    compile_s: Mapping[str, float]
    """Time to compile the layout of each length (its decimal text), in seconds."""
    rows: tuple[ScaleRow, ...]
    """All contenders at all lengths."""
    memory_meaning: str
    """What was measured as memory."""
    environment: Mapping[str, Any]
    """Machine and versions."""
    layer: tuple[ScaleRow, ...] = ()
    """The same pattern in a whole Llama layer of transformers, through `hf.sparsify`; empty where it was not run."""

    def row(self, name: str, length: int) -> ScaleRow:
        """The figures of one contender at one length."""
        return next(row for row in self.rows if row.name == name and row.length == length)

    def layer_row(self, name: str) -> ScaleRow:
        """The figures of one contender in a whole layer."""
        return next(row for row in self.layer if row.name == name)

    @property
    def lengths(self) -> tuple[int, ...]:
        """All lengths, ascending."""
        return tuple(sorted({row.length for row in self.rows}))

    def speedup(self, length: int, over: str = DENSE) -> float:
        """Time of another contender over sparse attention's."""
        return self.row(over, length).seconds / self.row(SPARSE, length).seconds

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Scale:
        """The result that `to_dict` wrote."""
        values = {f.name: content[f.name] for f in fields(cls)}
        for name in ("rows", "layer"):
            values[name] = tuple(ScaleRow(**{**row, "samples_s": tuple(row["samples_s"])}) for row in content[name])
        return cls(**values)


def eager_bytes(length: int, heads: int) -> int:
    """Memory of attention that keeps all scores, forward and backward, by arithmetic: float32, one sequence.

    Scores, probabilities and the gradient of each are `[heads, length, length]`; the mask is one byte for each pair.

    >>> round(eager_bytes(8192, heads=8) / 1e9, 1)
    8.7
    """
    return length * length * (_EAGER_MATRICES * heads * _FLOAT_BYTES + 1)


def measure_scale(
    layouts: Mapping[int, BlockLayout],
    *,
    pattern: str,
    source: str,
    compile_s: Mapping[int, float],
    heads: int = 8,
    head_dim: int = 64,
    rounds: int = 3,
    seconds: float = 30.0,
    device: str = "cpu",
    progress: Progress = lambda done, total, what: None,
) -> Scale:
    """Times one attention layer, forward and backward, with interleaved rounds at each length.

    A round runs each contender once, so that what else the machine does meets all of them; the first round of the
    shortest length warms up and does not count.

    Args:
        layouts: Length to the layout of the pattern there; causal.
        pattern: The pattern's text, for the report.
        source: The text that it follows, for the report.
        compile_s: Length to the time that compiling took.
        heads: Number of query, key and value heads.
        head_dim: Channels of each.
        rounds: Most rounds at each length.
        seconds: Time after which no further round of a length begins; each has at least one.
        device: `cpu` or `cuda`.
        progress: Told before each pass.
    """
    rows: list[ScaleRow] = []
    lengths = sorted(layouts)
    total, done = len(lengths) * rounds * len(CONTENDERS), 0
    meaning = PeakMemory(device).meaning.replace(" of the plan's own process, libraries included", "")
    started = time.monotonic()
    for number, length in enumerate(lengths):
        leaves, gradient = _inputs(length, heads, head_dim, device)
        ways = {name: partial(_pass, way, leaves, gradient) for name, way in _ways(layouts[length], device).items()}
        if number == 0:
            for compute in ways.values():
                compute()
        found = interleaved(
            ways,
            rounds=rounds,
            # what is left of the time is for the lengths to come as well: a longer one needs four times as much
            until=started + seconds * 4.0 ** (number + 1 - len(lengths)),
            device=device,
            before=partial(_tell, progress, done, total, f"{length:,} tokens"),
        )
        done += rounds * len(ways)
        rows += [_row(name, layouts[length], leaves, *found[name]) for name in ways]
        del leaves, gradient, ways
    progress(total, total, "done")
    return Scale(
        pattern=pattern,
        source=source,
        heads=heads,
        head_dim=head_dim,
        compile_s={str(length): compile_s[length] for length in lengths},
        rows=tuple(rows),
        memory_meaning=f"{meaning}, beyond what was there before the pass",
        environment=environment(device),
    )


def _inputs(length: int, heads: int, head_dim: int, device: str) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(length)
    shape = (1, heads, length, head_dim)
    leaves = [torch.randn(shape, generator=generator).to(device).requires_grad_() for _ in range(3)]
    return leaves, torch.randn(shape, generator=generator).to(device)


def _ways(layout: BlockLayout, device: str) -> dict[str, Callable[..., Tensor]]:
    mask = torch.from_numpy(layout.to_dense()).to(device)
    return {
        DENSE: lambda q, k, v: scaled_dot_product_attention(q, k, v, is_causal=True),
        MASK: lambda q, k, v: scaled_dot_product_attention(q, k, v, attn_mask=mask),
        SPARSE: lambda q, k, v: sparse_attention(q, k, v, layout).output,
    }


def _pass(forward: Callable[..., Tensor], leaves: list[Tensor], gradient: Tensor) -> None:
    torch.autograd.grad(forward(*leaves), leaves, gradient)


def _tell(progress: Progress, before: int, total: int, where: str, done: int, name: str) -> None:
    progress(before + done, total, f"{where}: {name}")


def _row(name: str, layout: BlockLayout, leaves: list[Tensor], samples: list[float], extra: list[int]) -> ScaleRow:
    query, key, value = leaves
    told = explain(query, key, value, layout)
    batch, heads, length, _ = query.shape
    # output, one number for each query, and three gradients; the mask is its own input and was there before
    held = 4 * query.numel() * _FLOAT_BYTES + batch * heads * length * _FLOAT_BYTES
    if name == SPARSE:
        held += told.layout_bytes
    return ScaleRow(
        name=name,
        length=length,
        samples_s=tuple(samples),
        extra_bytes=int(median(extra)) if extra else None,
        theory_bytes=held,
        theory_speedup=told.ideal if name == SPARSE else 1.0,
        backend=told.backend if name == SPARSE else "sdpa",
    )
