"""The stated hash: its vectors, and dropout by it."""

from __future__ import annotations

import pytest
import torch

from openwork.ops import sparse_attention
from openwork.ops.hash import dropout_keep, hash32
from openwork.testing.inputs import make_inputs

VECTORS = [
    (0, (0, 0, 0, 0), 0xBAF29AF6),
    (0, (0, 0, 0, 1), 0xE93E85E5),
    (7, (2, 3, 1000, 999), 0x0A856403),
    (2**40 + 5, (0, 7, 65535, 65530), 0x57A38C0E),
]


def plain_hash(seed, *values):
    """The definition, in Python integers."""
    h = 0
    for v in (seed & 0xFFFFFFFF, seed >> 32, *values):
        h = (h + (v + 1) * 0x9E3779B9) % 2**32
        h = ((h ^ (h >> 16)) * 0x85EBCA6B) % 2**32
        h = ((h ^ (h >> 13)) * 0xC2B2AE35) % 2**32
        h ^= h >> 16
    return h


@pytest.mark.parametrize(("seed", "values", "expected"), VECTORS)
def test_vectors(seed, values, expected):
    assert int(hash32(seed, *values)) == expected == plain_hash(seed, *values)


def test_tensors_hash_like_integers():
    generator = torch.Generator().manual_seed(1)
    values = torch.randint(2**31, (200, 4), generator=generator)
    seeds = [0, 2**32 - 1, 2**63 + 12345, 2**64 - 1]
    for seed in seeds:
        found = hash32(seed, *values.unbind(1)).tolist()
        assert found == [plain_hash(seed, *row) for row in values.tolist()]


@pytest.mark.parametrize("dropout_p", [0.1, 0.5, 0.9])
def test_dropout_keeps_where_the_hash_says(dropout_p):
    keep = dropout_keep(99, dropout_p, batch=2, q_heads=3, q_len=20, kv_len=30)
    for index in [(0, 0, 0, 0), (1, 2, 19, 29), (0, 1, 7, 11), (1, 0, 3, 28)]:
        assert keep[index].item() == (plain_hash(99, *index) >= dropout_p * 2**32)
    assert abs(keep.float().mean().item() - (1 - dropout_p)) < 0.02


def test_dropout_without_a_seed_draws_from_the_default_generator(backend, refused_is_skipped):
    inputs = make_inputs(q_len=30)
    mask = torch.ones(30, 30, dtype=torch.bool)

    def run():
        return sparse_attention(inputs.query, inputs.key, inputs.value, mask, dropout_p=0.5, backend=backend).output

    torch.manual_seed(3)
    first = refused_is_skipped(run)
    second = run()
    torch.manual_seed(3)
    assert torch.equal(run(), first)
    assert not torch.equal(first, second)


def test_a_call_without_dropout_leaves_the_generator_alone(backend):
    inputs = make_inputs(q_len=5)
    before = torch.get_rng_state()
    sparse_attention(inputs.query, inputs.key, inputs.value, torch.ones(5, 5, dtype=torch.bool), backend=backend)
    assert torch.equal(torch.get_rng_state(), before)
