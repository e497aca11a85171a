"""Blocks gathered into batched calls: pure PyTorch, every device, exact gradients, memory linear in the length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openwork.errors import BackendError
from openwork.layout.data import BlockLayout, Plane
from openwork.ops.backends.call import Call, positions
from openwork.ops.backends.gather_plan import PartPlan, Tuning, Unit, plan_plane
from openwork.ops.backends.gather_tiles import (
    Extras,
    Gradients,
    Heads,
    Keys,
    Scratch,
    backward_unit,
    forward_unit,
)
from openwork.ops.hash import dropout_rows

__all__ = ["GatherBackend"]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_ON_ACCELERATORS = Tuning(score_bytes=256 << 20, max_width=8192, bundle_all=True)


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
        bare = replace(call, query=None, key=None, value=None, sink_logits=None, alibi_slopes=None)
        inputs = call.query, call.key, call.value, call.sink_logits, call.alibi_slopes
        output, lse, *_ = _Gather.apply(*inputs, _Job(bare, tuning))
        return output, lse


@dataclass(frozen=True, eq=False)
class _Job:
    """Everything of a call that is not a tensor with a gradient."""

    call: Call
    tuning: Tuning


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(
        query: Tensor, key: Tensor, value: Tensor, sink_logits: Tensor | None, alibi_slopes: Tensor | None, job: _Job
    ) -> tuple[Tensor, ...]:
        call = replace(
            job.call, query=query, key=key, value=value, sink_logits=sink_logits, alibi_slopes=alibi_slopes
        )
        wide, lse = _forward(call, job.tuning)
        # the backward pass subtracts numbers of like size: it needs the output before it is rounded
        return (wide, lse) if wide.dtype == query.dtype else (wide.to(query.dtype), lse, wide)

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
        saved = ctx.saved_tensors
        grads = _GatherBackward.apply(grad_output, grad_lse, *saved, ctx.job, tuple(ctx.needs_input_grad[:5]))
        return (*(grad if needed else None for grad, needed in zip(grads, ctx.needs_input_grad, strict=False)), None)


class _GatherBackward(torch.autograd.Function):
    @staticmethod
    def forward(grad_output: Tensor | None, grad_lse: Tensor | None, *args: Any) -> tuple[Tensor, ...]:
        query, key, value, sink_logits, alibi_slopes, output, lse, job, needed = args
        call = replace(
            job.call, query=query, key=key, value=value, sink_logits=sink_logits, alibi_slopes=alibi_slopes
        )
        return _backward(call, job.tuning, output, lse, grad_output, grad_lse, needed)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        return None

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[None, ...]:
        raise BackendError("backend 'gather' has no double backward; name backend='reference', which has.")


@dataclass(frozen=True, eq=False)
class _Share:
    """The heads that one plane serves, as many query heads for each key head.

    Attributes:
        plane: The plane.
        plans: What runs, part by part.
        kv_rows: int64 `[M]`, rows of `[batch * kv_heads]`; None is all of them.
        q_rows: int64 `[M * G]`, rows of `[batch * q_heads]`; None is all of them.
        heads: M, the number of key heads.
        group: G, query heads for each.
        batch: int64 `[M]`, sequence of each key head.
        q_head: int64 `[M, G]`, query head within its sequence.
        unseen: bool `[kv_len]`, keys that nobody sees; None where there are none.
        empty: bool `[q_len]`, queries that see no key; None where there are none.
    """

    plane: Plane
    plans: tuple[PartPlan, ...]
    kv_rows: Tensor | None
    q_rows: Tensor | None
    heads: int
    group: int
    batch: Tensor
    q_head: Tensor
    unseen: Tensor | None
    empty: Tensor | None

    def take_q(self, x: Tensor) -> Tensor:
        """`[M, G, q_len, ...]` from `[batch, q_heads, q_len, ...]`."""
        x = x.flatten(0, 1)
        x = x if self.q_rows is None else x.index_select(0, self.q_rows)
        return x.unflatten(0, (self.heads, self.group))

    def take_kv(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """`[M, kv_len, ...]` from `[batch, kv_heads, kv_len, ...]`, keys that nobody sees zeroed."""
        x = x.flatten(0, 1)
        x = (x if self.kv_rows is None else x.index_select(0, self.kv_rows)).to(dtype)
        return x.contiguous() if self.unseen is None else x.masked_fill(self.unseen[:, None], 0.0).contiguous()

    def put(self, total: Tensor, rows: Tensor | None, own: Tensor) -> None:
        """Writes `own` to its heads of `total`, unless it is a view of it."""
        if rows is not None:
            total.flatten(0, 1).index_copy_(0, rows, own.reshape(rows.shape[0], *total.shape[2:]))


def _shares(call: Call, tuning: Tuning) -> list[_Share]:
    layout, device = call.layout, call.query.device
    batch, q_heads, kv_heads = call.query.shape[0], call.query.shape[1], call.key.shape[1]
    key = ("gather", batch, q_heads, kv_heads, tuning, str(device))
    return layout.cached(key, lambda: list(_make_shares(layout, batch, q_heads, kv_heads, tuning, device)))


def _make_shares(
    layout: BlockLayout, batch: int, q_heads: int, kv_heads: int, tuning: Tuning, device: torch.device
) -> Iterator[_Share]:
    index = np.broadcast_to(layout.index, (batch, q_heads)).reshape(-1)
    group = q_heads // kv_heads
    plans: dict[tuple[int, int], tuple[PartPlan, ...]] = {}
    for number, plane in enumerate(layout.planes):
        q_rows = np.flatnonzero(index == number)
        if not plane.parts or not len(q_rows):
            continue
        kv_rows, counts = np.unique(q_rows // group, return_counts=True)
        unseen, empty = ~plane.seen_keys(), plane.row_counts() == 0
        for count in np.unique(counts).tolist():
            own = kv_rows[counts == count]
            of_own = q_rows[np.isin(q_rows // group, own)]
            if (number, len(of_own)) not in plans:
                plans[number, len(of_own)] = plan_plane(plane, len(of_own), tuning, device)
            everything = len(of_own) == batch * q_heads
            yield _Share(
                plane=plane,
                plans=plans[number, len(of_own)],
                kv_rows=None if everything else torch.tensor(own, device=device),
                q_rows=None if everything else torch.tensor(of_own, device=device),
                heads=len(own),
                group=count,
                batch=torch.tensor(own // kv_heads, device=device),
                q_head=torch.tensor(of_own.reshape(-1, count) % q_heads, device=device),
                unseen=torch.tensor(unseen, device=device) if unseen.any() else None,
                empty=torch.tensor(empty, device=device) if empty.any() else None,
            )


def _extras(call: Call, share: _Share) -> Extras:
    device, dtype = call.query.device, call.compute_dtype
    extras = Extras(softcap=call.softcap, dropout_p=call.dropout_p)
    if call.alibi_slopes is not None:
        batch = share.batch if call.alibi_slopes.shape[0] > 1 else torch.zeros_like(share.batch)
        extras.slopes = call.alibi_slopes.to(dtype)[batch[:, None], share.q_head]
        extras.q_pos = _per_head(positions(call.layout, device)[0], share).unsqueeze(1)
    if call.dropout_p > 0:
        q_idx = torch.arange(call.layout.q_len, device=device)
        extras.row_hashes = dropout_rows(
            call.dropout_seed, share.batch[:, None, None], share.q_head[:, :, None], q_idx
        )
    return extras


def _per_head(of_sequence: Tensor, share: _Share) -> Tensor:
    """`[M, n]` from `[batch or 1, n]`."""
    if of_sequence.shape[0] == 1:
        return of_sequence.expand(share.heads, -1)
    return of_sequence.index_select(0, share.batch)


def _keys(call: Call, share: _Share, plan: PartPlan, key: Tensor, value: Tensor) -> Keys:
    """The keys of a share in the order of a part."""
    keys = Keys(_in_order(key, plan), _in_order(value, plan))
    if call.dropout_p > 0:
        keys.index = _in_order(torch.arange(call.layout.kv_len, device=key.device)[None], plan)
    if call.alibi_slopes is not None:
        keys.kv_pos = _in_order(_per_head(positions(call.layout, key.device)[1], share), plan)
    return keys


def _in_order(x: Tensor, plan: PartPlan) -> Tensor:
    if plan.kv_index is not None:
        x = x.index_select(1, plan.kv_index)
        return x if plan.kv_pads is None else x.index_fill_(1, plan.kv_pads, 0)
    missing = plan.kv_length - x.shape[1]
    if missing <= 0:
        return x
    return torch.cat([x, x.new_zeros(x.shape[0], missing, *x.shape[2:])], dim=1)


def _add_from_order(total: Tensor, own: Tensor, plan: PartPlan) -> None:
    """Adds gradients in the order of a part to those in natural order, unless they are the same memory."""
    if own is total:
        return
    if plan.kv_index is None:
        total.add_(own[:, : total.shape[1]])
    elif plan.kv_valid is None:
        total.index_add_(1, plan.kv_index, own)
    else:
        assert plan.kv_valid_index is not None
        total.index_add_(1, plan.kv_valid_index, own.index_select(1, plan.kv_valid))


def _chunks(share: _Share, unit: Unit, tuning: Tuning) -> Iterator[slice]:
    """Key heads that are computed together, so that their scores stay in cache."""
    size = 4 * unit.tiles * share.group * unit.rows * unit.width
    step = max(1, min(share.heads, tuning.score_bytes // max(1, size)))
    for first in range(0, share.heads, step):
        yield slice(first, min(first + step, share.heads))


def _forward(call: Call, tuning: Tuning) -> tuple[Tensor, Tensor]:
    query, dtype = call.query, call.compute_dtype
    shape = (*query.shape[:3], call.value.shape[-1])
    total_output = torch.zeros(shape, dtype=dtype, device=query.device)
    total_lse = torch.full(shape[:3], -torch.inf, dtype=dtype, device=query.device)
    scratch = Scratch(dtype, query.device)
    for share in _shares(call, tuning):
        heads = Heads(
            query=_scaled_query(call, share),
            output=share.take_q(total_output),
            lse=share.take_q(total_lse),
            extras=_extras(call, share),
            scratch=scratch,
        )
        key, value = share.take_kv(call.key, dtype), share.take_kv(call.value, dtype)
        for plan in share.plans:
            keys = _keys(call, share, plan, key, value)
            for unit in plan.units:
                for m in _chunks(share, unit, tuning):
                    forward_unit(heads, keys, plan, unit, m)
        share.put(total_output, share.q_rows, heads.output)
        share.put(total_lse, share.q_rows, heads.lse)
    if call.sink_logits is not None:
        total_output.mul_(_kept_beside_sink(call, total_lse).unsqueeze(-1))
    return total_output, total_lse


def _scaled_query(call: Call, share: _Share) -> Tensor:
    query = share.take_q(call.query).to(call.compute_dtype) * call.scale
    if share.empty is not None:
        query.masked_fill_(share.empty[:, None], 0.0)
    return query.contiguous()


def _kept_beside_sink(call: Call, lse: Tensor) -> Tensor:
    """What the sink leaves to the keys, `[batch, q_heads, q_len]`; 0 for an empty row."""
    assert call.sink_logits is not None
    empty = lse == -torch.inf
    kept = torch.sigmoid(lse.masked_fill(empty, 0.0) - call.sink_logits.to(lse.dtype)[:, None])
    return kept.masked_fill_(empty, 0.0)


def _backward(
    call: Call,
    tuning: Tuning,
    output: Tensor,
    lse: Tensor,
    grad_output: Tensor | None,
    grad_lse: Tensor | None,
    needed: tuple[bool, ...],
) -> tuple[Tensor, ...]:
    dtype, device = call.compute_dtype, call.query.device
    empty = lse == -torch.inf
    grad_out, offset, grad_sink = _row_terms(call, output, lse, empty, grad_output, grad_lse)
    safe_lse = lse.masked_fill(empty, torch.inf)
    inputs = call.query, call.key, call.value
    totals = [torch.zeros(x.shape, dtype=dtype, device=device) if want else None for x, want in zip(inputs, needed, strict=False)]
    grad_slopes = None
    if call.alibi_slopes is not None and needed[4]:
        grad_slopes = torch.zeros(call.query.shape[:2], dtype=dtype, device=device)
    scratch = Scratch(dtype, device)
    for share in _shares(call, tuning):
        heads = Heads(
            query=_scaled_query(call, share),
            output=output,
            lse=share.take_q(safe_lse),
            extras=_extras(call, share),
            scratch=scratch,
            grad_output=share.take_q(grad_out),
            offset=share.take_q(offset),
        )
        _backward_share(call, share, heads, tuning, totals, grad_slopes)
    grads: list[Tensor | None] = [None if total is None else total.to(x.dtype) for total, x in zip(totals, inputs, strict=True)]
    if grads[0] is not None:
        assert totals[0] is not None
        grads[0] = totals[0].mul_(call.scale).to(call.query.dtype)
    grads.append(None if grad_sink is None or call.sink_logits is None else grad_sink.to(call.sink_logits.dtype))
    if grad_slopes is not None and call.alibi_slopes is not None:
        grad_slopes = grad_slopes if call.alibi_slopes.shape[0] > 1 else grad_slopes.sum(dim=0, keepdim=True)
        grad_slopes = grad_slopes.to(call.alibi_slopes.dtype)
    grads.append(grad_slopes)
    return tuple(output.new_zeros(()) if grad is None else grad for grad in grads)


def _row_terms(
    call: Call, output: Tensor, lse: Tensor, empty: Tensor, grad_output: Tensor | None, grad_lse: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """What each row hands to its pairs: gradient of the output before the sink, and the offset; the sink's gradient.

    With `out = kept * sum p v` and `kept = sigmoid(lse - sink)`: the gradient of a score is
    `p * (kept * dout.v - (kept * dout.out - dlse))`, and that of the sink `-(1 - kept) * dout.out`.
    """
    dtype = call.compute_dtype
    if grad_output is None:
        dout = torch.zeros(output.shape, dtype=dtype, device=output.device)
    else:
        dout = grad_output.to(dtype)
        dout = dout.masked_fill(empty.unsqueeze(-1), 0.0) if empty.any() else dout
    offset = (dout * output).sum(dim=-1)
    grad_sink = None
    if call.sink_logits is not None:
        kept = _kept_beside_sink(call, lse)
        grad_sink = -((1.0 - kept) * offset).sum(dim=(0, 2))
        dout, offset = dout * kept.unsqueeze(-1), offset * kept
    if grad_lse is not None:
        offset = offset - grad_lse.to(dtype).masked_fill(empty, 0.0)
    return dout.contiguous(), offset, grad_sink


def _backward_share(
    call: Call, share: _Share, heads: Heads, tuning: Tuning, totals: list[Tensor | None], grad_slopes: Tensor | None
) -> None:
    dtype = call.compute_dtype
    key, value = share.take_kv(call.key, dtype), share.take_kv(call.value, dtype)
    grad_query = None if totals[0] is None else share.take_q(totals[0])
    grad_key, grad_value = (None if x is None else _kv_view(share, x) for x in totals[1:])
    own_slopes = None if grad_slopes is None else torch.zeros_like(share.q_head, dtype=dtype)
    for plan in share.plans:
        keys = _keys(call, share, plan, key, value)
        # the gradient's memory is in the part's order too, unless that is the natural one
        own = [
            total if total is None or ordered.shape == total.shape and plan.kv_index is None else torch.zeros_like(ordered)
            for total, ordered in ((grad_key, keys.key), (grad_value, keys.value))
        ]
        grads = Gradients(grad_query, own[0], own[1], own_slopes)
        for unit in plan.units:
            for m in _chunks(share, unit, tuning):
                backward_unit(heads, keys, plan, unit, m, grads)
        for total, ordered in zip((grad_key, grad_value), own, strict=True):
            if total is not None and ordered is not None:
                _add_from_order(total, ordered, plan)
    if totals[0] is not None and grad_query is not None:
        share.put(totals[0], share.q_rows, grad_query)
    for total, view in zip(totals[1:], (grad_key, grad_value), strict=True):
        if total is not None and view is not None and share.kv_rows is not None:
            total.flatten(0, 1).index_add_(0, share.kv_rows, view)
    if grad_slopes is not None and own_slopes is not None:
        rows = share.batch[:, None] * grad_slopes.shape[1] + share.q_head
        grad_slopes.view(-1).index_copy_(0, rows.flatten(), own_slopes.flatten())


def _kv_view(share: _Share, total: Tensor) -> Tensor:
    """Memory for the gradients of the share's keys: of the total itself where it is all of them."""
    flat = total.flatten(0, 1)
    if share.kv_rows is None:
        return flat
    return torch.zeros(share.heads, *flat.shape[1:], dtype=flat.dtype, device=flat.device)
