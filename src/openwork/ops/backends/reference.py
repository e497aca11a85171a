"""The meaning in code: dense, eager, any float dtype, differentiable as often as you like.

Shapes: B batch, H query heads, Q queries, K keys, D head_dim.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openwork.ops.backends.call import Call, positions
from openwork.ops.hash import dropout_keep

__all__ = ["ReferenceBackend"]


class ReferenceBackend:
    """Dense attention under the layout's mask. It builds `q_len x kv_len`: for tests and small lengths."""

    name = "reference"

    def refusal_reasons(self, call: Call) -> list[str]:
        """Empty for every floating-point dtype."""
        if not call.query.dtype.is_floating_point:
            return [f"needs a floating-point dtype, got {call.query.dtype}"]
        return []

    def run(self, call: Call) -> tuple[Tensor, Tensor]:
        """Output and lse."""
        device, dtype = call.query.device, call.compute_dtype
        dense = call.layout.cached("reference", call.layout.to_dense)
        allowed_BHQK = torch.from_numpy(dense).to(device)
        # keys that no query may see, and queries that see none, may hold anything, NaN included
        unseen_BHK1 = ~allowed_BHQK.any(dim=-2).unsqueeze(-1)
        empty_BHQ1 = ~allowed_BHQK.any(dim=-1, keepdim=True)
        q_BHQD = call.query.to(dtype).masked_fill(empty_BHQ1, 0.0)
        k_BHKD = call.key.to(dtype).repeat_interleave(call.group_size, dim=1).masked_fill(unseen_BHK1, 0.0)
        v_BHKD = call.value.to(dtype).repeat_interleave(call.group_size, dim=1).masked_fill(unseen_BHK1, 0.0)

        scores_BHQK = _scores(call, q_BHQD, k_BHKD, ~allowed_BHQK)
        # softmax of an all -inf row is NaN; the contract says such a query outputs 0
        scores_BHQK = scores_BHQK.masked_fill(~allowed_BHQK & ~empty_BHQ1, float("-inf"))
        lse_BHQ = torch.logsumexp(scores_BHQK, dim=-1)
        probs_BHQK = torch.softmax(scores_BHQK, dim=-1)
        empty_BHQ = empty_BHQ1.squeeze(-1)
        if call.sink_logits is not None:
            kept_BHQ = torch.sigmoid(lse_BHQ.masked_fill(empty_BHQ, 0.0) - call.sink_logits.to(dtype)[:, None])
            probs_BHQK = probs_BHQK * kept_BHQ.unsqueeze(-1)
        if call.dropout_p > 0:
            keep = dropout_keep(call.dropout_seed, call.dropout_p, *scores_BHQK.shape).to(device)
            probs_BHQK = probs_BHQK * keep / (1.0 - call.dropout_p)
        # this mask stops the gradient of forbidden values, which may be too large to multiply by 0
        output_BHQD = (probs_BHQK.masked_fill(~allowed_BHQK, 0.0) @ v_BHKD).to(call.query.dtype)
        return output_BHQD, lse_BHQ.masked_fill(empty_BHQ, float("-inf"))


def _scores(call: Call, q_BHQD: Tensor, k_BHKD: Tensor, forbidden_BHQK: Tensor) -> Tensor:
    # forbidden scores may overflow; they are replaced before anything is computed from them
    scores_BHQK = ((q_BHQD @ k_BHKD.mT) * call.scale).masked_fill(forbidden_BHQK, 0.0)
    if call.softcap is not None:
        scores_BHQK = call.softcap * torch.tanh(scores_BHQK / call.softcap)
    if call.alibi_slopes is not None:
        q_pos, kv_pos = positions(call.layout, scores_BHQK.device)
        distance_B1QK = (q_pos[:, None, :, None] - kv_pos[:, None, None, :]).abs().to(scores_BHQK.dtype)
        scores_BHQK = scores_BHQK - call.alibi_slopes.to(scores_BHQK.dtype)[:, :, None, None] * distance_B1QK
    return scores_BHQK
