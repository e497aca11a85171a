"""Act 4's Llama layer: three ways that compute what they say, with the facts of the text."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="the extra hf is not installed")

import openwork as ow
from openwork.study.acts import layer as layer_module
from openwork.study.acts.layer import measure_layer
from openwork.study.acts.scale import DENSE, MASK, SPARSE
from openwork.study.bench.subject import dense_mask, random_tokens

LENGTH = 192
PATTERN = ow.parse_pattern('Causal() & (Window(before=15) | Keys("definition"))')
NOTES = ow.Annotations(length=LENGTH, flags={"definition": np.arange(LENGTH) % 50 == 3})


@pytest.fixture(scope="module")
def layout() -> ow.BlockLayout:
    return ow.compile_layout(PATTERN, q_len=LENGTH, kv_len=LENGTH, annotations=NOTES)


def test_the_three_ways_compute_what_they_say(layout) -> None:
    model = layer_module._model(2, 16, LENGTH)
    tokens = random_tokens(256, 1, LENGTH, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.3)
        mask = dense_mask(layout, torch.device("cpu"))
        calls = layer_module._calls(model, PATTERN, NOTES, mask, tokens)
        found = {name: forward() for name, forward in calls.items()}
    torch.testing.assert_close(found[SPARSE], found[MASK])
    assert (found[DENSE] - found[MASK]).abs().max() > 1e-2


def test_every_way_is_measured_beside_theory(layout) -> None:
    told = []
    rows = measure_layer(
        PATTERN, NOTES, layout, heads=2, head_dim=16, rounds=2, progress=lambda *event: told.append(event)
    )
    assert [row.name for row in rows] == [DENSE, MASK, SPARSE]
    assert all(len(row.samples_s) == 2 and min(row.samples_s) > 0 for row in rows)
    dense, _, sparse = rows
    # what is not attention stays as it is
    assert 1 < sparse.theory_speedup < LENGTH * (LENGTH + 1) / 2 / layout.allowed_pairs
    assert sparse.theory_bytes == dense.theory_bytes + layout.nbytes
    assert told[-1][:2] == (5, 6) and told[0][2] == "a Llama layer, 192 tokens: dense"
