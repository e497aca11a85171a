"""torch's own flash attention, for layouts that are exactly dense or causal."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openwork.errors import BackendError
from openwork.layout.data import BlockLayout, Part, unpack_masks
from openwork.ops.backends.call import Call

__all__ = ["SdpaBackend", "dense_or_causal"]

_aten = torch.ops.aten


class SdpaBackend:
    """Dense and causal layouts through torch's flash attention; `lse` comes along, its gradient does not."""

    name = "sdpa"

    def refusal_reasons(self, call: Call) -> list[str]:
        """What torch's kernels do not have."""
        reasons = []
        dtypes = {
            "cpu": (torch.float32, torch.float64, torch.bfloat16, torch.float16),
            "cuda": (torch.bfloat16, torch.float16),
        }.get(call.query.device.type)
        if dtypes is None:
            reasons.append(f"runs on cpu and cuda, got {call.query.device.type}")
        elif call.query.dtype not in dtypes:
            names = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
            reasons.append(f"takes {names} on {call.query.device.type}, got {call.query.dtype}")
        head_dim, v_head_dim = call.query.shape[-1], call.value.shape[-1]
        if head_dim != v_head_dim:
            reasons.append(f"needs v_head_dim equal to head_dim, got {v_head_dim} and {head_dim}")
        elif call.query.device.type == "cuda" and (head_dim % 8 or head_dim > 256):
            reasons.append(f"needs a head_dim that is a multiple of 8 and at most 256 on cuda, got {head_dim}")
        for name in ("softcap", "sink_logits", "alibi_slopes"):
            if getattr(call, name) is not None:
                reasons.append(f"has no {name}")
        if call.dropout_p > 0:
            reasons.append("does not drop pairs by the stated hash")
        if call.scale <= 0:
            reasons.append(f"needs a scale above 0, got {call.scale}")
        if dense_or_causal(call.layout) is None:
            reasons.append("the layout is neither dense nor causal from query 0 and key 0")
        return reasons

    def run(self, call: Call) -> tuple[Tensor, Tensor]:
        """Output and lse."""
        causal = dense_or_causal(call.layout) == "causal"
        key, value = call.key, call.value
        if causal:
            # no query sees the keys after the last query, which may hold NaN
            key, value = (x[:, :, : call.layout.q_len] for x in (key, value))
        key, value = (x.repeat_interleave(call.group_size, dim=1) for x in (key, value))
        query, key, value = (x.contiguous() for x in (call.query, key, value))
        output, lse, *_ = _apply(_Flash, query, key, value, causal, call.scale)
        return output, lse


_apply: Callable[..., tuple[Any, ...]] = lambda function, *inputs: function.apply(*inputs)  # noqa: E731


class _Flash(torch.autograd.Function):
    @staticmethod
    def forward(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float) -> tuple[Any, ...]:
        if query.device.type == "cpu":
            output, lse = _aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, causal, scale=scale)
            return output, lse
        output, lse, _, _, _, _, seed, offset, _ = _aten._scaled_dot_product_flash_attention(
            query, key, value, 0.0, causal, False, scale=scale
        )
        return output, lse, seed, offset

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        query, key, value, ctx.causal, ctx.scale = inputs
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[2:])
        ctx.save_for_backward(query, key, value, *output)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor | None, grad_lse: Tensor | None, *_: Any) -> tuple[Any, ...]:
        if grad_lse is not None:
            raise BackendError(
                "backend 'sdpa' does not pass a gradient through lse, and one reached it; name backend='gather'."
            )
        if grad_output is None:
            return None, None, None, None, None
        grads = _apply(_FlashBackward, grad_output, *ctx.saved_tensors, ctx.causal, ctx.scale)
        return *grads, None, None


class _FlashBackward(torch.autograd.Function):
    @staticmethod
    def forward(grad_output: Tensor, *args: Any) -> tuple[Tensor, ...]:
        query, key, value, output, lse, *random, causal, scale = args
        shrink = _no_overflow(grad_output, value) if causal else None
        grad_output = grad_output.contiguous() if shrink is None else (grad_output * shrink).contiguous()
        if query.device.type == "cpu":
            grads = _aten._scaled_dot_product_flash_attention_for_cpu_backward(
                grad_output, query, key, value, output, lse, 0.0, causal, scale=scale
            )
        else:
            grads = _aten._scaled_dot_product_flash_attention_backward(
                grad_output, query, key, value, output, lse, None, None, query.shape[2], key.shape[2],
                0.0, causal, *random, scale=scale,
            )  # fmt: skip
        return tuple(grads) if shrink is None else tuple(grad.div_(shrink) for grad in grads)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.num_inputs = len(inputs)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[None, ...]:
        raise BackendError("backend 'sdpa' has no double backward; name backend='reference', which has.")


def _no_overflow(grad_output: Tensor, value: Tensor) -> Tensor:
    """A power of two, 1 as a rule, that keeps `grad_output . value` finite.

    torch multiplies a forbidden pair's product by 0, and infinity times 0 is NaN. Every gradient is linear in
    `grad_output`, so that a power of two put on it and taken off again changes no bit.
    """
    dtype = torch.float64 if value.dtype == torch.float64 else torch.float32
    largest = [x.abs().amax().double().log2() if x.numel() else x.new_zeros((), dtype=torch.float64)
               for x in (grad_output, value)]  # fmt: skip
    excess = largest[0] + largest[1] + math.log2(value.shape[-1]) + 1 - math.log2(torch.finfo(dtype).max)
    return excess.nan_to_num(nan=0.0).ceil().clamp(0, 126).neg().exp2().to(grad_output.dtype)


def dense_or_causal(layout: BlockLayout) -> str | None:
    """`"dense"` where every pair is allowed, `"causal"` where exactly `kv_idx <= q_idx` (wide or square), else None.

    Decided from the pairs, not from the name of a pattern.

    Examples:
        >>> dense_or_causal(BlockLayout.from_mask(np.tri(5, dtype=bool)))
        'causal'
        >>> dense_or_causal(BlockLayout.from_mask(np.tri(5, k=1, dtype=bool))) is None
        True
    """
    return layout.cached("sdpa", lambda: _dense_or_causal(layout))


def _dense_or_causal(layout: BlockLayout) -> str | None:
    q_len, kv_len = layout.q_len, layout.kv_len
    counts = {plane.allowed_pairs for plane in layout.planes}
    if q_len == 0 or kv_len == 0 or len(counts) != 1:
        return None
    if counts == {q_len * kv_len}:
        return "dense"
    if q_len > kv_len or counts != {q_len * (q_len + 1) // 2}:
        return None
    # as many pairs as the triangle has, and none above the diagonal: exactly the triangle
    none_above = all(_none_above_diagonal(part) for plane in layout.planes for part in plane.parts)
    return "causal" if none_above else None


def _none_above_diagonal(part: Part) -> bool:
    if not (part.q_natural and part.kv_natural):
        return False
    first_query = np.arange(part.q_blocks) * part.q_block
    stop_key = part.full_runs[:, 1].astype(np.int64) * part.kv_block
    if (stop_key > np.repeat(first_query, np.diff(part.full_offsets)) + 1).any():
        return False
    allowed = unpack_masks(part.masks, part.kv_block)
    keys = np.where(allowed, np.arange(part.kv_block), -1).max(axis=-1, initial=-1)[part.partial_mask]
    queries = np.repeat(first_query, np.diff(part.partial_offsets))[:, None] + np.arange(part.q_block)
    last_key = part.partial_kv_block[:, None].astype(np.int64) * part.kv_block + keys
    return bool(((keys < 0) | (last_key <= queries)).all())
