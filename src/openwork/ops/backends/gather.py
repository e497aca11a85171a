"""Blocks gathered into batched calls: pure PyTorch, every device, exact gradients, memory linear in the length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from openwork.errors import BackendError
from openwork.layout.data import BlockLayout
from openwork.ops.backends.call import Call
from openwork.ops.backends.gather_heads import (
    Share,
    add_from_order,
    extras_of,
    in_base_2,
    keys_of,
    query_of,
    shares_of,
)
from openwork.ops.backends.gather_plan import Tuning
from openwork.ops.backends.gather_tiles import LN2, LOG2E, Gradients, Heads, Scratch, backward_unit, forward_unit
from openwork.ops.backends.threads import run_jobs

__all__ = ["GatherBackend"]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_ON_ACCELERATORS = Tuning(score_pairs=64 << 20, max_width=8192, heads=64, jobs=1, bundle_all=True)


class GatherBackend:
    """Any layout on any device. Low precision is computed in float32.

    Args:
        tuning: Sizes of the units of work; None chooses by device.
    """

    name = "gather"

    def __init__(self, tuning: Tuning | None = None) -> None:
        self.tuning = tuning

    def refusal_reasons(self, call: Call) -> list[str]:
        """Empty for every dtype that torch can multiply in."""
        if call.query.dtype not in _DTYPES:
            return [f"needs float32, bfloat16, float16 or float64, got {call.query.dtype}"]
        if call.query.dtype == torch.float64 and call.query.device.type == "mps":
            return ["mps has no float64"]
        return []

    def run(self, call: Call) -> tuple[Tensor, Tensor]:
        """Output and lse."""
        tuning = self.tuning or (Tuning() if call.query.device.type == "cpu" else _ON_ACCELERATORS)
        tensors = call.query, call.key, call.value, call.sink_logits, call.alibi_slopes
        # what has a gradient goes through autograd, one by one; the rest of the call goes along
        job = _Job(call.layout, call.scale, call.softcap, call.dropout_p, call.dropout_seed, tuning)
        output, lse, *_ = _apply(_Gather, *tensors, job)
        return output, lse


_apply: Callable[..., tuple[Any, ...]] = lambda function, *inputs: function.apply(*inputs)  # noqa: E731


@dataclass(frozen=True, eq=False)
class _Job:
    """Everything of a call that has no gradient."""

    layout: BlockLayout
    scale: float
    softcap: float | None
    dropout_p: float
    dropout_seed: int
    tuning: Tuning

    def call(
        self, query: Tensor, key: Tensor, value: Tensor, sink_logits: Tensor | None, alibi_slopes: Tensor | None
    ) -> Call:
        """The whole call again, in memory of which every head can be a view."""
        return Call(
            query=query.contiguous(),
            key=key.contiguous(),
            value=value.contiguous(),
            layout=self.layout,
            scale=self.scale,
            softcap=self.softcap,
            sink_logits=sink_logits,
            alibi_slopes=alibi_slopes,
            dropout_p=self.dropout_p,
            dropout_seed=self.dropout_seed,
        )


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, ...]:
        *tensors, job = inputs
        wide, lse = _forward(job.call(*tensors), job.tuning)
        # the backward pass subtracts numbers of like size: it needs the output before it is rounded
        dtype = tensors[0].dtype
        return (wide, lse) if wide.dtype == dtype else (wide.to(dtype), lse, wide)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, ctx.job = inputs
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[2:])
        ctx.save_for_backward(*tensors, output[-1] if len(output) == 3 else output[0], output[1])

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor | None, grad_lse: Tensor | None, *_: Any) -> tuple[Any, ...]:
        if grad_output is None and grad_lse is None:
            return (None,) * 6
        needed = tuple(ctx.needs_input_grad[:5])
        grads = _apply(_GatherBackward, grad_output, grad_lse, *ctx.saved_tensors, ctx.job, needed)
        return (*(grad if wanted else None for grad, wanted in zip(grads, needed, strict=True)), None)


class _GatherBackward(torch.autograd.Function):
    @staticmethod
    def forward(grad_output: Tensor | None, grad_lse: Tensor | None, *inputs: Any) -> tuple[Tensor, ...]:
        *tensors, output, lse, job, needed = inputs
        given = [None if grad is None else grad.contiguous() for grad in (grad_output, grad_lse)]
        return _backward(job.call(*tensors), job.tuning, _Incoming(output, lse, *given), needed)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        return None

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[None, ...]:
        raise BackendError("backend 'gather' has no double backward; name backend='reference', which has.")


def _forward(call: Call, tuning: Tuning) -> tuple[Tensor, Tensor]:
    """Output, not yet rounded to the dtype of the query, and lse."""
    shape = (*call.query.shape[:3], call.value.shape[-1])
    output = torch.zeros(shape, dtype=call.compute_dtype, device=call.query.device)
    lse = torch.full(shape[:3], -torch.inf, dtype=call.compute_dtype, device=call.query.device)

    jobs = [partial(_forward_share, call, share, output, lse) for share in shares_of(call, tuning)]
    for _ in run_jobs(jobs, threads=output.device.type == "cpu"):
        pass
    return output, lse


def _forward_share(call: Call, share: Share, output: Tensor, lse: Tensor) -> None:
    dtype = call.compute_dtype
    heads = Heads(
        query=query_of(call, share),
        output=share.take_q(output),
        lse=share.take_q(lse),
        extras=extras_of(call, share),
        scratch=Scratch(dtype, call.query.device),
        in_base_2=in_base_2(call),
    )
    key, value = share.take_kv(call.key, dtype), share.take_kv(call.value, dtype)
    for plan in share.plans:
        keys = keys_of(call, share, plan, key, value)
        for unit in plan.units:
            forward_unit(heads, keys, plan, unit)
    if call.sink_logits is not None:
        heads.output.mul_(_kept_beside_sink(call, share, heads.lse).unsqueeze(-1))
    share.put_q(output, heads.output)
    share.put_q(lse, heads.lse)


def _kept_beside_sink(call: Call, share: Share, lse: Tensor) -> Tensor:
    """What the sink leaves to the keys, `[M, G, q_len]`; 0 for an empty row."""
    assert call.sink_logits is not None
    empty = lse == -torch.inf
    sink = call.sink_logits.to(lse.dtype)[share.q_head].unsqueeze(-1)
    return torch.sigmoid(lse.masked_fill(empty, 0.0) - sink).masked_fill_(empty, 0.0)


@dataclass(frozen=True, eq=False)
class _Incoming:
    """What the backward pass starts from, each `[batch, q_heads, q_len, ...]`."""

    output: Tensor
    lse: Tensor
    grad_output: Tensor | None
    grad_lse: Tensor | None


@dataclass
class _Outgoing:
    """Gradients of a whole call in the dtype they are summed in; None is not wanted."""

    query: Tensor | None
    key: Tensor | None
    value: Tensor | None
    sink: Tensor | None
    slopes: Tensor | None


@dataclass
class _OfShare:
    """Gradients of a share that its job does not write to their place itself."""

    key: Tensor | None
    value: Tensor | None
    sink: Tensor | None
    slopes: Tensor | None


def _backward(call: Call, tuning: Tuning, incoming: _Incoming, needed: tuple[bool, ...]) -> tuple[Tensor, ...]:
    heads = call.query.shape[:2]
    shapes = [call.query.shape, call.key.shape, call.value.shape, heads, heads]
    dtype, device = call.compute_dtype, call.query.device
    totals = _Outgoing(
        *(torch.zeros(x, dtype=dtype, device=device) if want else None for x, want in zip(shapes, needed, strict=True))
    )
    shares = shares_of(call, tuning)
    jobs = [partial(_backward_share, call, share, incoming, totals) for share in shares]
    # key heads may belong to several shares: they are added here, in one order
    for share, own in zip(shares, run_jobs(jobs, threads=device.type == "cpu"), strict=True):
        for total, part in ((totals.key, own.key), (totals.value, own.value)):
            if total is not None and part is not None:
                flat = total.flatten(0, 1)
                if isinstance(share.kv_rows, Tensor):
                    flat.index_add_(0, share.kv_rows, part)
                else:
                    flat[share.kv_rows].add_(part)
        for total, part in ((totals.sink, own.sink), (totals.slopes, own.slopes)):
            if total is not None and part is not None:
                total.flatten()[share.q_rows] = part.flatten()
    grads = [totals.query, totals.key, totals.value]
    grads.append(None if totals.sink is None else totals.sink.sum(dim=0))
    slopes, given = totals.slopes, call.alibi_slopes
    if slopes is not None and given is not None and given.shape[0] == 1:
        slopes = slopes.sum(dim=0, keepdim=True)
    grads.append(slopes)
    tensors = [call.query, call.key, call.value, call.sink_logits, call.alibi_slopes]
    empty = torch.zeros((), device=device)
    return tuple(
        empty if grad is None or like is None else grad.to(like.dtype)
        for grad, like in zip(grads, tensors, strict=True)
    )


def _backward_share(call: Call, share: Share, incoming: _Incoming, totals: _Outgoing) -> _OfShare:
    dtype = call.compute_dtype
    heads, grad_sink = _heads_backward(call, share, incoming)
    key, value = share.take_kv(call.key, dtype), share.take_kv(call.value, dtype)
    grad_query = None if totals.query is None else share.take_q(totals.query)
    grad_key = None if totals.key is None else torch.zeros_like(key)
    grad_value = None if totals.value is None else torch.zeros_like(value)
    grad_slopes = None if totals.slopes is None else torch.zeros_like(share.q_head, dtype=dtype)
    for plan in share.plans:
        keys = keys_of(call, share, plan, key, value)
        # the gradient's memory is in the part's order too; it is the total's where that is the natural one
        ordered = [
            total if total is None or keys_x is x else torch.zeros_like(keys_x)
            for total, keys_x, x in ((grad_key, keys.key, key), (grad_value, keys.value, value))
        ]
        grads = Gradients(grad_query, ordered[0], ordered[1], grad_slopes)
        for unit in plan.units:
            backward_unit(heads, keys, plan, unit, grads)
        for total, own in zip((grad_key, grad_value), ordered, strict=True):
            if total is not None and own is not None:
                add_from_order(total, own, plan)
    if grad_key is not None and heads.in_base_2:
        grad_key.mul_(LN2)
    if totals.query is not None and grad_query is not None:
        grad_query.mul_(call.scale)
        share.put_q(totals.query, grad_query)
    return _OfShare(grad_key, grad_value, grad_sink, grad_slopes)


def _heads_backward(call: Call, share: Share, incoming: _Incoming) -> tuple[Heads, Tensor | None]:
    """The query side, and the gradient of the sink.

    With `out = kept * sum p v` and `kept = sigmoid(lse - sink)`, the gradient of a score is
    `p * (kept * dout.v - (kept * dout.out - dlse))`, and that of the sink the sum of `-(1 - kept) * dout.out`.
    """
    dtype = call.compute_dtype
    output, lse = share.take_q(incoming.output), share.take_q(incoming.lse)
    empty = lse == -torch.inf
    if incoming.grad_output is None:
        dout = torch.zeros_like(output)
    else:
        dout = share.take_q(incoming.grad_output).to(dtype)
        if share.empty is not None:
            dout = dout.masked_fill(empty.unsqueeze(-1), 0.0)
    offset = (dout * output).sum(dim=-1)
    grad_sink = None
    if call.sink_logits is not None:
        kept = _kept_beside_sink(call, share, lse)
        grad_sink = -((1.0 - kept) * offset).sum(dim=-1)
        # a row whose lse has overflowed has NaN probabilities where it sees; NaN here would reach all keys of its unit
        kept = kept.nan_to_num(nan=1.0)
        dout, offset = dout * kept.unsqueeze(-1), offset * kept
    if incoming.grad_lse is not None:
        offset = offset - share.take_q(incoming.grad_lse).to(dtype).masked_fill(empty, 0.0)
    heads = Heads(
        query=query_of(call, share),
        output=output,
        lse=(lse * (LOG2E if in_base_2(call) else 1.0)).masked_fill_(empty, torch.inf),
        extras=extras_of(call, share),
        scratch=Scratch(dtype, call.query.device),
        in_base_2=in_base_2(call),
        grad_output=dout.contiguous(),
        offset=offset,
    )
    return heads, grad_sink
