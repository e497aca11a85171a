"""Random layouts, shapes, options and types against the float64 reference.

`OPENWORK_FUZZ=1000:200 pytest tests/native/test_fuzz.py` runs seeds 1000 to 1199 instead of the few that always run.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import openwork as ow
from openwork.errors import AnnotationWarning
from openwork.layout.data import BlockLayout
from openwork.ops import registry
from openwork.ops.backends.cpu import CpuBackend
from openwork.ops.backends.cpu_native import available_isas
from openwork.testing.contract import Case, case_inputs, results
from openwork.testing.layouts import shuffled_layout
from openwork.testing.tolerance import assert_no_worse_than

pytestmark = pytest.mark.native

FIRST, COUNT = (int(number) for number in os.environ.get("OPENWORK_FUZZ", "0:60").split(":"))
ISAS = [name for name, runs_here in available_isas().items() if runs_here] or ["none"]


def random_pattern(rng: np.random.Generator) -> ow.Pattern:
    """Unions and intersections of a few words, causal as a rule."""
    size = int(rng.integers(1, 40))
    words = [
        ow.Window(before=size, after=int(rng.integers(0, 20))),
        ow.Dilated(before=4 * size, step=int(rng.integers(2, 7))),
        ow.Strided(int(rng.integers(2, 40))),
        ow.Chunk(size, before=int(rng.integers(0, 2))),
        ow.First(keys=int(rng.integers(1, 8))),
        ow.First(queries=int(rng.integers(1, 8))),
        ow.Summary(size + 2, 1 + size // 4),
        ow.RandomBlocks(block=8, count=2, seed=int(rng.integers(1000))),
        ow.Keys("flag"),
        ow.Same("label"),
        ow.PowersOfTwo(),
    ]
    chosen = [words[n] for n in rng.permutation(len(words))[: rng.integers(1, 4)]]
    pattern = chosen[0]
    for other in chosen[1:]:
        pattern = pattern | other if rng.random() < 0.75 else pattern & other
    if rng.random() < 0.1:
        pattern = ~pattern
    return ow.Causal() & pattern if rng.random() < 0.7 else pattern


def compiled(rng: np.random.Generator, heads: int, q_len: int, kv_len: int) -> BlockLayout:
    flags, labels = {"flag": rng.random(kv_len) < 0.1}, {"label": rng.integers(-1, 4, kv_len)}
    annotations = ow.Annotations(length=kv_len, flags=flags, labels=labels)
    pattern = random_pattern(rng)
    if rng.random() < 0.3:
        pattern = ow.PerHead(*(random_pattern(rng) for _ in range(heads)))
    arguments: dict[str, Any] = {"annotations": annotations}
    if q_len > kv_len:
        flags, labels = {"flag": rng.random(q_len) < 0.1}, {"label": rng.integers(-1, 4, q_len)}
        arguments |= {"q_start": 0, "q_annotations": ow.Annotations(length=q_len, flags=flags, labels=labels)}
    elif rng.random() < 0.3:
        padding = int(rng.integers(0, kv_len))
        arguments["kv_positions"] = np.maximum(np.arange(kv_len) - padding, -1)
    block = int(rng.choice([8, 16, 64, 128]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AnnotationWarning)
        return ow.compile_layout(pattern, q_len=q_len, kv_len=kv_len, block_size=(block, block), **arguments)


def random_layout(rng: np.random.Generator, batch: int, heads: int) -> BlockLayout:
    q_len, kv_len = (int(n) for n in rng.integers(1, rng.choice([9, 70, 200]), 2))
    kind = rng.integers(3)
    if kind == 0:
        return compiled(rng, heads, q_len, kv_len)
    shape = rng.choice([1, batch]), rng.choice([1, heads]), q_len, kv_len
    mask = rng.random(shape) < rng.choice([0.0, 0.05, 0.5, 0.97, 1.0])
    if rng.random() < 0.3:
        mask[..., rng.integers(q_len) :, :] = False
    if rng.random() < 0.3:
        mask[..., rng.integers(kv_len) :] = False
    if kind == 1:
        block_size = tuple(int(n) for n in rng.integers(1, 70, 2))
        return BlockLayout.from_mask(mask, block_size=block_size)
    return shuffled_layout(mask, parts=int(rng.integers(1, 4)), seed=int(rng.integers(1000)))


def random_case(seed: int) -> Case:
    rng = np.random.default_rng(seed)
    batch, kv_heads, group = (int(n) for n in rng.integers(1, 4, 3))
    layout = random_layout(rng, batch, kv_heads * group)
    head_dims = [int(rng.choice([1, 2, 8, 15, 16, 17, 31, 32, 48, 64, 65, 100])) for _ in range(2)]
    return Case(
        f"seed-{seed}",
        lambda: layout,
        batch=batch,
        q_heads=kv_heads * group,
        kv_heads=kv_heads,
        head_dim=head_dims[0],
        v_head_dim=head_dims[int(rng.integers(2))],
        scale=None if rng.random() < 0.6 else float(rng.choice([0.0, -0.2, 0.4])),
        softcap=float(rng.uniform(0.5, 4.0)) if rng.random() < 0.2 else None,
        sink=bool(rng.random() < 0.2),
        alibi=[False, True, "batch"][int(rng.choice(3, p=[0.8, 0.1, 0.1]))],
        dropout_p=float(rng.uniform(0.0, 0.9)) if rng.random() < 0.2 else 0.0,
        lse_gradient=bool(rng.random() < 0.7),
    )


@pytest.mark.parametrize("seed", range(FIRST, FIRST + COUNT))
def test_random_calls_are_as_good_as_the_reference(seed, monkeypatch):
    case, isa = random_case(seed), ISAS[seed % len(ISAS)]
    reference = [backend for backend in registry.BACKENDS if backend.name == "reference"]
    monkeypatch.setattr(registry, "BACKENDS", (CpuBackend(isa=isa, poisoned=True), *reference))
    dtype = [torch.float32, torch.float32, torch.bfloat16, torch.float16][seed % 4]
    inputs = case_inputs(case, dtype, seed=seed)
    exact = results(case, inputs.to(torch.float64), "reference")
    reference = results(case, inputs, "reference")
    # the same tensors, but the sequence before the heads, as models have them
    moved = inputs
    if seed % 3 == 0:
        names = ("query", "key", "value")
        turned = {name: getattr(inputs, name).transpose(1, 2).contiguous().transpose(1, 2) for name in names}
        moved = replace(inputs, **turned)
    # a row of one key has p = 1 whatever its score: dout.v - dout.out times the distance cancels to nothing there
    row = float((inputs.output_weight.double() * exact["output"]).sum(dim=-1).abs().max())
    of_slopes = row * (case.layout.q_len + case.layout.kv_len) / (1.0 - case.dropout_p)
    for name, tensor in results(case, moved, "cpu").items():
        ulps = 128 if name == "lse" and dtype != torch.float32 else 4
        magnitude = max(1.0, of_slopes) if name == "gradient of alibi_slopes" else 1.0
        assert_no_worse_than(
            tensor, reference[name], exact[name], name=f"{case.name} on {isa}: {name}", ulps=ulps, magnitude=magnitude
        )
