"""What the `gather` backend runs for a layout: units of work, from the layout and the number of heads alone.

A *slab* is a run of query blocks against one contiguous range of keys, in the order of its part: the keys are a view
of memory, nothing is gathered. A *bundle* is several query blocks with equally many key blocks each, gathered into
one batched call: for key blocks that lie scattered, and for units too small to be worth a call of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from openwork.layout.data import Part, Plane

__all__ = ["PartPlan", "Piece", "Tuning", "Unit", "plan_plane"]

Int64Array = npt.NDArray[np.int64]
_FULL, _EMPTY, _FIRST_MASK = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Sizes that trade speed; the results differ in rounding only."""

    overhead_pairs: int = 20_000
    """What a call of its own costs, in pairs (summed over heads) that could be computed in that time."""
    heads: int = 2
    """Query heads for which that is weighed: as many as are computed together, roughly."""
    max_rows: int = 256
    """Queries of a slab, at most (a single query block may be longer)."""
    max_width: int = 2048
    """Keys of a unit, at most (a single key block may be wider); longer rows are merged by their lse."""
    score_pairs: int = 400_000
    """Scores that are computed together, at most, unless a single head has more: they should stay in a core's cache."""
    jobs: int = 4
    """Jobs that the heads of a plane are split into, at least, where there is much to do; for threads to share."""
    bundle_below: int = 8_000
    """Slabs with fewer pairs (summed over heads) than this are bundled."""
    bundle_all: bool = False
    """Whether everything is bundled: where a call costs more than gathering."""
    mask_bytes: int = 64 << 20
    """Expanded bitmasks that are kept between calls; beyond this they are expanded each time."""


@dataclass(frozen=True)
class Piece:
    """A range of a unit's columns in which some pairs are forbidden.

    Attributes:
        first: First column.
        stop: One past the last column.
        kinds: int64 `[tiles, row blocks, column blocks]`, rows of the mask table.
        rows: Rows of the unit, short last blocks cut.
        bits: What `PartPlan.bits` returns for float32, ready to use; None is made when needed.
    """

    first: int
    stop: int
    kinds: Tensor
    rows: int
    bits: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True)
class Unit:
    """Queries and keys that are multiplied in one batched call.

    Attributes:
        tiles: Query blocks side by side in the batch; 1 for a slab.
        rows: Queries of each tile.
        width: Keys of each tile.
        q_rows: The queries, where they are contiguous.
        q_index: int64 `[tiles * rows]` query indices otherwise; pads are 0.
        q_pads: int64, rows that are pads, or None.
        q_valid: int64, rows that are no pads, where there are pads.
        q_valid_index: int64, the queries of `q_valid`.
        kv_columns: The keys in the part's order, for a slab.
        kv_blocks: int64 `[tiles * blocks]` key blocks, for a bundle.
        pieces: Where pairs are forbidden.
        first: Whether no earlier unit holds one of these queries.
    """

    tiles: int
    rows: int
    width: int
    q_rows: slice | None
    q_index: Tensor | None
    q_pads: Tensor | None
    q_valid: Tensor | None
    q_valid_index: Tensor | None
    kv_columns: slice | None
    kv_blocks: Tensor | None
    pieces: tuple[Piece, ...]
    first: bool


@dataclass(frozen=True)
class PartPlan:
    """The units of a part, and how its keys are laid out.

    Attributes:
        units: In the order in which they run.
        kv_block: Keys of a block.
        kv_length: Rows of the keys in the part's order, pads at the end cut (or whole blocks, for bundles).
        kv_index: int64 `[n]` key indices in the part's order, pads are 0; None where the order is natural.
        kv_pads: int64, rows of `kv_index` that are pads, or None.
        kv_valid: int64, rows that are no pads, where there are pads.
        kv_valid_index: int64, the keys of `kv_valid`.
        masks: uint8 `[2 + n_masks, q_block, bytes]`, bitmasks after a full and an empty one.
    """

    units: tuple[Unit, ...]
    kv_block: int
    kv_length: int
    kv_index: Tensor | None
    kv_pads: Tensor | None
    kv_valid: Tensor | None
    kv_valid_index: Tensor | None
    masks: Tensor

    def bits(self, piece: Piece, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Integers as wide as `dtype`, `[tiles, 1, rows, columns]` (`[rows, columns]` for a slab).

        The first has all bits set where a pair is allowed and none elsewhere; the second has those of -inf where it
        is forbidden and none elsewhere.
        """
        if piece.bits is not None and dtype == torch.float32:
            return piece.bits
        integer = torch.int32 if dtype == torch.float32 else torch.int64
        allowed = self.allowed(piece)
        minus_infinity = torch.full((), -torch.inf, dtype=dtype, device=allowed.device).view(integer)
        return allowed.to(integer).neg_(), (~allowed).to(integer).mul_(minus_infinity)

    def allowed(self, piece: Piece) -> Tensor:
        """The pairs of a piece as booleans, in the shape of `bits`."""
        tiles, _q_blocks, kv_blocks = piece.kinds.shape
        bits = self.masks[piece.kinds]
        shifts = torch.arange(8, dtype=torch.uint8, device=bits.device)
        allowed = ((bits.unsqueeze(-1) >> shifts) & 1).bool().flatten(-2)[..., : self.kv_block]
        allowed = allowed.permute(0, 1, 3, 2, 4).reshape(tiles, -1, kv_blocks * self.kv_block)
        allowed = allowed[:, : piece.rows, : piece.stop - piece.first]
        return allowed.squeeze(0) if tiles == 1 else allowed.unsqueeze(1)


def plan_plane(plane: Plane, heads: int, tuning: Tuning, device: torch.device) -> tuple[PartPlan, ...]:
    """What runs for a plane that serves `heads` query heads, one plan for each part."""
    heads = min(heads, tuning.heads)
    seen = np.zeros(plane.q_len, dtype=bool)
    budget = [tuning.mask_bytes]
    return tuple(_Planner(part, heads, tuning, device, seen, budget).plan() for part in plane.parts)


@dataclass
class _Planner:
    part: Part
    heads: int
    tuning: Tuning
    device: torch.device
    seen: npt.NDArray[np.bool_]
    budget: list[int]
    made: dict[tuple[bytes, tuple[int, ...]], Piece] = field(default_factory=dict)

    def plan(self) -> PartPlan:
        part = self.part
        self.kv_valid_length = int(np.flatnonzero(part.kv_order >= 0).max(initial=-1)) + 1
        full = np.full((1, part.q_block, part.masks.shape[-1]), 255, dtype=np.uint8)
        table = np.concatenate([full, np.zeros_like(full), part.masks])
        self.table = self.tensor(table)
        slabs, scattered = self.split()
        units = [unit for rows, keys in slabs for unit in self.slab_units(rows, keys)]
        units += self.bundles(scattered)
        whole_blocks = any(unit.kv_blocks is not None for unit in units)
        length = part.kv_blocks * part.kv_block if whole_blocks else self.kv_valid_length
        order = part.kv_order[:length].astype(np.int64)
        index = pads = valid = valid_index = None
        if not part.kv_natural:
            index = self.tensor(np.maximum(order, 0))
            pads, valid, valid_index = self.pads(order)
        return PartPlan(tuple(units), part.kv_block, length, index, pads, valid, valid_index, self.table)

    def tensor(self, array: npt.NDArray[np.generic]) -> Tensor:
        return torch.tensor(array, device=self.device)

    def pads(self, order: Int64Array) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        if (order >= 0).all():
            return None, None, None
        valid = np.flatnonzero(order >= 0)
        return self.tensor(np.flatnonzero(order < 0)), self.tensor(valid), self.tensor(order[valid])

    def split(self) -> tuple[list[tuple[range, range]], list[int]]:
        """Slabs as ranges of query and key blocks, and the query blocks that are bundled."""
        part, tuning = self.part, self.tuning
        first, stop, touched = _extents(part)
        area = part.q_block * part.kv_block
        spare = tuning.overhead_pairs / (max(1, self.heads) * area)
        slabs: list[tuple[range, range]] = []
        scattered: list[int] = []
        current: tuple[range, range] | None = None
        for i in range(part.q_blocks):
            low, high = int(first[i]), int(stop[i])
            if not touched[i]:
                continue
            if tuning.bundle_all or high - low > 1.25 * touched[i] + spare:
                scattered.append(i)
                continue
            if current is not None and current[0].stop == i:
                rows, keys = current
                joined = range(rows.start, i + 1), range(min(keys.start, low), max(keys.stop, high))
                apart = len(rows) * len(keys) + (high - low) + spare
                if len(joined[0]) * part.q_block <= tuning.max_rows and len(joined[0]) * len(joined[1]) <= apart:
                    current = joined
                    continue
            if current is not None:
                slabs.append(current)
            current = range(i, i + 1), range(low, high)
        if current is not None:
            slabs.append(current)
        small = [slab for slab in slabs if len(slab[0]) * len(slab[1]) * area * self.heads < tuning.bundle_below]
        if len(small) > 3:
            slabs = [slab for slab in slabs if slab not in small]
            scattered = sorted([*scattered, *(i for rows, _ in small for i in rows)])
        return slabs, scattered

    def kinds(self, rows: range, keys: range) -> Int64Array:
        """int64 `[len(rows), len(keys)]`: full, empty, or the bitmask of each block."""
        part = self.part
        kinds = np.full((len(rows), len(keys)), _EMPTY, dtype=np.int64)
        for line, i in zip(kinds, rows, strict=True):
            for first, stop in part.full_runs[part.full_offsets[i] : part.full_offsets[i + 1]].tolist():
                line[max(0, first - keys.start) : max(0, stop - keys.start)] = _FULL
            entries = slice(part.partial_offsets[i], part.partial_offsets[i + 1])
            columns = part.partial_kv_block[entries].astype(np.int64) - keys.start
            inside = (columns >= 0) & (columns < len(keys))
            line[columns[inside]] = part.partial_mask[entries][inside] + _FIRST_MASK
        return kinds

    def slab_units(self, rows: range, keys: range) -> Iterator[Unit]:
        part = self.part
        order = part.q_order[rows.start * part.q_block : rows.stop * part.q_block].astype(np.int64)
        order = order[: int(np.flatnonzero(order >= 0).max()) + 1]
        step = max(1, self.tuning.max_width // part.kv_block)
        for start in range(keys.start, keys.stop, step):
            chunk = range(start, min(start + step, keys.stop))
            kinds = self.kinds(rows, chunk)
            if (kinds == _EMPTY).all():
                continue
            columns = slice(chunk.start * part.kv_block, min(chunk.stop * part.kv_block, self.kv_valid_length))
            yield self.unit(order, 1, kinds[None], columns, None)

    def bundles(self, scattered: list[int]) -> list[Unit]:
        """Bundles of the query blocks, those with equally many key blocks together."""
        part, tuning = self.part, self.tuning
        widest = max(1, tuning.max_width // part.kv_block)
        chunks: dict[tuple[int, int], list[tuple[int, Int64Array, Int64Array]]] = {}
        for i in scattered:
            kv_blocks, kinds = self.block_list(i)
            for turn, start in enumerate(range(0, len(kv_blocks), widest)):
                one = slice(start, start + widest)
                width = _rounded(len(kv_blocks[one]))
                chunks.setdefault((turn, min(width, widest)), []).append((i, kv_blocks[one], kinds[one]))
        units = []
        # a turn holds a query block once at most, so that its rows are merged one unit after the other
        for (_, width), members in sorted(chunks.items(), key=lambda item: item[0]):
            pairs = width * part.kv_block * part.q_block * max(1, self.heads)
            count = max(1, tuning.score_pairs // pairs)
            for start in range(0, len(members), count):
                units.append(self.bundle(members[start : start + count], width))
        return units

    def bundle(self, members: list[tuple[int, Int64Array, Int64Array]], width: int) -> Unit:
        part = self.part
        kv_blocks = np.zeros((len(members), width), dtype=np.int64)
        kinds = np.full((len(members), 1, width), _EMPTY, dtype=np.int64)
        for n, (_, blocks, own) in enumerate(members):
            kv_blocks[n, : len(blocks)] = blocks
            kinds[n, 0, : len(own)] = own
        order = np.concatenate([part.q_order[i * part.q_block : (i + 1) * part.q_block] for i, _, _ in members])
        return self.unit(order.astype(np.int64), len(members), kinds, None, kv_blocks)

    def block_list(self, i: int) -> tuple[Int64Array, Int64Array]:
        """Key blocks of query block `i` and their kinds."""
        part = self.part
        runs = part.full_runs[part.full_offsets[i] : part.full_offsets[i + 1]].tolist()
        full = [np.arange(first, stop, dtype=np.int64) for first, stop in runs]
        entries = slice(part.partial_offsets[i], part.partial_offsets[i + 1])
        partial = part.partial_kv_block[entries].astype(np.int64)
        blocks = np.concatenate([*full, partial])
        kinds = np.full(len(blocks), _FULL, dtype=np.int64)
        kinds[len(blocks) - len(partial) :] = part.partial_mask[entries].astype(np.int64) + _FIRST_MASK
        ascending = np.argsort(blocks, kind="stable")
        return blocks[ascending], kinds[ascending]

    def unit(
        self, order: Int64Array, tiles: int, kinds: Int64Array, columns: slice | None, kv_blocks: Int64Array | None
    ) -> Unit:
        rows = len(order) // tiles
        valid = order[order >= 0]
        first = not self.seen[valid].any()
        self.seen[valid] = True
        contiguous = len(valid) == len(order) and tiles == 1 and (np.diff(order) == 1).all()
        q_rows = slice(int(order[0]), int(order[0]) + rows) if contiguous else None
        index = pads = kept = kept_index = None
        if q_rows is None:
            index = self.tensor(np.maximum(order, 0))
            pads, kept, kept_index = self.pads(order)
        width = columns.stop - columns.start if columns is not None else kinds.shape[2] * self.part.kv_block
        pieces = tuple(self.pieces(kinds, rows, width))
        blocks = None if kv_blocks is None else self.tensor(kv_blocks.reshape(-1))
        return Unit(tiles, rows, width, q_rows, index, pads, kept, kept_index, columns, blocks, pieces, first)

    def pieces(self, kinds: Int64Array, rows: int, width: int) -> Iterator[Piece]:
        """The ranges of key blocks that are not full throughout."""
        kv_block = self.part.kv_block
        masked = np.concatenate([[False], (kinds != _FULL).any(axis=(0, 1)), [False]])
        edges = np.flatnonzero(masked[1:] != masked[:-1]).reshape(-1, 2)
        for start, stop in edges.tolist():
            own = np.ascontiguousarray(kinds[:, :, start:stop])
            first, last = start * kv_block, min(stop * kv_block, width)
            key = (own.tobytes(), (*own.shape, rows, last - first))
            if key not in self.made:
                self.made[key] = self.expanded(Piece(first, last, self.tensor(own), rows))
            known = self.made[key]
            yield Piece(first, last, known.kinds, rows, known.bits)

    def expanded(self, piece: Piece) -> Piece:
        size = 8 * piece.kinds.shape[0] * piece.rows * (piece.stop - piece.first)
        if size > self.budget[0]:
            return piece
        self.budget[0] -= size
        part = self.part
        bare = PartPlan((), part.kv_block, 0, None, None, None, None, self.table)
        bits = bare.bits(piece, torch.float32)
        return Piece(piece.first, piece.stop, piece.kinds, piece.rows, (bits[0].contiguous(), bits[1].contiguous()))


def _extents(part: Part) -> tuple[Int64Array, Int64Array, Int64Array]:
    """For each query block: its first key block, one past the last, and how many it touches."""
    blocks = np.arange(part.q_blocks)
    of_runs = np.repeat(blocks, np.diff(part.full_offsets))
    of_entries = np.repeat(blocks, np.diff(part.partial_offsets))
    first = np.full(part.q_blocks, part.kv_blocks, dtype=np.int64)
    stop = np.zeros(part.q_blocks, dtype=np.int64)
    touched = np.zeros(part.q_blocks, dtype=np.int64)
    np.minimum.at(first, of_runs, part.full_runs[:, 0].astype(np.int64))
    np.minimum.at(first, of_entries, part.partial_kv_block.astype(np.int64))
    np.maximum.at(stop, of_runs, part.full_runs[:, 1].astype(np.int64))
    np.maximum.at(stop, of_entries, part.partial_kv_block.astype(np.int64) + 1)
    np.add.at(touched, of_runs, (part.full_runs[:, 1] - part.full_runs[:, 0]).astype(np.int64))
    np.add.at(touched, of_entries, 1)
    return first, stop, touched


def _rounded(count: int) -> int:
    """Up to a multiple of an eighth of the next power of two, so that there are few widths."""
    step = max(1, (1 << (count - 1).bit_length()) // 8)
    return -(-count // step) * step
