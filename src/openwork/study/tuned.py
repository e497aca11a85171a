"""A tuned checkpoint in words: what a mask breaks when it is put on, and what tuning brings back."""

from __future__ import annotations

from openwork.study.config import CONTROL, DENSE
from openwork.study.result import Row, StudyResult

__all__ = ["tuning_sentences"]

_PARTS = {
    "all": "all weights",
    "attention": "the weights of attention",
    "lora": "low-rank adapters on attention",
}
_UNTOUCHED = 0.002
"""Share of the quality below which a mask is said to break nothing."""


def tuning_sentences(result: StudyResult) -> list[str]:
    """For each plan, what it breaks and what tuning brings back; first of all what tuning alone does for dense."""
    tune, rows = result.config.tune, {row.name: row for row in result.rows}
    dense = rows[DENSE]
    if tune is None or dense.untuned is None:
        return []
    sentences = [
        f"The checkpoint as it is has perplexity {dense.untuned.perplexity:.4g} on the held-out text; tuning "
        f"{_PARTS[tune]} for {dense.steps:,.0f} steps with dense attention makes it {dense.perplexity:.4g}"
        f"{_metrics(dense)}."
    ]
    return sentences + [_broken(row, dense) for name, row in rows.items() if name not in (DENSE, CONTROL)]


def _broken(row: Row, dense: Row) -> str:
    assert row.untuned is not None and dense.untuned is not None
    before, tuned = row.untuned, dense.bits_per_byte
    lost = before.bits_per_byte / dense.untuned.bits_per_byte - 1
    if lost < _UNTOUCHED:
        breaks = f"put on untuned, it breaks nothing: perplexity {before.perplexity:.4g}"
    else:
        breaks = (
            f"put on untuned, it makes the checkpoint {100 * lost:.1f} % worse in bits per byte, perplexity "
            f"{before.perplexity:.4g} for {dense.untuned.perplexity:.4g}"
        )
    gap = before.bits_per_byte - tuned
    back = f"equal tuning makes it {row.perplexity:.4g}, dense attention's {dense.perplexity:.4g}"
    if lost >= _UNTOUCHED and gap > 0:
        share = (before.bits_per_byte - row.bits_per_byte) / gap
        back += f": {_share(share)} of the way from there to tuned dense attention"
    return f"{row.name}: {breaks}; {back}{_metrics(row)}."


def _share(share: float) -> str:
    """A share in words.

    >>> _share(0.934), _share(-0.2), _share(1.01)
    ('93 %', 'none', 'all')
    """
    if share <= 0:
        return "none"
    return "all" if share >= 1 else f"{100 * share:.0f} %"


def _metrics(row: Row) -> str:
    before = {} if row.untuned is None else row.untuned.metrics
    told = [f"{name} {before[name]:.4g} -> {value:.4g}" for name, value in row.metrics.items() if name in before]
    return f" ({', '.join(told)})" if told else ""
