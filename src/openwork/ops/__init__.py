"""The one operation: attention over the pairs that a layout allows, and what goes with it. Needs torch."""

from openwork.ops.api import sparse_attention
from openwork.ops.result import AttentionResult

__all__ = ["AttentionResult", "sparse_attention"]
