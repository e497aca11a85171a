"""Inputs for testing an attention kernel: tensors by shape, and masks that have hurt kernels before."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["AttentionInputs", "awkward_masks", "make_inputs", "random_mask"]

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class AttentionInputs:
    """Tensors for one call, with weights that turn its results into one number.

    Attributes:
        query: `[batch, q_heads, q_len, head_dim]`.
        key: `[batch, kv_heads, kv_len, head_dim]`.
        value: `[batch, kv_heads, kv_len, v_head_dim]`.
        output_weight: Like the output; the gradient that reaches it.
        lse_weight: Like `lse`; the gradient that reaches it.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    output_weight: Tensor
    lse_weight: Tensor

    def to(self, dtype: torch.dtype) -> AttentionInputs:
        """The same numbers in another dtype; the weight of `lse` stays at least float32."""
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        return replace(
            self,
            query=self.query.to(dtype),
            key=self.key.to(dtype),
            value=self.value.to(dtype),
            output_weight=self.output_weight.to(dtype),
            lse_weight=self.lse_weight.to(wide),
        )


def make_inputs(
    *,
    batch: int = 1,
    q_heads: int = 2,
    kv_heads: int | None = None,
    q_len: int = 16,
    kv_len: int | None = None,
    head_dim: int = 8,
    v_head_dim: int | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> AttentionInputs:
    """Normal random inputs; numbers that every lower dtype of the same call rounds from are those of `dtype`.

    Examples:
        >>> inputs = make_inputs(q_heads=4, kv_heads=2, q_len=3, kv_len=5, head_dim=8, v_head_dim=6)
        >>> [list(x.shape) for x in (inputs.query, inputs.key, inputs.value)]
        [[1, 4, 3, 8], [1, 2, 5, 8], [1, 2, 5, 6]]
    """
    kv_heads = q_heads if kv_heads is None else kv_heads
    kv_len = q_len if kv_len is None else kv_len
    v_head_dim = head_dim if v_head_dim is None else v_head_dim
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    return AttentionInputs(
        query=normal(batch, q_heads, q_len, head_dim),
        key=normal(batch, kv_heads, kv_len, head_dim),
        value=normal(batch, kv_heads, kv_len, v_head_dim),
        output_weight=normal(batch, q_heads, q_len, v_head_dim),
        lse_weight=normal(batch, q_heads, q_len),
    )


def random_mask(*shape: int, density: float = 0.3, seed: int = 0) -> BoolArray:
    """A random boolean mask, True = attend."""
    mask: BoolArray = np.random.default_rng(seed).random(shape) < density
    return mask


def awkward_masks(q_len: int, kv_len: int, seed: int = 0) -> dict[str, BoolArray]:
    """Masks `[q_len, kv_len]` by name that exercise empty rows, unseen keys, full blocks and scattered pairs.

    Examples:
        >>> masks = awkward_masks(5, 7)
        >>> bool(masks["padded"][:, -1:].any())
        False
    """
    q = np.arange(q_len)[:, None] + (kv_len - q_len)
    k = np.arange(kv_len)[None, :]
    scattered = random_mask(q_len, kv_len, seed=seed)
    padded = np.ones((q_len, kv_len), dtype=bool)
    padded[-max(1, q_len // 5) :] = False
    padded[:, -max(1, kv_len // 5) :] = False
    columns = (q - k >= 0) & (q - k < 5) | (k % 11 == 3) & (k <= q)
    rows = (abs(q - k) < 3) | (np.arange(q_len)[:, None] % 17 == 2)
    return {
        "dense": np.ones((q_len, kv_len), dtype=bool),
        "causal": k <= q,
        "window": (q - k >= 0) & (q - k <= 20),
        "scattered": scattered,
        "padded": padded,
        "columns": columns,
        "rows": rows,
        "strided": (q - k) % 7 == 0,
        "empty": np.zeros((q_len, kv_len), dtype=bool),
    }
