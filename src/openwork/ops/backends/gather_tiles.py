"""The arithmetic of the `gather` backend: one unit forward, one unit backward.

Exponentials are taken to base 2: `exp2_` has no slow path for -inf, and a forbidden pair is -inf. Pairs are forbidden
by the bits of their numbers, which is exact whatever stood there, NaN included, and faster than `masked_fill_`.

Shapes: M key heads, G query heads for each, T tiles, R rows, W keys of a unit, D channels; a unit
is one batched product over X = M * T matrices of G * R rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from openwork.ops.backends.gather_plan import PartPlan, Unit
from openwork.ops.hash import keep_from_rows

__all__ = ["LN2", "LOG2E", "Extras", "Gradients", "Heads", "Keys", "Scratch", "backward_unit", "forward_unit"]

LOG2E = math.log2(math.e)
LN2 = math.log(2.0)


@dataclass
class Scratch:
    """Memory that units use one after the other."""

    dtype: torch.dtype
    device: torch.device
    buffers: dict[str, Tensor] = field(default_factory=dict)

    def take(self, name: str, *shape: int) -> Tensor:
        """Unwritten memory of a shape, until the name is taken again."""
        size = math.prod(shape)
        if name not in self.buffers or self.buffers[name].numel() < size:
            self.buffers[name] = torch.empty(size, dtype=self.dtype, device=self.device)
        return self.buffers[name][:size].view(shape)


@dataclass
class Extras:
    """Options that touch scores or probabilities.

    Attributes:
        softcap: `cap` of `cap * tanh(x / cap)`.
        slopes: `[M, G]`, ALiBi.
        q_pos: int64 `[M, 1, q_len]`, for ALiBi.
        dropout_p: Chance to drop a pair.
        row_hashes: int64 `[M, G, q_len]`, for dropout.
    """

    softcap: float | None = None
    slopes: Tensor | None = None
    q_pos: Tensor | None = None
    dropout_p: float = 0.0
    row_hashes: Tensor | None = None


@dataclass
class Heads:
    """The query side of some heads that one plane serves, in natural order; rows that see no key hold zeros.

    Attributes:
        query: `[M, G, q_len, D]`, times `scale`, and times `log2(e)` where `in_base_2`.
        output: `[M, G, q_len, Dv]`, forward.
        lse: `[M, G, q_len]`; backward: in base 2 where the scores are, and `+inf` instead of `-inf`.
        extras: Options.
        scratch: Memory.
        in_base_2: Whether `query.key` is in base 2 already: where nothing bends the scores.
        grad_output: `[M, G, q_len, Dv]`, backward.
        offset: `[M, G, q_len]`, what is subtracted from the gradient of each probability, backward.
    """

    query: Tensor
    output: Tensor
    lse: Tensor
    extras: Extras
    scratch: Scratch
    in_base_2: bool
    grad_output: Tensor | None = None
    offset: Tensor | None = None


@dataclass
class Keys:
    """The key side in the order of a part; keys that nobody sees and pads hold zeros.

    Attributes:
        key: `[M, n, D]`.
        value: `[M, n, Dv]`.
        index: int64 `[1, n]`, key indices, for dropout.
        kv_pos: int64 `[M, n]`, for ALiBi.
    """

    key: Tensor
    value: Tensor
    index: Tensor | None = None
    kv_pos: Tensor | None = None


@dataclass
class Gradients:
    """Where a unit adds its gradients; None is not wanted.

    Attributes:
        query: `[M, G, q_len, D]`.
        key: `[M, n, D]`, in the order of the part; times `log2(e)` where the query is.
        value: `[M, n, Dv]`, in the order of the part.
        slopes: `[M, G]`.
    """

    query: Tensor | None
    key: Tensor | None
    value: Tensor | None
    slopes: Tensor | None


def forward_unit(heads: Heads, keys: Keys, plan: PartPlan, unit: Unit) -> None:
    """Adds a unit to output and lse of some heads."""
    query = _rows(heads.query, unit)
    key, value = _columns(keys.key, plan, unit), _columns(keys.value, plan, unit)
    scores = heads.scratch.take("scores", query.shape[0], query.shape[1], unit.width)
    torch.bmm(query, key.mT, out=scores)
    _bend(scores, heads, keys, plan, unit, None)
    _forbid(scores, plan, unit, -math.inf)
    largest = scores.amax(dim=-1, keepdim=True)
    # a row without keys in this unit: exp2(-inf - 0) is 0, and its lse stays -inf
    largest.masked_fill_(largest == -math.inf, 0.0)
    _exponential(scores.sub_(largest), heads)
    total = scores.sum(dim=-1, keepdim=True)
    lse = (largest + total.log2()).mul_(LN2) if heads.in_base_2 else largest + total.log()
    lse = lse.squeeze(-1)
    keep = _keep(heads, keys, plan, unit, scores)
    if keep is not None:
        scores.mul_(keep)
    output = torch.bmm(scores, value, out=heads.scratch.take("rows", *scores.shape[:2], value.shape[-1]))
    output.div_(total.clamp_(min=1.0).mul_(1.0 - heads.extras.dropout_p))
    if not unit.first:
        old_lse, old_output = _rows(heads.lse, unit), _rows(heads.output, unit)
        new_lse = torch.logaddexp(old_lse, lse)
        base = new_lse.masked_fill(new_lse == -math.inf, 0.0)
        output.mul_((lse - base).exp_().unsqueeze(-1)).add_(old_output * (old_lse - base).exp_().unsqueeze(-1))
        lse = new_lse
    _store_rows(heads.lse, lse, unit)
    _store_rows(heads.output, output, unit)


def backward_unit(heads: Heads, keys: Keys, plan: PartPlan, unit: Unit, grads: Gradients) -> None:
    """Adds a unit to the gradients of some heads."""
    assert heads.grad_output is not None and heads.offset is not None
    scratch = heads.scratch
    query, grad_output = _rows(heads.query, unit, 0.0), _rows(heads.grad_output, unit, 0.0)
    lse, offset = _rows(heads.lse, unit, math.inf), _rows(heads.offset, unit, 0.0)
    key, value = _columns(keys.key, plan, unit), _columns(keys.value, plan, unit)
    shape = (query.shape[0], query.shape[1], unit.width)
    probs = torch.bmm(query, key.mT, out=scratch.take("scores", *shape))
    slope_of_cap = scratch.take("cap", *shape) if heads.extras.softcap is not None else None
    distance = _bend(probs, heads, keys, plan, unit, slope_of_cap)
    _exponential(probs.sub_(lse.unsqueeze(-1)), heads)
    _forbid(probs, plan, unit, 0.0)
    keep = _keep(heads, keys, plan, unit, probs)
    if keep is not None:
        keep = keep.to(probs.dtype).div_(1.0 - heads.extras.dropout_p)
    if grads.value is not None:
        kept = probs if keep is None else probs * keep
        grad = torch.bmm(kept.mT, grad_output, out=scratch.take("columns", shape[0], shape[2], value.shape[-1]))
        _add_columns(grads.value, grad, plan, unit)
    if grads.query is None and grads.key is None and grads.slopes is None:
        return
    grad_probs = torch.bmm(grad_output, value.mT, out=scratch.take("grad", *shape))
    if keep is not None:
        grad_probs.mul_(keep)
    grad_scores = probs.mul_(grad_probs.sub_(offset.unsqueeze(-1)))
    # where a pair is forbidden the probability is 0, but what it is multiplied by may have overflowed
    _forbid(grad_scores, plan, unit, 0.0)
    if grads.slopes is not None:
        assert distance is not None
        per_tile = (grad_scores * distance).view(-1, unit.tiles, grads.slopes.shape[1], unit.rows * unit.width)
        grads.slopes -= per_tile.sum(dim=(1, 3))
    if slope_of_cap is not None:
        grad_scores.mul_(slope_of_cap)
        _forbid(grad_scores, plan, unit, 0.0)
    if grads.query is not None:
        grad = torch.bmm(grad_scores, key, out=scratch.take("rows", *shape[:2], key.shape[-1]))
        _store_rows(grads.query, grad, unit, add=not unit.first)
    if grads.key is not None:
        grad = torch.bmm(grad_scores.mT, query, out=scratch.take("columns", shape[0], shape[2], key.shape[-1]))
        _add_columns(grads.key, grad, plan, unit)


def _exponential(x: Tensor, heads: Heads) -> None:
    """The exponential of scores in place."""
    if not heads.in_base_2:
        x.mul_(LOG2E)
    x.exp2_()


def _rows(x: Tensor, unit: Unit, pad: float | None = None) -> Tensor:
    """The rows of a unit as `[X, G * R, ...]` from `[M, G, q_len, ...]`; pads as given, or as they come."""
    if unit.q_rows is not None:
        return x[:, :, unit.q_rows].flatten(1, 2)
    assert unit.q_index is not None
    x = x.index_select(2, unit.q_index)
    if pad is not None and unit.q_pads is not None:
        x.index_fill_(2, unit.q_pads, pad)
    x = x.unflatten(2, (unit.tiles, unit.rows)).transpose(1, 2)
    return x.reshape(-1, x.shape[2] * unit.rows, *x.shape[4:])


def _store_rows(x: Tensor, rows: Tensor, unit: Unit, add: bool = False) -> None:
    """The reverse of `_rows`."""
    rows = rows.view(x.shape[0], unit.tiles, x.shape[1], unit.rows, *rows.shape[2:]).transpose(1, 2).flatten(2, 3)
    if unit.q_rows is not None:
        target = x[:, :, unit.q_rows]
        target.add_(rows) if add else target.copy_(rows)
        return
    index = unit.q_index
    if unit.q_valid is not None:
        rows, index = rows.index_select(2, unit.q_valid), unit.q_valid_index
    assert index is not None
    x.index_add_(2, index, rows) if add else x.index_copy_(2, index, rows)


def _columns(x: Tensor, plan: PartPlan, unit: Unit) -> Tensor:
    """The keys of a unit as `[X, W, ...]` from `[M, n, ...]`."""
    if unit.kv_columns is not None:
        return x[:, unit.kv_columns]
    assert unit.kv_blocks is not None
    x = x.unflatten(1, (-1, plan.kv_block)).index_select(1, unit.kv_blocks)
    return x.reshape(-1, unit.width, *x.shape[3:])


def _add_columns(x: Tensor, columns: Tensor, plan: PartPlan, unit: Unit) -> None:
    """The reverse of `_columns`, added."""
    if unit.kv_columns is not None:
        x[:, unit.kv_columns].add_(columns)
        return
    assert unit.kv_blocks is not None
    blocks = x.unflatten(1, (-1, plan.kv_block))
    columns = columns.reshape(x.shape[0], -1, *blocks.shape[2:])
    if x.device.type == "cuda":
        # index_add_ adds in any order there; this sorts first
        rows = torch.arange(x.shape[0], device=x.device)[:, None]
        blocks.index_put_((rows, unit.kv_blocks[None]), columns, accumulate=True)
        return
    blocks.index_add_(1, unit.kv_blocks, columns)


def _forbid(x: Tensor, plan: PartPlan, unit: Unit, value: float) -> None:
    """Writes `value`, 0 or -inf, to every forbidden pair of `[X, G * R, W]`."""
    if not unit.pieces:
        return
    if unit.tiles == 1:
        x = x.unflatten(1, (-1, unit.rows))
    else:
        x = x.view(-1, unit.tiles, x.shape[1] // unit.rows, unit.rows, unit.width)
    for piece in unit.pieces:
        allowed, forbidden = plan.bits(piece, x.dtype)
        own = x[..., piece.first : piece.stop].view(allowed.dtype)
        own.bitwise_and_(allowed)
        if value:
            own.bitwise_or_(forbidden)


def _bend(
    scores: Tensor, heads: Heads, keys: Keys, plan: PartPlan, unit: Unit, slope_of_cap: Tensor | None
) -> Tensor | None:
    """Softcap and ALiBi in place. Writes the derivative of the cap where asked, and returns the distances."""
    extras = heads.extras
    if extras.softcap is not None:
        scores.div_(extras.softcap).tanh_()
        if slope_of_cap is not None:
            torch.square(scores, out=slope_of_cap)
            slope_of_cap.neg_().add_(1.0)
        scores.mul_(extras.softcap)
    if extras.slopes is None:
        return None
    assert extras.q_pos is not None and keys.kv_pos is not None
    q_pos = _rows(extras.q_pos, unit)
    kv_pos = _columns(keys.kv_pos, plan, unit)
    distance = (q_pos.unsqueeze(2) - kv_pos.unsqueeze(1)).abs_().to(scores.dtype)
    group = extras.slopes.shape[1]
    slopes = extras.slopes.repeat_interleave(unit.tiles, dim=0).repeat_interleave(unit.rows, dim=1)
    distance = distance.repeat(1, group, 1)
    scores.sub_(slopes.unsqueeze(-1) * distance)
    return distance


def _keep(heads: Heads, keys: Keys, plan: PartPlan, unit: Unit, like: Tensor) -> Tensor | None:
    """Bool `[X, G * R, W]`: pairs that dropout keeps; None without dropout."""
    extras = heads.extras
    if extras.dropout_p == 0:
        return None
    assert extras.row_hashes is not None and keys.index is not None
    rows = _rows(extras.row_hashes, unit)
    columns = _columns(keys.index, plan, unit).repeat(like.shape[0] // unit.tiles, 1)
    return keep_from_rows(rows.unsqueeze(-1), columns.unsqueeze(1), extras.dropout_p)
