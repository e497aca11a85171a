"""Who is served by which plane, and the tensors of the heads that are computed together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from openwork.layout.data import BlockLayout
from openwork.ops.backends.call import Call, positions
from openwork.ops.backends.gather_plan import PartPlan, Tuning, plan_plane
from openwork.ops.backends.gather_tiles import LOG2E, Extras, Keys
from openwork.ops.hash import dropout_rows

__all__ = ["Share", "add_from_order", "extras_of", "in_base_2", "keys_of", "query_of", "shares_of"]

_MANY_PAIRS = 1_000_000


@dataclass(frozen=True, eq=False)
class Share:
    """Heads that one plane serves and that are computed together: as many query heads for each key head.

    Attributes:
        plans: What runs, part by part.
        kv_rows: Rows of `[batch * kv_heads]`, M of them.
        q_rows: Rows of `[batch * q_heads]`, M * G of them.
        heads: M, the number of key heads.
        group: G, query heads for each.
        batch: int64 `[M]`, sequence of each key head.
        q_head: int64 `[M, G]`, query head within its sequence.
        unseen: bool `[kv_len]`, keys that nobody sees; None where there are none.
        empty: bool `[q_len]`, queries that see no key; None where there are none.
    """

    plans: tuple[PartPlan, ...]
    kv_rows: slice | Tensor
    q_rows: slice | Tensor
    heads: int
    group: int
    batch: Tensor
    q_head: Tensor
    unseen: Tensor | None
    empty: Tensor | None

    def take_q(self, x: Tensor) -> Tensor:
        """`[M, G, ...]` from `[batch, q_heads, ...]`: a view where the heads are contiguous."""
        heads: Tensor = x.flatten(0, 1)[self.q_rows].unflatten(0, (self.heads, self.group))
        return heads

    def put_q(self, x: Tensor, own: Tensor) -> None:
        """Writes `own` to its heads of `x`, where `take_q` gave a copy."""
        if isinstance(self.q_rows, Tensor):
            x.flatten(0, 1).index_copy_(0, self.q_rows, own.flatten(0, 1))

    def take_kv(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """`[M, kv_len, ...]` from `[batch, kv_heads, kv_len, ...]`, keys that nobody sees zeroed."""
        x = x.flatten(0, 1)[self.kv_rows].to(dtype)
        return x.contiguous() if self.unseen is None else x.masked_fill(self.unseen[:, None], 0.0).contiguous()


def shares_of(call: Call, tuning: Tuning) -> list[Share]:
    """The shares of a call, made once for its layout; they depend on shapes and on the device only."""
    layout, device = call.layout, call.query.device
    batch, q_heads, kv_heads = call.query.shape[0], call.query.shape[1], call.key.shape[1]
    key = ("gather", batch, q_heads, kv_heads, tuning, str(device))
    return layout.cached(key, lambda: list(_shares(layout, batch, q_heads, kv_heads, tuning, device)))


def _shares(
    layout: BlockLayout, batch: int, q_heads: int, kv_heads: int, tuning: Tuning, device: torch.device
) -> Iterator[Share]:
    index = np.broadcast_to(layout.index, (batch, q_heads)).reshape(-1)
    group = q_heads // kv_heads
    for number, plane in enumerate(layout.planes):
        q_rows = np.flatnonzero(index == number)
        if not plane.parts or not len(q_rows):
            continue
        plans = plan_plane(plane, len(q_rows), tuning, device)
        unseen, empty = ~plane.seen_keys(), plane.row_counts() == 0
        gone = torch.tensor(unseen, device=device) if unseen.any() else None
        blank = torch.tensor(empty, device=device) if empty.any() else None
        kv_rows, counts = np.unique(q_rows // group, return_counts=True)
        for count in np.unique(counts).tolist():
            same = kv_rows[counts == count]
            for own in np.split(same, range(step := _together(plans, len(same), count, tuning), len(same), step)):
                of_own = q_rows[np.isin(q_rows // group, own)]
                yield Share(
                    plans=plans,
                    kv_rows=_as_slice(own, device),
                    q_rows=_as_slice(of_own, device),
                    heads=len(own),
                    group=count,
                    batch=torch.tensor(own // kv_heads, device=device),
                    q_head=torch.tensor(of_own.reshape(-1, count) % q_heads, device=device),
                    unseen=gone,
                    empty=blank,
                )


def _together(plans: tuple[PartPlan, ...], heads: int, group: int, tuning: Tuning) -> int:
    """How many key heads are computed together: their scores should stay in cache, and there should be some jobs."""
    areas = [unit.tiles * unit.rows * unit.width for plan in plans for unit in plan.units]
    step = max(1, tuning.score_pairs // (group * max(areas, default=1)))
    if sum(areas) * group * heads > _MANY_PAIRS:
        step = min(step, -(-heads // tuning.jobs))
    return min(step, heads)


def _as_slice(rows: np.ndarray[tuple[int], np.dtype[np.int64]], device: torch.device) -> slice | Tensor:
    if len(rows) == rows[-1] - rows[0] + 1:
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return torch.tensor(rows, device=device)


def in_base_2(call: Call) -> bool:
    """Whether scores can be in base 2 from the start: nothing bends them."""
    return call.softcap is None and call.alibi_slopes is None


def query_of(call: Call, share: Share) -> Tensor:
    """`[M, G, q_len, D]`, scaled, into base 2 where possible; queries that see no key zeroed."""
    scale = call.scale * LOG2E if in_base_2(call) else call.scale
    query = share.take_q(call.query).to(call.compute_dtype) * scale
    if share.empty is not None:
        query.masked_fill_(share.empty[:, None], 0.0)
    return query.contiguous()


def extras_of(call: Call, share: Share) -> Extras:
    """Options for the heads of a share."""
    device, dtype = call.query.device, call.compute_dtype
    extras = Extras(softcap=call.softcap, dropout_p=call.dropout_p)
    if call.alibi_slopes is not None:
        batch = share.batch if call.alibi_slopes.shape[0] > 1 else torch.zeros_like(share.batch)
        extras.slopes = call.alibi_slopes.to(dtype)[batch[:, None], share.q_head]
        extras.q_pos = _of_heads(positions(call.layout, device)[0], share).unsqueeze(1)
    if call.dropout_p > 0:
        q_idx = torch.arange(call.layout.q_len, device=device)
        extras.row_hashes = dropout_rows(call.dropout_seed, share.batch[:, None, None], share.q_head[:, :, None], q_idx)
    return extras


def _of_heads(of_sequence: Tensor, share: Share) -> Tensor:
    """`[M, n]` from `[batch or 1, n]`."""
    if of_sequence.shape[0] == 1:
        return of_sequence.expand(share.heads, -1)
    return of_sequence.index_select(0, share.batch)


def keys_of(call: Call, share: Share, plan: PartPlan, key: Tensor, value: Tensor) -> Keys:
    """The keys of a share in the order of a part."""
    keys = Keys(_in_order(key, plan), _in_order(value, plan))
    if call.dropout_p > 0:
        keys.index = _in_order(torch.arange(call.layout.kv_len, device=key.device)[None], plan)
    if call.alibi_slopes is not None:
        keys.kv_pos = _in_order(_of_heads(positions(call.layout, key.device)[1], share), plan)
    return keys


def _in_order(x: Tensor, plan: PartPlan) -> Tensor:
    if plan.kv_index is not None:
        x = x.index_select(1, plan.kv_index)
        return x if plan.kv_pads is None else x.index_fill_(1, plan.kv_pads, 0)
    missing = plan.kv_length - x.shape[1]
    if missing <= 0:
        return x
    return torch.cat([x, x.new_zeros(x.shape[0], missing, *x.shape[2:])], dim=1)


def add_from_order(total: Tensor, own: Tensor, plan: PartPlan) -> None:
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
