"""What a query may see where a module or a caller brings a mask of its own: the plan AND that mask, as one layout."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from threading import Lock
from typing import Any

import numpy as np

from openwork.errors import LayoutError
from openwork.layout import BlockLayout
from openwork.layout.additive import allowed_from_additive
from openwork.nn.graph import outside_graph
from openwork.nn.layouts import LayoutCache
from openwork.ops.explain import looks_back_only
from openwork.patterns import Causal, Pattern
from openwork.patterns.annotations import BoolArray

__all__ = ["LayoutMaker"]

_MOST_PAIRS = 1 << 28
"""Pairs up to which a layout that came from a dense mask is written out again to join it with another."""

Rule = Pattern | BlockLayout


class LayoutMaker:
    """Layouts for calls of an attention layer, found again by the content that they were made from.

    A rule is a pattern, a layout, or a boolean array `[q_len, kv_len]`, `[q_heads, q_len, kv_len]` or `[batch,
    q_heads, q_len, kv_len]`, True = attend.

    Args:
        size: Number of layouts kept; the one unused for longest goes first.
    """

    def __init__(self, size: int = 32) -> None:
        self._size = size
        self._compiled = LayoutCache(size)
        self._made: dict[tuple[Any, ...], tuple[BlockLayout | None, BlockLayout]] = {}
        self._lock = Lock()

    def __getstate__(self) -> dict[str, Any]:
        # layouts are made again where they are needed, and a lock is nobody else's
        return {"_size": self._size}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_size"])  # type: ignore[misc]

    @outside_graph
    def layout(
        self,
        rule: Any,
        *,
        q_len: int,
        kv_len: int,
        is_causal: bool = False,
        mask: Any = None,
        kv_valid: Any = None,
    ) -> BlockLayout:
        """The pairs that the rule and everything else allow.

        Args:
            rule: Pattern, layout or boolean array.
            q_len: Number of queries.
            kv_len: Number of keys.
            is_causal: No query sees a key of a later index; `q_len` must be `kv_len`.
            mask: Boolean, True = attend, or additive; broadcasts to `[batch, q_heads, q_len, kv_len]`.
            kv_valid: Boolean `[batch, kv_len]`, False is padding: it sees nothing and is seen by nobody, and
                positions count without it. Only where queries are the keys.

        Raises:
            LayoutError: The mask is no mask, or does not fit.
        """
        if not isinstance(rule, Rule):
            rule = self._from_mask(rule)
        if isinstance(rule, BlockLayout) and (rule.q_len, rule.kv_len) != (q_len, kv_len):
            return rule  # the operation says what does not fit
        allowed = None if mask is None else _four_dimensional(allowed_from_additive(mask, "attn_mask"), q_len, kv_len)
        if allowed is not None and _is_lower_triangle(allowed):
            allowed, is_causal = None, True
        if is_causal:
            rule = rule & Causal() if isinstance(rule, Pattern) else self._causal(rule)
        positions: dict[str, Any] = {}
        if kv_valid is not None:
            valid = np.asarray(kv_valid, dtype=bool)
            if isinstance(rule, Pattern):
                positions["kv_positions"] = np.where(valid, np.cumsum(valid, axis=-1) - 1, -1)
            else:
                both = _four_dimensional(valid[:, None, :, None] & valid[:, None, None, :], q_len, kv_len)
                allowed = both if allowed is None else allowed & both
        elif allowed is not None and allowed.shape[1:3] == (1, 1) and q_len > 1 and isinstance(rule, Pattern):
            # padding of keys alone: positions say it, and nothing of size q_len x kv_len is made
            index = np.arange(kv_len)
            positions["kv_positions"] = np.where(allowed[:, 0, 0], index, -1)
            positions["q_positions"] = index[None, kv_len - q_len :]
            allowed = None
        if isinstance(rule, Pattern):
            with self._lock:
                layout = self._compiled.layout(rule, q_len=q_len, kv_len=kv_len, **positions)
        else:
            layout = rule
        return layout if allowed is None else self._and_mask(layout, allowed)

    def _from_mask(self, mask: Any) -> BlockLayout:
        if hasattr(mask, "detach"):
            mask = mask.detach().cpu().numpy()
        if not isinstance(mask, np.ndarray):
            raise LayoutError(
                "layout must be a Pattern, a BlockLayout or a boolean tensor, True = attend; got "
                f"{type(mask).__name__}."
            )
        if mask.dtype != np.bool_ or mask.ndim < 2:
            return BlockLayout.from_mask(mask)  # which says what is wrong
        return self._kept(None, "mask", mask, lambda: BlockLayout.from_mask(mask))

    def _causal(self, layout: BlockLayout) -> BlockLayout:
        def make() -> BlockLayout:
            # by index, as the caller's is_causal means it, whatever positions the layout has
            if looks_back_only(replace(layout, q_positions=None, kv_positions=None, q_start=0, _cache={})):
                return layout
            return _joined(layout, _lower_triangle(layout.q_len), "is_causal=True", "compile it with `& Causal()`")

        return layout.cached("and causal", make)

    def _and_mask(self, layout: BlockLayout, allowed: BoolArray) -> BlockLayout:
        def make() -> BlockLayout:
            return _joined(layout, allowed, "attn_mask", "say it as a pattern")

        return self._kept(layout, "and", allowed, make)

    def _kept(self, source: BlockLayout | None, what: str, array: BoolArray, make: Any) -> BlockLayout:
        digest = hashlib.blake2b(np.packbits(array).tobytes(), digest_size=16).digest()
        key = what, id(source), array.shape, digest
        with self._lock:
            # the source is kept as long as its id is part of a key
            entry = self._made.pop(key, None) or (source, make())
            self._made[key] = entry
            while len(self._made) > self._size:
                self._made.pop(next(iter(self._made)))
        return entry[1]


def _joined(layout: BlockLayout, allowed: BoolArray, what: str, way_out: str) -> BlockLayout:
    pairs = layout.q_len * layout.kv_len
    if pairs > _MOST_PAIRS:
        raise LayoutError(
            f"{what} has to be joined with this layout pair by pair, and {pairs:,} pairs are more than "
            f"{_MOST_PAIRS:,}: {way_out}."
        )
    if any(a != b and 1 not in (a, b) for a, b in zip(allowed.shape[:2], layout.index.shape, strict=True)):
        raise LayoutError(
            f"{what} is for [batch, q_heads] = {list(allowed.shape[:2])}, but the layout is for "
            f"{list(layout.index.shape)}."
        )
    joined = BlockLayout.from_mask(layout.to_dense() & allowed, block_size=layout.block_size)
    # distances stay what they were
    return replace(joined, q_positions=layout.q_positions, kv_positions=layout.kv_positions, q_start=layout.q_start)


def _lower_triangle(length: int) -> BoolArray:
    return np.tril(np.ones((length, length), dtype=bool))


def _four_dimensional(allowed: BoolArray, q_len: int, kv_len: int) -> BoolArray:
    if not 1 <= allowed.ndim <= 4 or any(
        size not in (1, length) for size, length in zip(allowed.shape[::-1], (kv_len, q_len), strict=False)
    ):
        raise LayoutError(
            f"attn_mask has shape {list(allowed.shape)}, which does not broadcast to [batch, q_heads, q_len={q_len}, "
            f"kv_len={kv_len}]."
        )
    allowed = allowed.reshape((1,) * (4 - allowed.ndim) + allowed.shape)
    return np.broadcast_to(allowed, (*allowed.shape[:3], kv_len)) if allowed.shape[3] != kv_len else allowed


def _is_lower_triangle(allowed: BoolArray) -> bool:
    batch, heads, q_len, kv_len = allowed.shape
    if (batch, heads) != (1, 1) or q_len != kv_len or q_len < 2:
        return False
    # the corners decide most cases at once
    if allowed[0, 0, 0, -1] or not allowed[0, 0, -1, 0]:
        return False
    return bool((allowed[0, 0] == _lower_triangle(q_len)).all())
