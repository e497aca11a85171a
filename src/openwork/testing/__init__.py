"""Oracles, input makers, tolerance and pattern strategies, for our tests and for anyone else's kernel.

Names load when they are first used: what speaks of patterns needs NumPy alone (and the strategies hypothesis); what
speaks of the operation needs torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openwork.testing.annotators import assert_causal_annotator
    from openwork.testing.contract import CASES, Case, case_inputs, results
    from openwork.testing.inputs import AttentionInputs, awkward_masks, make_inputs, random_mask
    from openwork.testing.layout_rules import layout_contract
    from openwork.testing.layouts import part_of_mask, shuffled_layout
    from openwork.testing.masks import assert_mask, read_drawing
    from openwork.testing.pattern_rules import pattern_contract
    from openwork.testing.poison import poisoned_memory
    from openwork.testing.spans import ListedSpans, ListedTokens
    from openwork.testing.tolerance import assert_no_worse_than

_HOMES = {
    "annotators": ("assert_causal_annotator",),
    "contract": ("CASES", "Case", "case_inputs", "results"),
    "inputs": ("AttentionInputs", "awkward_masks", "make_inputs", "random_mask"),
    "layout_rules": ("layout_contract",),
    "layouts": ("part_of_mask", "shuffled_layout"),
    "masks": ("assert_mask", "read_drawing"),
    "pattern_rules": ("pattern_contract",),
    "poison": ("poisoned_memory",),
    "spans": ("ListedSpans", "ListedTokens"),
    "tolerance": ("assert_no_worse_than",),
}

__all__ = [
    "CASES",
    "AttentionInputs",
    "Case",
    "ListedSpans",
    "ListedTokens",
    "assert_causal_annotator",
    "assert_mask",
    "assert_no_worse_than",
    "awkward_masks",
    "case_inputs",
    "layout_contract",
    "make_inputs",
    "part_of_mask",
    "pattern_contract",
    "poisoned_memory",
    "random_mask",
    "read_drawing",
    "results",
    "shuffled_layout",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"openwork.testing.{module}"), name)
    raise AttributeError(f"module 'openwork.testing' has no attribute {name!r}")
