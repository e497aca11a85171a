"""The one operation: attention over the pairs that a layout allows, and what goes with it. Needs torch."""

from openwork.ops.api import sparse_attention
from openwork.ops.decode import decode_attention
from openwork.ops.explain import Explanation, PartCost, explain
from openwork.ops.merge import merge
from openwork.ops.prepared import PreparedLayout, prepare
from openwork.ops.result import AttentionResult

__all__ = [
    "AttentionResult",
    "Explanation",
    "PartCost",
    "PreparedLayout",
    "decode_attention",
    "explain",
    "merge",
    "prepare",
    "sparse_attention",
]
