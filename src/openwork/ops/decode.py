"""One query for each sequence against the cached keys that it sees, and no others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from openwork.errors import ArgumentError
from openwork.ops.backends.cpu_decode import can_decode
from openwork.ops.backends.cpu_decode import decode as native_decode
from openwork.ops.registry import as_given
from openwork.ops.result import AttentionResult
from openwork.ops.validation import (
    check_alibi_slopes,
    check_number,
    check_qkv,
    check_sink_logits,
    check_softcap,
)

__all__ = ["decode_attention"]

Int64Array = npt.NDArray[np.int64]


def decode_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    visible: Sequence[Sequence[Any]],
    *,
    scale: float | None = None,
    softcap: float | None = None,
    sink_logits: Tensor | None = None,
    alibi_slopes: Tensor | None = None,
    q_positions: Tensor | None = None,
    kv_positions: Tensor | None = None,
) -> AttentionResult:
    """Attention of one new query for each sequence over the keys that it sees; only those are read.

    The formula is that of `sparse_attention`. Keys that are not listed (unwritten cache slots, dropped entries) may
    hold anything. A query without keys gets output 0 and `lse` of `-inf`. Differentiable; where no gradient is asked
    for, CPU tensors are read by native code (backend `cpu`) where it is built.

    Args:
        query: `[batch, q_heads, 1, head_dim]`.
        key: `[batch, kv_heads, kv_len, head_dim]`, the cache.
        value: `[batch, kv_heads, kv_len, v_head_dim]`.
        visible: For each sequence (or once for all), for each query head (or once for all), the visible keys: distinct
            indices below `kv_len`, as int arrays or tensors of any length. `ow.decoder(...).visible()` returns this.
        scale: Multiplies the scores before softmax. Defaults to `head_dim ** -0.5`.
        softcap: `cap` of `cap * tanh(score / cap)`; None for no cap.
        sink_logits: `[q_heads]`.
        alibi_slopes: `[q_heads]` or `[batch, q_heads]`.
        q_positions: int `[batch]`, for ALiBi; the default is `kv_len - 1`, right where no sequence is shorter.
        kv_positions: int `[batch, kv_len]`, for ALiBi; the default is the index.

    Returns:
        Output `[batch, q_heads, 1, v_head_dim]` and lse `[batch, q_heads, 1]`.

    Raises:
        ArgumentError: A tensor does not fit, or `visible` names a key twice or one that is not there.

    Examples:
        >>> import openwork as ow
        >>> decoder = ow.decoder(ow.Causal() & (ow.Window(before=1) | ow.First(keys=1)))
        >>> decoder.append(6)
        >>> q, k, v = torch.randn(1, 4, 1, 8), torch.randn(1, 2, 6, 8), torch.randn(1, 2, 6, 8)
        >>> decode_attention(q, k, v, decoder.visible()).output.shape
        torch.Size([1, 4, 1, 8])
    """
    check_qkv(query, key, value)
    if query.shape[2] != 1:
        raise ArgumentError(f"decode_attention takes one query for each sequence; query has q_len={query.shape[2]}.")
    if not query.dtype.is_floating_point:
        raise ArgumentError(f"decode_attention needs a floating-point dtype; got {query.dtype}.")
    options = _Options(
        scale=query.shape[-1] ** -0.5 if scale is None else check_number("scale", scale),
        softcap=check_softcap(softcap),
        slopes=check_alibi_slopes(alibi_slopes, query),
        q_positions=_positions("q_positions", q_positions, (query.shape[0],), query),
        kv_positions=_positions("kv_positions", kv_positions, (query.shape[0], key.shape[2]), query),
    )
    sink_logits = check_sink_logits(sink_logits, query)
    batch, q_heads = query.shape[:2]
    lists = _checked(visible, batch, q_heads, key.shape[2])
    if can_decode(query, key, value, sink_logits, options.slopes):
        return AttentionResult(
            *native_decode(
                query,
                key,
                value,
                lists,
                scale=options.scale,
                softcap=options.softcap,
                sink_logits=sink_logits,
                alibi_slopes=options.slopes,
                q_positions=options.q_positions,
                kv_positions=options.kv_positions,
            )
        )
    dtype = torch.float64 if query.dtype == torch.float64 else torch.float32
    outputs, lses, order = [], [], []
    for bundle in _bundles(lists, q_heads, key.shape[1]):
        with as_given(query.device):
            output, lse = _attend(query, key, value, bundle, options, dtype)
        outputs.append(output)
        lses.append(lse)
        order.append(bundle.q_rows.reshape(-1))
    back = torch.as_tensor(np.argsort(np.concatenate(order)), device=query.device)
    output, lse = torch.cat(outputs)[back], torch.cat(lses)[back].view(batch, q_heads, 1)
    output = output.view(batch, q_heads, 1, -1)
    if sink_logits is not None:
        empty = lse == -torch.inf
        kept = torch.sigmoid(lse.masked_fill(empty, 0.0) - sink_logits.to(dtype)[:, None])
        output = output * kept.masked_fill(empty, 0.0).unsqueeze(-1)
    return AttentionResult(output.to(query.dtype), lse)


@dataclass(frozen=True)
class _Options:
    scale: float
    softcap: float | None
    slopes: Tensor | None
    q_positions: Tensor | None
    kv_positions: Tensor | None


@dataclass(frozen=True)
class _Bundle:
    """Key heads whose lists are about equally long.

    Attributes:
        kv_rows: `[R]`, rows of `[batch * kv_heads]`.
        q_rows: `[R, G]`, rows of `[batch * q_heads]`; all G read the same keys.
        keys: `[R, W]`, indices; -1 beyond the end of a list.
    """

    kv_rows: Int64Array
    q_rows: Int64Array
    keys: Int64Array


def _attend(
    query: Tensor, key: Tensor, value: Tensor, bundle: _Bundle, options: _Options, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Output `[R * G, v_head_dim]` and lse `[R * G]`."""
    device = query.device
    keys_RW = torch.as_tensor(bundle.keys, device=device)
    beyond_RW = keys_RW < 0
    rows_R, q_rows_RG = (torch.as_tensor(rows, device=device) for rows in (bundle.kv_rows, bundle.q_rows))
    index_RW = keys_RW.clamp(min=0)
    k_RWD, v_RWD = (
        x.flatten(0, 1)[rows_R[:, None], index_RW].to(dtype).masked_fill(beyond_RW.unsqueeze(-1), 0.0)
        for x in (key, value)
    )
    empty_R = beyond_RW.all(dim=1)
    q_RGD = query.flatten(0, 2)[q_rows_RG].to(dtype).masked_fill(empty_R[:, None, None], 0.0)
    scores_RGW = (q_RGD @ k_RWD.mT) * options.scale
    if options.softcap is not None:
        scores_RGW = options.softcap * torch.tanh(scores_RGW / options.softcap)
    if options.slopes is not None:
        scores_RGW = scores_RGW - _alibi(key, query, index_RW, rows_R, q_rows_RG, options, dtype)
    scores_RGW = scores_RGW.masked_fill((beyond_RW & ~empty_R[:, None]).unsqueeze(1), -torch.inf)
    lse_RG = torch.logsumexp(scores_RGW, dim=-1).masked_fill(empty_R[:, None], -torch.inf)
    probs_RGW = torch.softmax(scores_RGW, dim=-1).masked_fill(empty_R[:, None, None], 0.0)
    return (probs_RGW @ v_RWD).flatten(0, 1), lse_RG.flatten()


def _alibi(
    key: Tensor,
    query: Tensor,
    index_RW: Tensor,
    rows_R: Tensor,
    q_rows_RG: Tensor,
    options: _Options,
    dtype: torch.dtype,
) -> Tensor:
    assert options.slopes is not None
    sequence_R = rows_R // key.shape[1]
    slopes_RG = options.slopes.expand(query.shape[0], -1).flatten()[q_rows_RG].to(dtype)
    kv_pos_RW = index_RW if options.kv_positions is None else options.kv_positions[sequence_R[:, None], index_RW]
    q_pos_R1 = key.shape[2] - 1 if options.q_positions is None else options.q_positions[sequence_R][:, None]
    return slopes_RG.unsqueeze(-1) * (q_pos_R1 - kv_pos_RW).abs().to(dtype).unsqueeze(1)


def _bundles(lists: list[list[Int64Array]], q_heads: int, kv_heads: int) -> list[_Bundle]:
    """Query heads that share a key head and a list are one row; rows of like length are one bundle."""
    group = q_heads // kv_heads
    rows: dict[tuple[int, int], list[tuple[int, list[int], Int64Array]]] = {}
    for b, of_heads in enumerate(lists):
        for kv_head in range(kv_heads):
            distinct: dict[bytes, tuple[list[int], Int64Array]] = {}
            for h in range(kv_head * group, (kv_head + 1) * group):
                own = of_heads[h if len(of_heads) > 1 else 0]
                signature = b"" if len(of_heads) == 1 else own.tobytes()
                distinct.setdefault(signature, ([], own))[0].append(b * q_heads + h)
            for q_rows, own in distinct.values():
                width = 1 << max(0, len(own) - 1).bit_length()
                rows.setdefault((len(q_rows), width), []).append((b * kv_heads + kv_head, q_rows, own))
    bundles = []
    for members in rows.values():
        keys = np.full((len(members), max(1, *(len(own) for _, _, own in members))), -1, dtype=np.int64)
        for line, (_, _, own) in zip(keys, members, strict=True):
            line[: len(own)] = own
        bundles.append(
            _Bundle(np.array([row for row, _, _ in members]), np.array([q_rows for _, q_rows, _ in members]), keys)
        )
    return bundles


def _checked(visible: Any, batch: int, q_heads: int, kv_len: int) -> list[list[Int64Array]]:
    """`visible` for every sequence, as checked int64 arrays."""
    if isinstance(visible, Tensor | np.ndarray) or not isinstance(visible, Sequence) or len(visible) not in (1, batch):
        got = f"{len(visible)} sequences" if isinstance(visible, Sequence) else type(visible).__name__
        raise ArgumentError(f"visible must be a list of {batch} sequences, or of 1 for all; got {got}.")
    checked: list[list[Int64Array]] = []
    for b, of_heads in enumerate(visible):
        if (
            isinstance(of_heads, Tensor | np.ndarray)
            or not isinstance(of_heads, Sequence)
            or len(of_heads) not in (1, q_heads)
        ):
            got = f"{len(of_heads)}" if isinstance(of_heads, Sequence) else type(of_heads).__name__
            raise ArgumentError(f"visible[{b}] must be a list of q_heads={q_heads} arrays, or of 1 for all; got {got}.")
        checked.append([_checked_keys(keys, f"visible[{b}][{h}]", kv_len) for h, keys in enumerate(of_heads)])
    return checked * batch if len(checked) == 1 else checked


def _checked_keys(keys: Any, name: str, kv_len: int) -> Int64Array:
    array = np.asarray(keys.cpu() if isinstance(keys, Tensor) else keys)
    if array.size == 0:
        return np.zeros(0, dtype=np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ArgumentError(f"{name} must be a list of key indices; got {array.dtype} of shape {list(array.shape)}.")
    if array[0] >= 0 and array[-1] < kv_len and (array[1:] > array[:-1]).all():
        # what `visible()` returns: in order, so the ends say all, and there is nothing to copy
        return np.ascontiguousarray(array, dtype=np.int64)
    if array.min() < 0 or array.max() >= kv_len:
        bad = int(array.min() if array.min() < 0 else array.max())
        raise ArgumentError(f"{name} names key {bad}; the keys are 0 to {kv_len - 1}.")
    result = array.astype(np.int64)
    if len(np.unique(result)) < len(result):
        raise ArgumentError(f"{name} names a key twice; it would count twice.")
    return result


def _positions(name: str, positions: Tensor | None, shape: tuple[int, ...], query: Tensor) -> Tensor | None:
    if positions is None:
        return None
    if not isinstance(positions, Tensor) or positions.dtype.is_floating_point or tuple(positions.shape) != shape:
        got = (
            f"{positions.dtype} {list(positions.shape)}" if isinstance(positions, Tensor) else type(positions).__name__
        )
        raise ArgumentError(f"{name} must be an integer tensor {list(shape)}; got {got}.")
    return positions.to(query.device)
