"""`BlockLayout`: which blocks of query-key pairs a kernel runs. Plain arrays, documented; what kernels read."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from openwork.patterns.annotations import BoolArray, IntArray
    from openwork.patterns.base import Pattern

__all__ = ["BlockLayout", "Int32Array", "MaskArray", "Part", "Plane", "unpack_masks"]

Int32Array = npt.NDArray[np.int32]
MaskArray = npt.NDArray[np.uint8]
T = TypeVar("T")


def unpack_masks(masks: MaskArray, kv_block: int) -> BoolArray:
    """Bitmasks as bool `[n_masks, q_block, kv_block]`, True = attend."""
    return np.unpackbits(masks, axis=-1, count=kv_block, bitorder="little").astype(bool)


@dataclass(frozen=True, eq=False)
class Part:
    """A piece of a plane, with its own query and key order. The parts of a plane split the allowed pairs.

    Query block `i` holds the queries `q_order[i * q_block : (i + 1) * q_block]`, key block `j` likewise. An index
    occurs at most once in an order; -1 is a pad.

    Attributes:
        q_block: Queries in a block.
        kv_block: Keys in a block.
        q_order: int32 `[q_blocks * q_block]`, query indices.
        kv_order: int32 `[kv_blocks * kv_block]`, key indices.
        full_offsets: int32 `[q_blocks + 1]`; the full runs of query block `i` are
            `full_runs[full_offsets[i]:full_offsets[i + 1]]`.
        full_runs: int32 `[n, 2]`, ranges `[first, stop)` of key blocks, ascending, disjoint and not touching. In a
            full block every pair whose query is not a pad is allowed, and no key is a pad: it runs untested.
        partial_offsets: int32 `[q_blocks + 1]`, in the same way, for the entries below.
        partial_kv_block: int32 `[m]`, key block of each entry, ascending within a query block.
        partial_mask: int32 `[m]`, row of `masks` for each entry.
        masks: uint8 `[n_masks, q_block, ceil(kv_block / 8)]`; bit `k % 8` of byte `k // 8` says whether the query
            attends to key `k` of the block. Pads have 0. No mask is all ones or all zeros, no two are equal.
    """

    q_block: int
    kv_block: int
    q_order: Int32Array
    kv_order: Int32Array
    full_offsets: Int32Array
    full_runs: Int32Array
    partial_offsets: Int32Array
    partial_kv_block: Int32Array
    partial_mask: Int32Array
    masks: MaskArray

    @property
    def q_blocks(self) -> int:
        """Number of query blocks."""
        return len(self.full_offsets) - 1

    @property
    def kv_blocks(self) -> int:
        """Number of key blocks."""
        return len(self.kv_order) // self.kv_block

    @cached_property
    def q_natural(self) -> bool:
        """Whether the queries stand in natural order: 0, 1, 2, ..., pads only at the end."""
        return _is_natural(self.q_order)

    @cached_property
    def kv_natural(self) -> bool:
        """Whether the keys stand in natural order: 0, 1, 2, ..., pads only at the end."""
        return _is_natural(self.kv_order)

    @cached_property
    def num_full(self) -> int:
        """Full blocks."""
        return int((self.full_runs[:, 1].astype(np.int64) - self.full_runs[:, 0]).sum())

    @property
    def num_partial(self) -> int:
        """Partial blocks."""
        return len(self.partial_kv_block)

    @property
    def executed_pairs(self) -> int:
        """Pairs in all blocks that run, whole blocks counted."""
        return (self.num_full + self.num_partial) * self.q_block * self.kv_block

    @cached_property
    def allowed_pairs(self) -> int:
        """Pairs that are allowed."""
        return int(self.row_counts.sum())

    @cached_property
    def row_counts(self) -> IntArray:
        """int64 `[q_blocks * q_block]`: allowed keys of each query, in the part's order."""
        rows = np.zeros((self.q_blocks, self.q_block), dtype=np.int64)
        lengths = (self.full_runs[:, 1].astype(np.int64) - self.full_runs[:, 0]) * self.kv_block
        np.add.at(rows, np.repeat(np.arange(self.q_blocks), np.diff(self.full_offsets)), lengths[:, None])
        rows[self.q_order.reshape(rows.shape) < 0] = 0
        if self.num_partial:
            bits = np.bitwise_count(self.masks).sum(axis=-1, dtype=np.int64)
            entry_block = np.repeat(np.arange(self.q_blocks), np.diff(self.partial_offsets))
            first = np.flatnonzero(np.diff(entry_block, prepend=-1))
            rows[entry_block[first]] += np.add.reduceat(bits[self.partial_mask], first, axis=0)
        return rows.reshape(-1)

    @cached_property
    def key_seen(self) -> BoolArray:
        """Bool `[kv_blocks * kv_block]`: keys that some query sees, in the part's order."""
        change = np.zeros(self.kv_blocks + 1, dtype=np.int64)
        np.add.at(change, self.full_runs[:, 0], 1)
        np.add.at(change, self.full_runs[:, 1], -1)
        seen = np.repeat((np.cumsum(change)[:-1] > 0)[:, None], self.kv_block, axis=1)
        if self.num_partial:
            columns = np.unpackbits(
                np.bitwise_or.reduce(self.masks, axis=1), axis=-1, count=self.kv_block, bitorder="little"
            ).astype(bool)
            used = np.unique(np.stack([self.partial_kv_block, self.partial_mask], axis=1), axis=0)
            np.logical_or.at(seen, used[:, 0], columns[used[:, 1]])
        return seen.reshape(-1)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(value.nbytes for value in _arrays(self))

    def add_to_dense(self, dense: BoolArray) -> None:
        """Sets every allowed pair in bool `[q_len, kv_len]`."""
        q_order = self.q_order.reshape(-1, self.q_block)
        kv_order = self.kv_order.reshape(-1, self.kv_block)
        masks = unpack_masks(self.masks, self.kv_block)
        for i in range(self.q_blocks):
            rows = q_order[i] >= 0
            for first, stop in self.full_runs[self.full_offsets[i] : self.full_offsets[i + 1]]:
                dense[np.ix_(q_order[i][rows], kv_order[first:stop].reshape(-1))] = True
            for entry in range(self.partial_offsets[i], self.partial_offsets[i + 1]):
                keys = kv_order[self.partial_kv_block[entry]]
                columns = keys >= 0
                dense[np.ix_(q_order[i][rows], keys[columns])] |= masks[self.partial_mask[entry]][rows][:, columns]


@dataclass(frozen=True, eq=False)
class Plane:
    """The parts of one kind of sequence and head; every allowed pair is in exactly one of them.

    Attributes:
        parts: The parts; none where no pair is allowed.
        q_len: Number of queries.
        kv_len: Number of keys.
        possible_pairs: Pairs of a valid query and a valid key.
        names: For each part, in words, what it holds and in which order.
        plain_pairs: Pairs that plain blocks in natural order would run, as far as it was counted.
    """

    parts: tuple[Part, ...]
    q_len: int
    kv_len: int
    possible_pairs: int
    names: tuple[str, ...] = ()
    plain_pairs: int | None = None

    @cached_property
    def allowed_pairs(self) -> int:
        """Pairs that are allowed."""
        return sum(part.allowed_pairs for part in self.parts)

    @property
    def executed_pairs(self) -> int:
        """Pairs in all blocks that run, whole blocks counted."""
        return sum(part.executed_pairs for part in self.parts)

    @cached_property
    def _row_counts(self) -> IntArray:
        counts = np.zeros(self.q_len, dtype=np.int64)
        for part in self.parts:
            valid = part.q_order >= 0
            counts[part.q_order[valid]] += part.row_counts[valid]
        counts.setflags(write=False)
        return counts

    def row_counts(self) -> IntArray:
        """int64 `[q_len]`: allowed keys of each query; 0 is an empty row."""
        return self._row_counts

    @cached_property
    def _seen_keys(self) -> BoolArray:
        seen = np.zeros(self.kv_len, dtype=bool)
        for part in self.parts:
            seen[part.kv_order[part.key_seen]] = True
        seen.setflags(write=False)
        return seen

    def seen_keys(self) -> BoolArray:
        """Bool `[kv_len]`: keys that some query may see."""
        return self._seen_keys

    def to_dense(self) -> BoolArray:
        """Bool `[q_len, kv_len]`."""
        dense = np.zeros((self.q_len, self.kv_len), dtype=bool)
        for part in self.parts:
            part.add_to_dense(dense)
        return dense


@dataclass(frozen=True, eq=False)
class BlockLayout:
    """Which blocks a kernel runs, for given lengths: made by `compile_layout`, `from_mask` or `from_blocks`.

    Attributes:
        q_len: Number of queries.
        kv_len: Number of keys.
        planes: One for each kind of sequence and head.
        index: int32 `[batch or 1, q_heads or 1]`: the plane of each sequence and query head; 1 is shared.
        q_block: Queries in a block.
        kv_block: Keys in a block.
        q_positions: int64 `[batch or 1, q_len]` where positions are not the default, else None.
        kv_positions: int64 `[batch or 1, kv_len]` where positions are not the default, else None.
        q_start: Position of query 0 where positions are the default.
        pattern: The pattern that it was compiled from, where there is one.
    """

    q_len: int
    kv_len: int
    planes: tuple[Plane, ...]
    index: Int32Array
    q_block: int
    kv_block: int
    q_positions: IntArray | None = None
    kv_positions: IntArray | None = None
    q_start: int = 0
    pattern: Pattern | None = None
    _cache: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    @property
    def batch(self) -> int:
        """Sequences that the layout tells apart; 1 is shared by all."""
        return int(self.index.shape[0])

    @property
    def heads(self) -> int:
        """Query heads that the layout tells apart; 1 is shared by all."""
        return int(self.index.shape[1])

    @property
    def block_size(self) -> tuple[int, int]:
        """`(q_block, kv_block)`."""
        return self.q_block, self.kv_block

    def _sum(self, pairs: Callable[[Plane], int]) -> int:
        counts = np.bincount(self.index.reshape(-1), minlength=len(self.planes))
        return sum(int(count) * pairs(plane) for count, plane in zip(counts, self.planes, strict=True))

    @property
    def allowed_pairs(self) -> int:
        """Allowed pairs, summed over the sequences and heads of `index`."""
        return self._sum(lambda plane: plane.allowed_pairs)

    @property
    def executed_pairs(self) -> int:
        """Pairs in all blocks that run, summed over the sequences and heads of `index`."""
        return self._sum(lambda plane: plane.executed_pairs)

    @property
    def possible_pairs(self) -> int:
        """All pairs, padding counted in neither, summed over the sequences and heads of `index`."""
        return self._sum(lambda plane: plane.possible_pairs)

    @property
    def density(self) -> float:
        """Allowed pairs over all pairs, a fraction; padding counts in neither."""
        return self.allowed_pairs / max(1, self.possible_pairs)

    @property
    def block_density(self) -> float:
        """Executed pairs (whole blocks) over all pairs; above 1 where blocks stick out of short sequences."""
        return self.executed_pairs / max(1, self.possible_pairs)

    @property
    def executed_over_useful(self) -> float:
        """Executed pairs over allowed pairs; 1.0 is perfect."""
        return self.executed_pairs / max(1, self.allowed_pairs)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays; arrays that parts share count once."""
        arrays = {id(value): value.nbytes for plane in self.planes for part in plane.parts for value in _arrays(part)}
        return sum(arrays.values()) + self.index.nbytes

    def plane(self, batch: int = 0, head: int = 0) -> Plane:
        """The plane of sequence `batch` and query head `head`."""
        row = 0 if self.batch == 1 else batch
        column = 0 if self.heads == 1 else head
        return self.planes[int(self.index[row, column])]

    def to_dense(self) -> BoolArray:
        """Bool `[batch or 1, q_heads or 1, q_len, kv_len]`, True = attend. For tests and small lengths."""
        dense = np.stack([plane.to_dense() for plane in self.planes])
        result: BoolArray = dense[self.index]
        return result

    def cached(self, key: Hashable, make: Callable[[], T]) -> T:
        """`make()`, made once for each `key`; backends keep what they derive from the layout here."""
        if key not in self._cache:
            self._cache[key] = make()
        value: T = self._cache[key]
        return value

    def reblock(self, block_size: tuple[int, int]) -> BlockLayout:
        """The same pairs in blocks of another size, `(q_block, kv_block)`; exact and cached."""
        from openwork.layout.reblock import reblock

        block_size = (int(block_size[0]), int(block_size[1]))
        if block_size == self.block_size:
            return self
        return self.cached(("reblock", block_size), lambda: reblock(self, block_size))

    @classmethod
    def from_mask(cls, mask: Any, *, block_size: tuple[int, int] | None = None) -> BlockLayout:
        """The layout of a boolean tensor, True = attend.

        Args:
            mask: bool `[q_len, kv_len]`, `[q_heads, q_len, kv_len]` or `[batch, q_heads, q_len, kv_len]`, NumPy or
                torch. A size of 1 is shared.
            block_size: `(q_block, kv_block)`; `None` is 64x64.

        Raises:
            LayoutError: The tensor is not boolean or has another number of dimensions.
        """
        from openwork.layout.from_mask import layout_from_mask

        return layout_from_mask(mask, block_size)

    @classmethod
    def from_blocks(
        cls, blocks: Any, *, q_len: int, kv_len: int, block_size: tuple[int, int] | None = None
    ) -> BlockLayout:
        """The layout of a kernel's own block table: every pair of a listed block is allowed.

        Args:
            blocks: bool `[q_blocks, kv_blocks]`, `[q_heads, q_blocks, kv_blocks]` or `[batch, q_heads, q_blocks,
                kv_blocks]`; or a pair `(kv_num_blocks, kv_indices)` as FlexAttention's `BlockMask` holds them, int
                `[..., q_blocks]` and `[..., q_blocks, n]`.
            q_len: Number of queries; the last block may be short.
            kv_len: Number of keys; the last block may be short.
            block_size: `(q_block, kv_block)`; `None` is 64x64.

        Raises:
            LayoutError: The table does not have the blocks that the lengths need.
        """
        from openwork.layout.from_mask import layout_from_blocks

        return layout_from_blocks(blocks, q_len, kv_len, block_size)

    def with_positions(self, q_positions: Any, kv_positions: Any) -> BlockLayout:
        """The same pairs, with positions for what depends on distances (ALiBi).

        Args:
            q_positions: int `[q_len]` or `[batch, q_len]`, NumPy or torch; -1 is padding.
            kv_positions: int `[kv_len]` or `[batch, kv_len]`, likewise.

        Raises:
            LayoutError: Positions have another length, are not integers, or are less than -1.
        """
        from openwork.layout.positions import position_rows

        return replace(
            self,
            q_positions=position_rows("q_positions", q_positions, self.q_len),
            kv_positions=position_rows("kv_positions", kv_positions, self.kv_len),
            _cache={},
        )

    def draw(self) -> str:
        """A text picture, plane by plane: rows are queries, columns are keys, `#` is allowed."""
        from openwork.layout.draw import draw_layout

        return draw_layout(self)

    def __repr__(self) -> str:
        from openwork.layout.show import layout_text

        return layout_text(self)

    def _repr_html_(self) -> str:
        from openwork.layout.show import layout_html

        return layout_html(self)


def _arrays(part: Part) -> list[npt.NDArray[Any]]:
    """The arrays that a part is made of; what it has derived and kept is not among them."""
    values = (getattr(part, each.name) for each in fields(part))
    return [value for value in values if isinstance(value, np.ndarray)]


def _is_natural(order: Int32Array) -> bool:
    count = int((order >= 0).sum())
    return bool((order[:count] == np.arange(count, dtype=np.int32)).all())
