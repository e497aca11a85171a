"""Whether a model's gradients are finite and those of the reference: the same pairs as a mask, in float64."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from openwork.plan import Plan
from openwork.study.bench.subject import BenchModel, Inputs, Way

__all__ = ["GradientCheck", "check_gradients", "gradients_of"]

_MULTIPLE = 3.0
"""How many times the reference's own error in the same dtype is allowed (as in `openwork.testing`)."""
_ROUNDINGS = 2.0
"""Roundings of a gradient's norm that are allowed on top, for a reference that is right by luck."""

_ROUNDING_ONLY = 1e-7
"""Share of all gradients' norm below which a parameter's is nothing but rounding."""


@dataclass(frozen=True, kw_only=True)
class GradientCheck:
    """Gradients of a model under one plan, sparse, beside the same pairs as a mask, against float64."""

    plan: str
    """The plan's name."""
    seq_len: int
    """Tokens that were compared."""
    finite: bool
    """Whether every gradient of the sparse way is a finite number."""
    equal: bool
    """Whether each parameter's error is within three times the masked reference's own, and two roundings."""
    error: float
    """Error of a parameter's gradient over its norm; over that of all gradients where it has none of its own."""
    own_error: float
    """The masked reference's error in the same dtype, for that parameter, over the same norm."""
    parameter: str
    """That parameter: the one that comes nearest to its bound, or exceeds it most."""
    largest_finite: bool
    """Whether every gradient at the full length and the largest batch is finite too."""
    largest_difference: float | None
    """There, the norm of the difference from the mask's gradients over their norm; `None` where no mask ran."""

    def to_dict(self) -> dict[str, Any]:
        """The check as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> GradientCheck:
        """The check that `to_dict` wrote."""
        return cls(**content)

    @property
    def passed(self) -> bool:
        """Whether nothing speaks against the gradients."""
        return self.finite and self.equal and self.largest_finite


def gradients_of(way: Way, inputs: Inputs) -> dict[str, Tensor]:
    """Gradients of the way's loss by parameter name; the module's own are cleared."""
    way.module.zero_grad(set_to_none=True)
    way.loss(inputs).backward()
    found = {name: p.grad.detach() for name, p in way.module.named_parameters() if p.grad is not None}
    way.module.zero_grad(set_to_none=True)
    return found


def check_gradients(
    model: BenchModel, plan: Plan, *, name: str, seq_len: int, backend: str, seed: int
) -> GradientCheck:
    """Compares the sparse way's gradients with a float64 copy that is given the same pairs as a mask.

    Args:
        model: The model.
        plan: What each layer uses.
        name: The plan's name.
        seq_len: Tokens; the reference keeps its scores, so a few hundred.
        backend: Backend of the sparse way.
        seed: Decides the tokens.
    """
    exact_model = model.to_double()
    exact = gradients_of(exact_model.masked(plan, seq_len), exact_model.inputs(1, seq_len, seed))
    del exact_model
    inputs = model.inputs(1, seq_len, seed)
    reference = gradients_of(model.masked(plan, seq_len), inputs)
    sparse = gradients_of(model.sparse(plan, seq_len, backend), inputs)
    total = float(sum(float(gradient.square().sum()) for gradient in exact.values())) ** 0.5
    worst = (-1.0, 0.0, 0.0, "")
    equal = sparse.keys() == exact.keys()
    for parameter in exact.keys() & sparse.keys():
        size = float(exact[parameter].norm())
        error = float((sparse[parameter].double() - exact[parameter]).norm())
        own = float((reference[parameter].double() - exact[parameter]).norm())
        bound = _MULTIPLE * own + _ROUNDINGS * torch.finfo(sparse[parameter].dtype).eps * size
        equal &= error <= bound
        share = error / bound if bound else float(error > 0)
        # some gradients are zero but for rounding, as that of a bias of the keys: nothing to divide by
        scale = size if size > _ROUNDING_ONLY * total else max(total, sys.float_info.min)
        worst = max(worst, (share, error / scale, own / scale, parameter))
    return GradientCheck(
        plan=name,
        seq_len=seq_len,
        finite=all(bool(gradient.isfinite().all()) for gradient in sparse.values()),
        equal=equal,
        error=worst[1],
        own_error=worst[2],
        parameter=worst[3],
        largest_finite=True,
        largest_difference=None,
    )
