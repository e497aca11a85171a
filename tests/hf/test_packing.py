"""Documents packed into one row by their positions are computed as if each stood alone."""

from __future__ import annotations

import contract
import pytest
import torch
from architectures import DECODER, SUPPORTED
from inputs import sequences
from torch import Tensor, nn

PACKED = [entry for entry in SUPPORTED if entry.kind == DECODER and entry.name not in ("biogpt", "opt")]


def separates(model: nn.Module, first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether a change in the first document leaves the second alone, in the dense model."""
    rows = [first["input_ids"], (first["input_ids"] + 1).clamp(max=90)]
    places = torch.cat([torch.arange(one["input_ids"].shape[1]) for one in (first, second)])[None]
    with torch.no_grad():
        made = [
            model(input_ids=torch.cat([row, second["input_ids"]], 1), position_ids=places, use_cache=False).logits
            for row in rows
        ]
    start = rows[0].shape[1]
    return bool((made[0][:, start:] - made[1][:, start:]).abs().max() < 1e-3)


@pytest.mark.parametrize("entry", PACKED, ids=lambda entry: entry.name)
def test_a_packed_row_equals_separate_runs(entry):
    if entry.missing:
        pytest.skip("the running transformers has no such model")
    if not contract.goes_through(entry):
        pytest.skip("in the running transformers this model computes its attention itself")
    tried, given = contract.case(entry), sequences(entry)
    if not separates(tried.model, *given[:2]):
        pytest.skip("the dense model itself lets the documents of a packed row see each other")
    ids = torch.cat([one["input_ids"] for one in given], 1)
    places = torch.cat([torch.arange(one["input_ids"].shape[1]) for one in given])[None]
    with torch.no_grad():
        made = tried.sparse(input_ids=ids, position_ids=places, use_cache=False).logits[0]
    start = 0
    for row, one in enumerate(given):
        stop = start + one["input_ids"].shape[1]
        tried.compare(made[start:stop], one, f"document {row} of a packed row")
        start = stop
