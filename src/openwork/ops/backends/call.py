"""What a backend is given, after the front door has checked it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from openwork.layout.data import BlockLayout

__all__ = ["Backend", "Call", "positions"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Call:
    """One call of the operation: tensors that fit each other and the layout, and options with values.

    Attributes:
        query: `[batch, q_heads, q_len, head_dim]`.
        key: `[batch, kv_heads, kv_len, head_dim]`.
        value: `[batch, kv_heads, kv_len, v_head_dim]`.
        layout: For these lengths, batch and heads.
        scale: Multiplies `q.k`.
        softcap: `cap` of `cap * tanh(x / cap)`, or None.
        sink_logits: `[q_heads]`, or None.
        alibi_slopes: `[batch or 1, q_heads]`, or None.
        dropout_p: Chance to drop a pair; 0 is no dropout.
        dropout_seed: 0 to 2^64 - 1; without meaning where `dropout_p` is 0.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    layout: BlockLayout
    scale: float
    softcap: float | None = None
    sink_logits: Tensor | None = None
    alibi_slopes: Tensor | None = None
    dropout_p: float = 0.0
    dropout_seed: int = 0

    @property
    def group_size(self) -> int:
        """Query heads that share a key head."""
        return self.query.shape[1] // self.key.shape[1]

    @property
    def compute_dtype(self) -> torch.dtype:
        """float64 for float64, float32 for everything else: the dtype of `lse` and of sums."""
        return torch.float64 if self.query.dtype == torch.float64 else torch.float32

    def describe(self) -> str:
        """The call in a few words, for messages."""
        return f"query={list(self.query.shape)} {self.query.dtype} on {self.query.device.type}"


class Backend(Protocol):
    """One implementation of the operation."""

    name: str
    """What `backend=` calls it."""

    def refusal_reasons(self, call: Call) -> list[str]:
        """Why this backend cannot run the call, in words that a caller can act on; empty when it can."""
        ...

    def run(self, call: Call) -> tuple[Tensor, Tensor]:
        """Output `[batch, q_heads, q_len, v_head_dim]` and lse `[batch, q_heads, q_len]`."""
        ...


def positions(layout: BlockLayout, device: torch.device) -> tuple[Tensor, Tensor]:
    """Query and key positions, int64 `[batch or 1, q_len]` and `[batch or 1, kv_len]`, for what needs distances."""
    q_pos = torch.arange(layout.q_start, layout.q_start + layout.q_len, device=device)[None]
    kv_pos = torch.arange(layout.kv_len, device=device)[None]
    if layout.q_positions is not None:
        q_pos = torch.tensor(layout.q_positions, dtype=torch.int64, device=device)
    if layout.kv_positions is not None:
        kv_pos = torch.tensor(layout.kv_positions, dtype=torch.int64, device=device)
    return q_pos, kv_pos
