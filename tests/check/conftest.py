"""Reach by boolean matrix powers, and facts for every entry of the zoo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from openwork.layout import bind
from openwork.patterns import Annotations, Pattern, zoo

NEEDED: dict[str, tuple[Any, ...]] = {"bigbird_itc": (8,), "bigbird_etc": (7,), "natten_2d": (16, 32)}


def entry(name: str) -> Pattern:
    """The entry with its defaults, and the least that it asks for at 512 tokens."""
    return getattr(zoo, name)(*NEEDED.get(name, ()))  # type: ignore[no-any-return]


def facts(n: int, seed: int = 0) -> Annotations:
    """Every annotation that an entry of the zoo reads; scattered, the same each time."""
    rng = np.random.default_rng(seed)
    position = np.arange(n)
    targets = rng.integers(0, n - 40, 9)
    links = [[query, query + 7, key, key + 5] for query, key in zip(targets + 33, targets, strict=True)]
    flags = {name: rng.random(n) < 0.02 for name in ("global", "heading", "definition", "error")}
    return Annotations(
        n,
        flags={**flags, "question": position >= n - 20, "clean": position >= n // 2},
        labels={
            "passage": np.where(position < n - 20, position // 61, -1),
            "record": position // 97,
            "block": position % (n // 2) // 16,
            "half": position // (n // 2),
            "document": position // 150,
        },
        links={"use": links},
    )


def mask(pattern: Pattern, n: int, notes: Annotations | None = None) -> np.ndarray:
    """Allowed pairs, the union of all heads: bool `[n, n]`."""
    return bind(pattern, q_len=n, kv_len=n, annotations=notes).to_dense()[0].any(axis=0)


def powers(layers: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Which pairs are connected after each layer, by matrix products; a token keeps itself."""
    n = layers[0].shape[0]
    held = np.eye(n, dtype=np.float32)
    after = []
    for allowed in layers:
        held = ((allowed | np.eye(n, dtype=bool)).astype(np.float32) @ held > 0).astype(np.float32)
        after.append(held.astype(bool))
    return after


def shares(layers: Sequence[np.ndarray]) -> list[float]:
    """Connected pairs over all that a query could need, after each layer."""
    n = layers[0].shape[0]
    causal = not any(np.triu(allowed, 1).any() for allowed in layers)
    return [float(held.sum()) / (n * (n + 1) // 2 if causal else n * n) for held in powers(layers)]


def first_full(coverage: Sequence[float]) -> int | None:
    """Layers until a share is 1."""
    return next((layer for layer, share in enumerate(coverage, 1) if share == 1), None)


class Oracle:
    entry, facts, mask, powers, shares, first_full = (
        staticmethod(function) for function in (entry, facts, mask, powers, shares, first_full)
    )


@pytest.fixture(scope="session")
def oracle() -> type[Oracle]:
    """`entry(name)`, `facts(n)`, `mask(pattern, n, notes)`, `powers(masks)`, `shares(masks)`, `first_full(shares)`."""
    return Oracle
