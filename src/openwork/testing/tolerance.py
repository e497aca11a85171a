"""The one tolerance: as good as the reference in the same dtype, measured against float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["assert_no_worse_than"]


def assert_no_worse_than(
    low: Tensor,
    reference_low: Tensor,
    exact: Tensor,
    *,
    name: str,
    multiple: float = 3.0,
    ulps: float = 2.0,
    magnitude: float = 0.0,
) -> None:
    """Asserts that the error of `low` stays within a small multiple of the reference's own low-precision error.

    The bound is `multiple * max|reference_low - exact| + ulps * eps * max(max|exact|, magnitude)` with the `eps` of
    `low`'s dtype; the second term lets a reference that is right by luck be followed by a rounding. Infinities (an
    `lse` of `-inf`) and NaN must stand at the same places as in `exact`.

    Args:
        low: What is tested, in low precision.
        reference_low: The reference in the same dtype.
        exact: The reference in float64.
        name: What the tensor is, for the message.
        multiple: How many times the reference's own error is allowed.
        ulps: Roundings of the largest value that are allowed on top.
        magnitude: Size of what the values are sums of, where the terms may cancel to nothing.

    Raises:
        AssertionError: The error is larger, or the shape, dtype or non-finite values differ.
    """
    assert low.shape == exact.shape, f"{name}: shape {list(low.shape)}, expected {list(exact.shape)}"
    assert low.dtype == reference_low.dtype, f"{name}: dtype {low.dtype}, expected {reference_low.dtype}"
    low64, reference64, exact64 = (x.detach().to("cpu", torch.float64) for x in (low, reference_low, exact))
    finite = exact64.isfinite()
    same = torch.where(finite, low64.isfinite(), (low64 == exact64) | (low64.isnan() & exact64.isnan()))
    if not same.all():
        where = (~same).nonzero()[0].tolist()
        raise AssertionError(
            f"{name}: {int((~same).sum())} values are not finite where they should be, or the reverse; first at "
            f"{where}: {low64[tuple(where)].item()}, expected {exact64[tuple(where)].item()}"
        )
    if not finite.any():
        return
    error = (low64 - exact64)[finite].abs().max().item()
    own_error = (reference64 - exact64)[finite].abs().max().item()
    largest = max(magnitude, exact64[finite].abs().max().item())
    bound = multiple * own_error + ulps * torch.finfo(low.dtype).eps * largest
    if not math.isfinite(bound) or error > bound:
        raise AssertionError(
            f"{name}: max error {error:.3e} against float64 is more than {bound:.3e} "
            f"({multiple} x the reference's own {own_error:.3e} in {low.dtype}, and {ulps} roundings of {largest:.3e})"
        )
