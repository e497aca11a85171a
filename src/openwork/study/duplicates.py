"""Held-out text that is in the training text as well, word for word or nearly: what would flatter every plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from openwork.study.corpus import Corpus

__all__ = ["SHINGLE_BYTES", "THRESHOLD", "NearDuplicates", "near_duplicates"]

SHINGLE_BYTES = 32
"""Bytes of a shingle: about six words, or 32 bases."""
THRESHOLD = 0.5
"""A held-out document is a near-duplicate where this share of its shingles is in the training text."""
_MOST_SHINGLES = 1 << 18
_BLOCK = 1 << 16
"""Bytes that are hashed at once: their hashes fit the caches."""
_NAMED = 20

Hashes = npt.NDArray[np.uint64]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class NearDuplicates:
    """How much of the held-out text the training text holds."""

    shared: float
    """Share of the held-out shingles that occur in the training text, from 0 to 1."""
    documents: int
    """Held-out documents of which at least `THRESHOLD` does."""
    share: float
    """Their share of the held-out bytes, from 0 to 1."""
    names: tuple[str, ...]
    """The first of them."""
    sampled: int
    """One shingle of so many was looked at, chosen by its hash; 1 is all."""
    threshold: float = THRESHOLD
    """The share that makes a near-duplicate."""
    shingle_bytes: int = SHINGLE_BYTES
    """Length of a shingle, in bytes."""

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return asdict(self) | {"names": list(self.names)}


def near_duplicates(corpus: Corpus, progress: Progress = lambda done, total: None) -> NearDuplicates:
    """Compares each held-out document with the whole training text by what they share of 32-byte shingles.

    This is containment, exact up to 262,144 held-out shingles; of more, those are compared whose hash is a multiple
    of a power of two (FracMinHash, Irber et al. 2022), which keeps the share unbiased. Documents are read one by one.
    A tenth of the text against the rest asks for containment and not for the likeness of pairs: a held-out file that
    lies inside a longer training file counts, which MinHash over Jaccard (`datasketch`) would miss.

    Args:
        corpus: The data.
        progress: Called with the bytes done and the bytes in all.
    """
    held_out_bytes = sum(document.num_bytes for document in corpus.held_out)
    sampled = 1
    while held_out_bytes > sampled * _MOST_SHINGLES:
        sampled *= 2
    total = held_out_bytes + sum(document.num_bytes for document in corpus.training)
    done = 0
    shingles: list[Hashes] = []
    for document, text in zip(corpus.held_out, corpus.texts(corpus.held_out), strict=True):
        shingles.append(np.unique(_sampled(text, sampled)))
        progress(done := done + document.num_bytes, total)
    wanted = np.unique(np.concatenate([np.zeros(0, np.uint64), *shingles]))
    seen = np.zeros(len(wanted), dtype=bool)
    for document, text in zip(corpus.training, corpus.texts(corpus.training), strict=True):
        _mark(wanted, seen, _sampled(text, sampled))
        progress(done := done + document.num_bytes, total)
    shares = [float(seen[np.searchsorted(wanted, own)].mean()) if len(own) else 0.0 for own in shingles]
    weights = [len(own) for own in shingles]
    found = [d for d, share in zip(corpus.held_out, shares, strict=True) if share >= THRESHOLD]
    return NearDuplicates(
        shared=float(np.dot(shares, weights) / max(1, sum(weights))),
        documents=len(found),
        share=sum(document.num_bytes for document in found) / max(1, held_out_bytes),
        names=tuple(document.name for document in found[:_NAMED]),
        sampled=sampled,
    )


def _mark(wanted: Hashes, seen: npt.NDArray[np.bool_], found: Hashes) -> None:
    if len(wanted):
        places = np.minimum(np.searchsorted(wanted, found), len(wanted) - 1)
        seen[places[wanted[places] == found]] = True


def _sampled(text: str, sampled: int) -> Hashes:
    """The hashes of all shingles of a text that are multiples of `sampled`."""
    content = text.encode("utf-8", errors="replace")
    found = [np.zeros(0, dtype=np.uint64)]
    for first in range(0, len(content), _BLOCK):
        hashes = shingle_hashes(content[first : first + _BLOCK + SHINGLE_BYTES - 1])
        found.append(hashes if sampled == 1 else hashes[hashes & np.uint64(sampled - 1) == 0])
    return np.concatenate(found)


def shingle_hashes(content: bytes) -> Hashes:
    """A hash of each run of `SHINGLE_BYTES` bytes, mixed so that its low bits are as good as any: uint64 `[n]`.

    The polynomial hash of a run comes from those of its halves, so five steps make all runs of 32.
    """
    hashes = np.frombuffer(content, dtype=np.uint8).astype(np.uint64) + np.uint64(1)
    base, size = 0x9E3779B97F4A7C15, 1
    while size < SHINGLE_BYTES:
        if len(hashes) <= size:
            return np.zeros(0, dtype=np.uint64)
        hashes = hashes[:-size] * np.uint64(pow(base, size, 1 << 64)) + hashes[size:]
        size *= 2
    # the finalizer of SplitMix64
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(hashes ^ (hashes >> np.uint64(31)))
