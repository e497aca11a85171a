"""Checks at the front door, once, in the caller's words."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openwork.errors import ArgumentError, LayoutError
from openwork.layout.data import BlockLayout
from openwork.ops.backends.call import Call
from openwork.patterns.base import Pattern

__all__ = ["check_numbers", "check_qkv", "check_sink_logits", "make_call"]


def make_call(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Any,
    *,
    scale: float | None,
    softcap: float | None,
    sink_logits: Tensor | None,
    alibi_slopes: Tensor | None,
    dropout_p: float,
    dropout_seed: int | None,
) -> Call:
    """The call, checked; the arguments are those of `sparse_attention`.

    Raises:
        ArgumentError: A tensor or an option does not fit.
        LayoutError: `layout` is not a layout, or one for other lengths, sequences or heads.
    """
    check_qkv(query, key, value)
    layout = check_layout(layout, query, key)
    scale, cap, dropout_p, seed = check_numbers(query, scale, softcap, dropout_p, dropout_seed)
    return Call(
        query=query,
        key=key,
        value=value,
        layout=layout,
        scale=scale,
        softcap=cap or None,
        sink_logits=check_sink_logits(sink_logits, query),
        alibi_slopes=check_alibi_slopes(alibi_slopes, query),
        dropout_p=dropout_p,
        dropout_seed=seed,
    )


def check_numbers(
    query: Tensor, scale: float | None, softcap: float | None, dropout_p: float, dropout_seed: int | None
) -> tuple[float, float, float, int]:
    """scale, softcap (0 for none), dropout_p and dropout_seed, with values; raises `ArgumentError`."""
    dropout_p = check_number("dropout_p", dropout_p)
    if not 0.0 <= dropout_p < 1.0:
        raise ArgumentError(f"dropout_p must be 0 or more and less than 1; got {dropout_p}.")
    scale = query.shape[-1] ** -0.5 if scale is None else check_number("scale", scale)
    return scale, check_softcap(softcap) or 0.0, dropout_p, _seed(dropout_p, dropout_seed)


def check_qkv(query: Tensor, key: Tensor, value: Tensor) -> None:
    """Raises `ArgumentError` where query, key and value do not fit each other."""
    named = {"query": query, "key": key, "value": value}
    for name, tensor in named.items():
        if not isinstance(tensor, Tensor):
            raise ArgumentError(f"{name} must be a torch tensor; got {type(tensor).__name__}.")
        if tensor.ndim != 4:
            heads = "q_heads, q_len" if name == "query" else "kv_heads, kv_len"
            raise ArgumentError(f"{name} must be [batch, {heads}, head_dim]; got shape {list(tensor.shape)}.")
        if tensor.shape[-1] == 0:
            raise ArgumentError(f"{name} has shape {list(tensor.shape)}; its last size must be 1 or more.")
        if tensor.dtype != query.dtype or tensor.device != query.device:
            raise ArgumentError(
                f"{name} is {tensor.dtype} on {tensor.device}, query is {query.dtype} on {query.device}; "
                "query, key and value need one dtype and one device."
            )
        if tensor.shape[0] != query.shape[0]:
            raise ArgumentError(f"{name} has batch={tensor.shape[0]}, query has batch={query.shape[0]}.")
    if key.shape[-1] != query.shape[-1]:
        raise ArgumentError(f"key has head_dim={key.shape[-1]}, query has head_dim={query.shape[-1]}.")
    if value.shape[1:3] != key.shape[1:3]:
        raise ArgumentError(
            f"value has kv_heads={value.shape[1]}, kv_len={value.shape[2]}, "
            f"key has kv_heads={key.shape[1]}, kv_len={key.shape[2]}."
        )
    q_heads, kv_heads = query.shape[1], key.shape[1]
    if kv_heads == 0 or q_heads % kv_heads:
        divisors = [str(n) for n in range(1, q_heads + 1) if q_heads % n == 0]
        use = f"{', '.join(divisors[:-1])} or {divisors[-1]}" if len(divisors) > 1 else "1"
        raise ArgumentError(f"key has kv_heads={kv_heads}, which does not divide q_heads={q_heads}; use {use}.")


def check_layout(layout: Any, query: Tensor, key: Tensor) -> BlockLayout:
    """The layout, or the layout of a boolean tensor; raises `LayoutError` where it does not fit."""
    q_len, kv_len = query.shape[2], key.shape[2]
    if isinstance(layout, Tensor | np.ndarray):
        layout = BlockLayout.from_mask(_readable(layout))
    if isinstance(layout, Pattern):
        raise LayoutError(
            f"layout is a pattern, {layout!r}; compile it with compile_layout(pattern, q_len={q_len}, kv_len={kv_len})."
        )
    if not isinstance(layout, BlockLayout):
        raise LayoutError(f"layout must be a BlockLayout or a boolean tensor; got {type(layout).__name__}.")
    if (layout.q_len, layout.kv_len) != (q_len, kv_len):
        again = (
            "Make it again from a mask of these lengths."
            if layout.pattern is None
            else f"Recompile it with compile_layout(layout.pattern, q_len={q_len}, kv_len={kv_len})."
        )
        raise LayoutError(
            f"layout was compiled for q_len={layout.q_len}, kv_len={layout.kv_len}, but query has q_len={q_len} "
            f"and key has kv_len={kv_len}. {again}"
        )
    batch, q_heads = query.shape[:2]
    if layout.batch not in (1, batch):
        raise LayoutError(f"layout is for batch={layout.batch} sequences, but query has batch={batch}.")
    if layout.heads not in (1, q_heads):
        raise LayoutError(f"layout is for q_heads={layout.heads}, but query has q_heads={q_heads}.")
    for name, rows in (("q_positions", layout.q_positions), ("kv_positions", layout.kv_positions)):
        if rows is not None and rows.shape[0] not in (1, batch):
            raise LayoutError(f"layout has {name} for {rows.shape[0]} sequences, but query has batch={batch}.")
    return layout


def _readable(mask: Tensor | np.ndarray[Any, Any]) -> Tensor | np.ndarray[Any, Any]:
    """The mask as something whose memory can be read: inside `torch.func` transforms that of a tensor cannot."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        return mask
    if mask.is_meta:
        raise LayoutError("layout is a boolean tensor on meta, which holds no values; give one on the CPU.")
    try:
        array: np.ndarray[Any, Any] = mask.detach().cpu().numpy()
    except RuntimeError:
        # its values can, one by one
        array = np.array(mask.tolist(), dtype=bool).reshape(mask.shape)
    return array


def check_number(name: str, value: Any) -> float:
    """A finite number as a float."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ArgumentError(f"{name} must be a finite number; got {value!r}.")
    return float(value)


def check_softcap(softcap: float | None) -> float | None:
    """A positive cap or None."""
    if softcap is None:
        return None
    softcap = check_number("softcap", softcap)
    if softcap <= 0:
        raise ArgumentError(f"softcap must be more than 0, or None for no cap; got {softcap}.")
    return softcap


def check_sink_logits(sink_logits: Tensor | None, query: Tensor) -> Tensor | None:
    """`[q_heads]`, or None."""
    if sink_logits is None:
        return None
    q_heads = query.shape[1]
    _check_option("sink_logits", sink_logits, query)
    if tuple(sink_logits.shape) != (q_heads,):
        raise ArgumentError(f"sink_logits must be [q_heads={q_heads}]; got shape {list(sink_logits.shape)}.")
    return sink_logits


def check_alibi_slopes(alibi_slopes: Tensor | None, query: Tensor) -> Tensor | None:
    """`[batch or 1, q_heads]`, or None."""
    if alibi_slopes is None:
        return None
    batch, q_heads = query.shape[:2]
    _check_option("alibi_slopes", alibi_slopes, query)
    if tuple(alibi_slopes.shape) not in {(q_heads,), (1, q_heads), (batch, q_heads)}:
        raise ArgumentError(
            f"alibi_slopes must be [q_heads={q_heads}] or [batch={batch}, q_heads={q_heads}]; "
            f"got shape {list(alibi_slopes.shape)}."
        )
    return alibi_slopes if alibi_slopes.ndim == 2 else alibi_slopes.unsqueeze(0)


def _check_option(name: str, tensor: Any, query: Tensor) -> None:
    if not isinstance(tensor, Tensor) or not tensor.dtype.is_floating_point:
        got = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise ArgumentError(f"{name} must be a floating-point tensor; got {got}.")
    if tensor.device != query.device:
        raise ArgumentError(f"{name} is on {tensor.device}, query is on {query.device}.")


def _seed(dropout_p: float, dropout_seed: int | None) -> int:
    if dropout_seed is None:
        # drawn only where it is used, so that a call without dropout leaves the generator alone
        return int(torch.randint(2**62, ()).item()) if dropout_p > 0 else 0
    if isinstance(dropout_seed, bool) or not isinstance(dropout_seed, int) or not 0 <= dropout_seed < 2**64:
        raise ArgumentError(f"dropout_seed must be an integer from 0 to 2^64 - 1; got {dropout_seed!r}.")
    return dropout_seed
