"""Additive masks, which say 0 where a pair is allowed and minus infinity where it is not, as booleans."""

from __future__ import annotations

from typing import Any

import numpy as np

from openwork.errors import LayoutError
from openwork.patterns.annotations import BoolArray

__all__ = ["MASKED_FROM", "allowed_from_additive"]

MASKED_FROM = -1e4
"""A score that has this or less added to it weighs nothing beside one that has 0 added, in every precision. Libraries
write -inf, `finfo.min`, -1e9 or, as the first BERT and GPT-2 did, -1e4."""


def allowed_from_additive(bias: Any, name: str = "the mask") -> BoolArray:
    """Bool of the same shape, True = attend, from a mask that is added to the scores.

    Args:
        bias: Floating point, any shape, NumPy, torch or JAX: 0 where a pair is allowed, `MASKED_FROM` or less (`-inf`
            among it) where it is not. A boolean array, True = attend, comes back as it is.
        name: What the message calls it.

    Raises:
        LayoutError: It holds NaN, or a value that is neither; it is learned; or it is no array of numbers.

    Examples:
        >>> allowed_from_additive(np.array([[0.0, -np.inf], [0.0, 0.0]])).tolist()
        [[True, False], [True, True]]
    """
    if getattr(bias, "requires_grad", False):
        raise LayoutError(
            f"{name} requires a gradient: it is a learned bias, and a layout says which pairs may attend, not how much "
            "they count. Keep torch's own attention for it; for ALiBi give alibi_slopes to ops.sparse_attention."
        )
    if hasattr(bias, "detach"):
        bias = bias.detach().cpu()
        # NumPy has no bfloat16
        bias = (bias.float() if bias.is_floating_point() else bias).numpy()
    array = np.asarray(bias)
    if array.dtype == np.bool_:
        return array
    if array.dtype.kind in "iu" or array.dtype.kind not in "fV":
        raise LayoutError(
            f"{name} has dtype {array.dtype}: a mask is boolean, True = attend, or floating point and added to the "
            "scores. Write `mask.astype(bool)` (torch: `mask.bool()`) where 1 means attend, and `mask == 0` where 1 "
            "means masked."
        )
    array = array.astype(np.float32) if array.dtype.kind == "V" or array.dtype.itemsize < 4 else array
    missing = int(np.isnan(array).sum())
    if missing:
        raise LayoutError(
            f"{name} holds NaN in {missing} of {array.size} places. 0 * -inf is NaN, so `(1 - mask) * -inf` breaks "
            "exactly where attention is allowed: fill, do not multiply (torch.zeros(shape).masked_fill(~mask, "
            "-torch.inf)), or give the boolean mask itself."
        )
    masked = array <= MASKED_FROM
    strange = ~masked & (array != 0)
    if strange.any():
        where = [int(i) for i in np.argwhere(strange)[0]]
        raise LayoutError(
            f"{name} adds {float(array[tuple(where)]):g} at {where}, which is neither 0 (attend) nor "
            f"{MASKED_FROM:g} or "
            "less (masked): it is a bias, and a layout says which pairs may attend, not how much they count. Keep "
            "torch's own attention for it; for ALiBi give alibi_slopes to ops.sparse_attention."
        )
    return ~masked
