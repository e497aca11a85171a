"""What the operation returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["AttentionResult"]


class AttentionResult(NamedTuple):
    """What every backend returns, whatever was asked of it.

    Attributes:
        output: `[batch, q_heads, q_len, v_head_dim]`, in the dtype of `query`.
        lse: float32 (float64 for float64) `[batch, q_heads, q_len]`, natural log, without the sink and before
            dropout. `-inf` where a query sees no key.
    """

    output: Tensor
    lse: Tensor
