"""What a call would run, and what it would cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from openwork.layout.data import BlockLayout, Part
from openwork.ops.backends.call import Call
from openwork.ops.registry import auto_refusals, choose, refusals
from openwork.ops.validation import make_call
from openwork.patterns.annotations import IntArray

__all__ = ["Explanation", "PartCost", "explain"]


@dataclass(frozen=True)
class PartCost:
    """One part of a layout, counted for all sequences and heads that it serves.

    Attributes:
        name: What it holds, in which order.
        allowed_pairs: Pairs that are allowed.
        executed_pairs: Pairs in its blocks, whole blocks counted.
        served: Sequences times query heads.
    """

    name: str
    allowed_pairs: int
    executed_pairs: int
    served: int


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Which backend runs a call, why the others do not, and what the call costs. `print` it.

    FLOPs are those of the forward pass, `2 * pairs * (head_dim + v_head_dim)`; the backward pass takes 2.5 times that.

    Attributes:
        backend: The backend that runs.
        reasons: For every other backend, why it does not.
        useful_flops: Of allowed pairs.
        executed_flops: Of the layout's blocks, whole blocks counted (every pair for `reference`).
        dense_flops: Of the dense call: all pairs, or the causal ones where no query sees a later key.
        ideal: `dense_flops / useful_flops`, the speed-up that the density allows.
        block_ideal: `dense_flops / executed_flops`.
        density: Allowed pairs over all pairs.
        tensor_bytes: Of query, key, value, output and lse, once each.
        layout_bytes: Of the layout.
        parts: Part by part.
    """

    backend: str
    reasons: dict[str, list[str]]
    useful_flops: int
    executed_flops: int
    dense_flops: int
    ideal: float
    block_ideal: float
    density: float
    tensor_bytes: int
    layout_bytes: int
    parts: tuple[PartCost, ...]

    def __str__(self) -> str:
        lines = [f"backend: {self.backend}"]
        lines += [f"  not {name}: {'; '.join(reasons)}" for name, reasons in self.reasons.items()]
        lines += [
            f"forward: {_giga(self.useful_flops)} useful, {_giga(self.executed_flops)} executed, "
            f"{_giga(self.dense_flops)} dense (GFLOP)",
            f"ideal speed-up {self.ideal:.2f}x, block ideal {self.block_ideal:.2f}x, density {self.density:.4f}",
            f"memory: {self.tensor_bytes / 2**20:.1f} MiB of tensors, {self.layout_bytes / 2**20:.2f} MiB of layout",
        ]
        lines += [
            f"part: {part.name}: {part.allowed_pairs} allowed pairs in {part.executed_pairs} executed, "
            f"for {part.served} heads"
            for part in self.parts
        ]
        return "\n".join(lines)


def explain(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: BlockLayout | Tensor,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    sink_logits: Tensor | None = None,
    alibi_slopes: Tensor | None = None,
    dropout_p: float = 0.0,
    dropout_seed: int | None = None,
    backend: str = "auto",
) -> Explanation:
    """Says which backend `sparse_attention` would run for the same arguments, why the others do not, and the cost.

    Nothing is computed. `backend="auto"` may pass over a backend that could run, for a faster one: the reason then
    says so.

    Args:
        query: As in `sparse_attention`.
        key: As in `sparse_attention`.
        value: As in `sparse_attention`.
        layout: As in `sparse_attention`.
        scale: As in `sparse_attention`.
        softcap: As in `sparse_attention`.
        sink_logits: As in `sparse_attention`.
        alibi_slopes: As in `sparse_attention`.
        dropout_p: As in `sparse_attention`.
        dropout_seed: As in `sparse_attention`.
        backend: As in `sparse_attention`.

    Raises:
        ArgumentError: As `sparse_attention` does.
        LayoutError: As `sparse_attention` does.
        BackendError: As `sparse_attention` does.

    Examples:
        >>> import torch, openwork as ow
        >>> layout = ow.compile_layout(ow.Causal() & ow.Window(before=15), q_len=256, kv_len=256)
        >>> x = torch.zeros(1, 8, 256, 64)
        >>> print(explain(x, x, x, layout, backend="gather"))
        backend: gather
          not sdpa: the layout is neither dense nor causal from query 0 and key 0
          not cpu: ...
          not reference: gather was named
        forward: 0.008 useful, 0.059 executed, 0.067 dense (GFLOP)
        ideal speed-up 8.27x, block ideal 1.15x, density 0.0607
        memory: 2.0 MiB of tensors, 0.00 MiB of layout
        part: natural order: 31808 allowed pairs in 229376 executed, for 8 heads
    """
    # a seed is not drawn for a call that is not made
    call = make_call(
        query, key, value, layout, scale=scale, softcap=softcap, sink_logits=sink_logits, alibi_slopes=alibi_slopes,
        dropout_p=dropout_p, dropout_seed=0 if dropout_seed is None else dropout_seed,
    )  # fmt: skip
    chosen = choose(call, backend).name
    found = auto_refusals(call) if backend == "auto" else refusals(call)
    reasons = {name: why for name, why in found.items() if name != chosen}
    for why in reasons.values():
        if not why:
            why.append(f"slower than {chosen}, which comes first" if backend == "auto" else f"{chosen} was named")
    per_pair = 2 * (query.shape[-1] + value.shape[-1])
    allowed, executed, dense = _pairs(call, chosen)
    lse_bytes = query.shape[:3].numel() * call.compute_dtype.itemsize
    output_bytes = query.shape[:3].numel() * value.shape[-1] * query.element_size()
    return Explanation(
        backend=chosen,
        reasons=reasons,
        useful_flops=per_pair * allowed,
        executed_flops=per_pair * executed,
        dense_flops=per_pair * dense,
        ideal=dense / max(1, allowed),
        block_ideal=dense / max(1, executed),
        density=call.layout.density,
        tensor_bytes=sum(x.nbytes for x in (query, key, value)) + output_bytes + lse_bytes,
        layout_bytes=call.layout.nbytes,
        parts=tuple(_parts(call)),
    )


def _served(call: Call) -> list[int]:
    """Sequences times query heads that each plane serves."""
    index = np.broadcast_to(call.layout.index, tuple(call.query.shape[:2]))
    counts: list[int] = np.bincount(index.reshape(-1), minlength=len(call.layout.planes)).tolist()
    return counts


def _pairs(call: Call, backend: str) -> tuple[int, int, int]:
    """Allowed, executed and dense pairs, for all sequences and heads."""
    layout = call.layout
    planes = list(zip(layout.planes, _served(call), strict=True))
    allowed = sum(plane.allowed_pairs * served for plane, served in planes)
    possible = sum(plane.possible_pairs * served for plane, served in planes)
    executed = sum(plane.executed_pairs * served for plane, served in planes)
    heads = call.query.shape[:2].numel()
    if backend == "reference":
        executed = layout.q_len * layout.kv_len * heads
    dense = possible
    if looks_back_only(layout):
        dense = _causal_pairs(layout) * heads // max(1, _position_rows(layout))
    return allowed, executed, dense


def looks_back_only(layout: BlockLayout) -> bool:
    """Whether no query may see a later key, by position, decided from the pairs."""
    return layout.cached("looks back only", lambda: _looks_back_only(layout))


def _looks_back_only(layout: BlockLayout) -> bool:
    q_rows, kv_rows = _layout_positions(layout)
    for number, plane in enumerate(layout.planes):
        users = np.flatnonzero((layout.index == number).any(axis=1))
        rows = users if layout.batch > 1 else range(_position_rows(layout))
        # sequences that share positions ask once
        for q_row, kv_row in {(b % len(q_rows), b % len(kv_rows)) for b in rows}:
            if not all(_part_looks_back(part, q_rows[q_row], kv_rows[kv_row]) for part in plane.parts):
                return False
    return True


def _part_looks_back(part: Part, q_positions: IntArray, kv_positions: IntArray) -> bool:
    q_order = part.q_order.reshape(-1, part.q_block)
    kv_order = part.kv_order.reshape(-1, part.kv_block)
    q_pos = np.where(q_order >= 0, q_positions[q_order], np.iinfo(np.int64).max)
    kv_pos = np.where(kv_order >= 0, kv_positions[kv_order], -1)
    earliest, latest = q_pos.min(axis=1), kv_pos.max(axis=1)
    for i in range(part.q_blocks):
        runs = part.full_runs[part.full_offsets[i] : part.full_offsets[i + 1]]
        if any(latest[first:stop].max() > earliest[i] for first, stop in runs):
            return False
        entries = slice(part.partial_offsets[i], part.partial_offsets[i + 1])
        late = np.flatnonzero(latest[part.partial_kv_block[entries]] > earliest[i])
        for kv_block, mask in zip(part.partial_kv_block[entries][late], part.partial_mask[entries][late], strict=True):
            allowed = np.unpackbits(part.masks[mask], axis=-1, count=part.kv_block, bitorder="little") > 0
            if (allowed & (kv_pos[kv_block] > q_pos[i][:, None])).any():
                return False
    return True


def _layout_positions(layout: BlockLayout) -> tuple[IntArray, IntArray]:
    """Query and key positions, int64 `[batch or 1, q_len]` and `[batch or 1, kv_len]`; -1 is padding."""
    q_rows, kv_rows = layout.q_positions, layout.kv_positions
    if q_rows is None:
        q_rows = np.arange(layout.q_start, layout.q_start + layout.q_len)[None]
    return q_rows, np.arange(layout.kv_len)[None] if kv_rows is None else kv_rows


def _position_rows(layout: BlockLayout) -> int:
    return max(len(rows) for rows in _layout_positions(layout))


def _causal_pairs(layout: BlockLayout) -> int:
    """Pairs of a query and a key that is no later, padding left out, summed over the sequences whose positions differ.

    >>> from openwork.layout.compile import compile_layout
    >>> from openwork.patterns import Causal
    >>> _causal_pairs(compile_layout(Causal(), q_len=3, kv_len=3, kv_positions=[[-1, 0, 1], [0, 1, 2]]))
    9
    """
    q_rows, kv_rows = _layout_positions(layout)
    pairs = 0
    for row in range(_position_rows(layout)):
        q_pos, kv_pos = q_rows[row % len(q_rows)], kv_rows[row % len(kv_rows)]
        pairs += int(np.searchsorted(np.sort(kv_pos[kv_pos >= 0]), q_pos[q_pos >= 0], side="right").sum())
    return pairs


def _parts(call: Call) -> list[PartCost]:
    costs = []
    for plane, served in zip(call.layout.planes, _served(call), strict=True):
        names = plane.names if len(plane.names) == len(plane.parts) else ("",) * len(plane.parts)
        for part, name in zip(plane.parts, names, strict=True):
            costs.append(PartCost(name, part.allowed_pairs * served, part.executed_pairs * served, served))
    return costs


def _giga(flops: int) -> str:
    return f"{flops / 1e9:.3f}"
