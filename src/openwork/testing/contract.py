"""The contract of the operation as cases: what every backend is tested with, forward and backward.

A backend joins the suite by its line in `openwork.ops.registry`; a kernel of your own can run the same cases.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openwork.errors import AnnotationWarning
from openwork.layout.compile import compile_layout
from openwork.layout.data import BlockLayout
from openwork.ops.api import sparse_attention
from openwork.patterns import (
    Annotations,
    Causal,
    Chunk,
    Dilated,
    First,
    Grid,
    Keys,
    Linked,
    Pattern,
    PerHead,
    PowersOfTwo,
    Queries,
    RandomBlocks,
    Same,
    Strided,
    Summary,
    Window,
)
from openwork.testing.inputs import AttentionInputs, awkward_masks, make_inputs, random_mask
from openwork.testing.layouts import shuffled_layout

__all__ = ["CASES", "Case", "case_inputs", "results"]


@dataclass(frozen=True)
class Case:
    """One call of the operation.

    Attributes:
        name: What the test is called.
        make_layout: Makes the layout.
        batch: Sequences.
        q_heads: Query heads.
        kv_heads: Key heads.
        head_dim: Channels of a query.
        v_head_dim: Channels of a value.
        scale: As in `sparse_attention`.
        softcap: As in `sparse_attention`.
        sink: Whether there are sink logits.
        alibi: Whether there are ALiBi slopes; `"batch"` gives each sequence its own.
        dropout_p: As in `sparse_attention`; the seed is fixed.
        lse_gradient: Whether a gradient reaches `lse`.
    """

    name: str
    make_layout: Callable[[], BlockLayout]
    batch: int = 1
    q_heads: int = 2
    kv_heads: int = 2
    head_dim: int = 8
    v_head_dim: int = 8
    scale: float | None = None
    softcap: float | None = None
    sink: bool = False
    alibi: bool | str = False
    dropout_p: float = 0.0
    lse_gradient: bool = True

    @property
    def layout(self) -> BlockLayout:
        """The layout, made once."""
        return _layout(self)

    def __str__(self) -> str:
        return self.name


@cache
def _layout(case: Case) -> BlockLayout:
    return case.make_layout()


def case_inputs(case: Case, dtype: torch.dtype, seed: int = 0) -> AttentionInputs:
    """Inputs that fit the case."""
    return make_inputs(
        batch=case.batch,
        q_heads=case.q_heads,
        kv_heads=case.kv_heads,
        q_len=case.layout.q_len,
        kv_len=case.layout.kv_len,
        head_dim=case.head_dim,
        v_head_dim=case.v_head_dim,
        dtype=dtype,
        seed=seed,
    )


def case_options(case: Case, dtype: torch.dtype = torch.float64) -> dict[str, object]:
    """The options of the case; tensors among them are the same numbers in every dtype."""
    options: dict[str, object] = {"scale": case.scale, "softcap": case.softcap, "dropout_p": case.dropout_p}
    if case.dropout_p:
        options["dropout_seed"] = 2**40 + 5
    if case.sink:
        options["sink_logits"] = torch.linspace(-1.0, 2.0, case.q_heads).to(dtype)
    if case.alibi:
        rows = case.batch if case.alibi == "batch" else 1
        options["alibi_slopes"] = torch.linspace(0.0625, 0.5, rows * case.q_heads).reshape(rows, -1).to(dtype)
    return options


def results(
    case: Case, inputs: AttentionInputs, backend: str, *, layout: BlockLayout | None = None, device: str = "cpu"
) -> dict[str, Tensor]:
    """Output, lse and every gradient, by name.

    Args:
        case: The options.
        inputs: The tensors, in the dtype to run in.
        backend: As in `sparse_attention`.
        layout: Instead of that of the case.
        device: Where to run.
    """
    leaves = {name: getattr(inputs, name).to(device) for name in ("query", "key", "value")}
    wide = torch.float64 if inputs.query.dtype == torch.float64 else torch.float32
    options = case_options(case, wide)
    for name, option in options.items():
        if isinstance(option, Tensor):
            leaves[name] = option.to(device)
    leaves = {name: leaf.detach().requires_grad_() for name, leaf in leaves.items()}
    result = sparse_attention(
        leaves["query"],
        leaves["key"],
        leaves["value"],
        case.layout if layout is None else layout,
        backend=backend,
        **{name: leaves.get(name, option) for name, option in options.items()},
    )
    loss = (result.output * inputs.output_weight.to(device)).sum()
    if case.lse_gradient:
        finite = result.lse.detach().isfinite()
        weighted = torch.where(finite, result.lse, 0.0) * inputs.lse_weight.to(device)
        loss = loss + weighted.sum()
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    found = {"output": result.output.detach(), "lse": result.lse.detach()}
    found.update({f"gradient of {name}": gradient for name, gradient in zip(leaves, gradients, strict=True)})
    return found


def _masked(
    name: str, q_len: int, kv_len: int, block_size: tuple[int, int] | None = (16, 16)
) -> Callable[[], BlockLayout]:
    return lambda: BlockLayout.from_mask(awkward_masks(q_len, kv_len)[name], block_size=block_size)


def _shuffled(name: str, q_len: int, kv_len: int) -> BlockLayout:
    return shuffled_layout(awkward_masks(q_len, kv_len)[name])


def _per_head(batch: int, heads: int, q_len: int, kv_len: int, block_size: tuple[int, int]) -> BlockLayout:
    masks = list(awkward_masks(q_len, kv_len).values())
    stacked = np.stack([masks[n % len(masks)] for n in range(batch * heads)])
    return BlockLayout.from_mask(stacked.reshape(batch, heads, q_len, kv_len), block_size=block_size)


def _padded_positions() -> BlockLayout:
    layout = BlockLayout.from_mask(random_mask(2, 1, 40, 56, density=0.4, seed=3), block_size=(16, 8))
    starts = np.array([[7], [100]])
    return layout.with_positions(starts + np.arange(40) * 2, starts - 7 + np.arange(56) * 2)


def _shape_cases() -> list[Case]:
    shapes = [(1, 1), (1, 63), (63, 63), (100, 100), (40, 100), (100, 40)]
    cases = [
        Case(f"{name}-{q_len}x{kv_len}", _masked(name, q_len, kv_len))
        for q_len, kv_len in shapes
        for name in awkward_masks(1, 1)
    ]
    cases += [
        Case(f"{name}-1000x1000", _masked(name, 1000, 1000, (64, 64)), head_dim=16, v_head_dim=16)
        for name in ("window", "columns", "strided")
    ]
    cases += [
        Case(f"blocks-{q_block}x{kv_block}", _masked("columns", 100, 100, (q_block, kv_block)), v_head_dim=5)
        for q_block, kv_block in [(64, 64), (128, 64), (5, 7), (1, 16), (16, 1), (8, 128)]
    ]
    cases += [
        Case(
            f"shuffled-{name}-{q_len}x{kv_len}",
            partial(_shuffled, name, q_len, kv_len),
        )
        for q_len, kv_len in [(63, 63), (40, 100), (100, 40)]
        for name in ("dense", "causal", "scattered", "padded", "rows")
    ]
    return cases


def _head_cases() -> list[Case]:
    return [
        Case("grouped", _masked("window", 63, 63), batch=2, q_heads=6, kv_heads=2),
        Case("multi-query", _masked("scattered", 40, 50), batch=2, q_heads=4, kv_heads=1),
        Case("per-head", lambda: _per_head(1, 4, 63, 63, (16, 16)), batch=2, q_heads=4, kv_heads=4),
        Case("per-head-grouped", lambda: _per_head(1, 4, 40, 63, (16, 16)), batch=2, q_heads=4, kv_heads=2),
        Case("per-sequence", lambda: _per_head(3, 1, 63, 40, (16, 8)), batch=3, q_heads=4, kv_heads=2),
        Case("per-sequence-head", lambda: _per_head(2, 4, 50, 50, (16, 16)), batch=2, q_heads=4, kv_heads=2),
        Case(
            "shuffled-per-head",
            lambda: shuffled_layout(random_mask(2, 4, 50, 60, seed=4)),
            batch=2,
            q_heads=4,
            kv_heads=2,
        ),
        Case("head-dim-1", _masked("window", 40, 40), head_dim=1, v_head_dim=1),
        Case("head-dim-odd", _masked("columns", 63, 63), head_dim=33, v_head_dim=17),
        Case("head-dim-64", _masked("window", 100, 100), head_dim=64, v_head_dim=64),
        Case("value-wider", _masked("scattered", 63, 63), head_dim=5, v_head_dim=24),
    ]


def _option_cases() -> list[Case]:
    per_head = Case("", lambda: _per_head(2, 4, 50, 50, (16, 16)), batch=2, q_heads=4, kv_heads=2)
    shared = {"batch": 2, "q_heads": 4, "kv_heads": 2}
    layouts: dict[str, Callable[[], BlockLayout]] = {
        "window": _masked("window", 63, 63),
        "padded": _masked("padded", 40, 63),
        "per-head": per_head.make_layout,
        "shuffled": lambda: shuffled_layout(awkward_masks(50, 60)["scattered"], seed=2),
    }
    options: dict[str, dict[str, object]] = {
        "scale": {"scale": 0.7},
        "scale-negative": {"scale": -0.3},
        "scale-zero": {"scale": 0.0},
        "softcap": {"softcap": 1.5},
        "sink": {"sink": True},
        "alibi": {"alibi": True},
        "alibi-batch": {"alibi": "batch"},
        "dropout": {"dropout_p": 0.4},
        "everything": {"scale": 0.9, "softcap": 2.0, "sink": True, "alibi": "batch", "dropout_p": 0.3},
        "no-lse-gradient": {"lse_gradient": False, "sink": True},
    }
    cases = [
        Case(f"{option}-{name}", layout, **shared, **chosen)  # type: ignore[arg-type]
        for option, chosen in options.items()
        for name, layout in layouts.items()
    ]
    cases.append(Case("alibi-positions", _padded_positions, batch=2, q_heads=4, kv_heads=2, alibi=True, sink=True))
    cases += [
        Case(f"{name}-{q_len}x{kv_len}-output-only", _masked(name, q_len, kv_len), **shared, lse_gradient=False)  # type: ignore[arg-type]
        for name in ("dense", "causal")
        for q_len, kv_len in [(1, 1), (63, 63), (40, 63), (63, 40)]
    ]
    top_left = lambda: BlockLayout.from_mask(np.tri(40, 63, dtype=bool), block_size=(16, 16))  # noqa: E731
    return [*cases, Case("causal-top-left-wide", top_left, **shared, lse_gradient=False)]  # type: ignore[arg-type]


def _notes(length: int) -> Annotations:
    generator = np.random.default_rng(7)
    links = np.array([[40, 48, 3, 9], [60, 61, 0, 30], [90, 100, 50, 58]])
    return Annotations(
        length=length,
        flags={"flag": generator.random(length) < 0.08},
        labels={"label": generator.integers(-1, 5, length)},
        links={"link": links[links[:, 1] <= length]},
    )


def _compiled(pattern: Pattern, q_len: int = 100, kv_len: int = 100, **arguments: Any) -> BlockLayout:
    arguments = {"annotations": _notes(kv_len), "block_size": (16, 16), **arguments}
    with warnings.catch_warnings():
        # the short lengths hold no link
        warnings.simplefilter("ignore", AnnotationWarning)
        return compile_layout(pattern, q_len=q_len, kv_len=kv_len, **arguments)


def _compiled_cases() -> list[Case]:
    causal = Causal()
    patterns = {
        "strided": causal & (Window(before=15) | Strided(16)),
        "fixed": causal & (Chunk(16) | Summary(16, 2)),
        "flagged": causal & (Window(before=20) | Keys("flag") | First(keys=3)),
        "global-rows": Window(before=5, after=5) | First(queries=4) | Queries("flag") | Keys("flag"),
        "dilated": causal & Dilated(before=60, step=4),
        "labels": causal & Same("label"),
        "linked": causal & (Window(before=10) | Linked("link")),
        "grid": Grid((10, 10), (3, 5), causal=False),
        "powers": causal & PowersOfTwo(),
        "random-blocks": causal & RandomBlocks(block=8, count=2, seed=5) | Window(before=3),
        "not": causal & ~Window(before=10),
        "nothing": causal & ~causal,
    }
    shared: dict[str, Any] = {"batch": 2, "q_heads": 4, "kv_heads": 2}
    cases = [Case(f"compiled-{name}", partial(_compiled, pattern), **shared) for name, pattern in patterns.items()]
    cases += [
        Case(f"compiled-{name}-wide", partial(_compiled, pattern, 40, 100), **shared)
        for name, pattern in patterns.items()
        if name in ("strided", "flagged", "labels", "dilated")
    ]
    per_head = PerHead(patterns["strided"], patterns["flagged"], patterns["labels"], causal)
    padded = np.stack([np.arange(100) - 20, np.arange(100)])
    padded[padded < 0] = -1
    options: dict[str, Any] = {"sink": True, "alibi": True, "dropout_p": 0.2, "softcap": 3.0}
    return [
        *cases,
        Case("compiled-per-head", partial(_compiled, per_head), **shared),
        Case("compiled-per-head-everything", partial(_compiled, per_head), **shared, **options),
        Case("compiled-padded", partial(_compiled, patterns["flagged"], kv_positions=padded), **shared, **options),
        Case("compiled-strided-everything", partial(_compiled, patterns["strided"]), **shared, **options),
        Case("compiled-labels-everything", partial(_compiled, patterns["labels"]), **shared, **options),
    ]


CASES: tuple[Case, ...] = (*_shape_cases(), *_head_cases(), *_option_cases(), *_compiled_cases())
"""Every case of the suite."""
