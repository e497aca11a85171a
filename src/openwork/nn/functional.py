"""Attention for those who call `torch.nn.functional.scaled_dot_product_attention` themselves."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from openwork.errors import ArgumentError
from openwork.nn.graph import attended
from openwork.nn.narrow import LayoutMaker

__all__ = ["scaled_dot_product_attention"]

_MAKER = LayoutMaker()


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
    layout: Any = None,
    backend: str = "auto",
) -> Tensor:
    """`torch.nn.functional.scaled_dot_product_attention` over the pairs that a layout allows, and no others.

    Takes torch's arguments, in torch's order. Without a `layout` it *is* torch's function. With one, a query sees what
    the layout AND `attn_mask` AND `is_causal` allow. A query that sees no key gives 0, as in torch.

    torch's `is_causal` is top-left: query `i` sees keys `0..i` even where the queries are the last of the keys. Here
    queries are the last ones (bottom-right). Where the lengths are equal both mean the same; where they are not,
    `is_causal=True` beside a layout raises.

    Args:
        query: `[batch, q_heads, q_len, head_dim]`; `[q_heads, q_len, head_dim]` and more leading sizes do as well.
        key: `[batch, kv_heads, kv_len, head_dim]`; `kv_heads` other than `q_heads` needs `enable_gqa`, as in torch.
        value: `[batch, kv_heads, kv_len, v_head_dim]`.
        attn_mask: Boolean, True = attend, or additive (0 and -inf); it broadcasts as in torch. Beside a pattern, a
            causal mask or a mask of keys alone costs nothing of size `q_len x kv_len`; any other is joined pair by
            pair.
        dropout_p: Chance that a pair is dropped after softmax, whatever mode any module is in, as in torch.
        is_causal: No query sees a later key.
        scale: Multiplies the scores. Defaults to `head_dim ** -0.5`.
        enable_gqa: Whether fewer key heads than query heads are meant.
        layout: A `Pattern`; a `BlockLayout` for these lengths; or a boolean tensor, True = attend, `[q_len, kv_len]`,
            `[q_heads, q_len, kv_len]` or `[batch, q_heads, q_len, kv_len]`, on any device. A pattern or a tensor is
            compiled once for each content; a tensor is read at each call to find that out, a `BlockLayout` is not.
        backend: Which backend of `ops.sparse_attention` computes; not used without a layout.

    Returns:
        `[batch, q_heads, q_len, v_head_dim]`.

    Raises:
        ArgumentError: A shape does not fit, `is_causal` is top-left, or `enable_gqa` was not said.
        LayoutError: The layout is for other lengths, or `attn_mask` is a bias and no mask.
        AnnotationError: The pattern reads annotations; compile a layout with them.

    Examples:
        >>> from openwork.patterns import Causal, Window
        >>> query, key, value = torch.randn(3, 1, 4, 100, 16).unbind()
        >>> local = Causal() & Window(before=15)
        >>> scaled_dot_product_attention(query, key, value, layout=local).shape
        torch.Size([1, 4, 100, 16])
        >>> mask = torch.ones(100, 100, dtype=torch.bool).tril().triu(-15)
        >>> same = scaled_dot_product_attention(query, key, value, layout=mask)
        >>> torch.allclose(same, F.scaled_dot_product_attention(query, key, value, attn_mask=mask), atol=1e-6)
        True
    """
    if layout is None:
        options: dict[str, Any] = {"scale": scale, "enable_gqa": enable_gqa}
        return F.scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, **options)
    _check(query, key, value, is_causal, enable_gqa)
    leading = query.shape[:-3]
    made = _MAKER.layout(
        layout,
        q_len=query.shape[-2],
        kv_len=key.shape[-2],
        is_causal=is_causal,
        mask=_mask_for(attn_mask, leading),
    )
    q, k, v = (x.reshape(-1, *x.shape[-3:]) for x in (query, key, value))
    output = attended(q, k, v, made, scale=scale, dropout_p=dropout_p, backend=backend)
    return output.reshape(*leading, *output.shape[1:])


def _check(query: Tensor, key: Tensor, value: Tensor, is_causal: bool, enable_gqa: bool) -> None:
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if tensor.ndim < 3 or tensor.shape[:-3] != query.shape[:-3]:
            raise ArgumentError(
                f"{name} must be [batch, heads, length, head_dim] with the batch of query; got {list(tensor.shape)} "
                f"beside query {list(query.shape)}."
            )
    q_heads, kv_heads, q_len, kv_len = query.shape[-3], key.shape[-3], query.shape[-2], key.shape[-2]
    if q_heads != kv_heads and not enable_gqa:
        raise ArgumentError(
            f"key has {kv_heads} heads and query has {q_heads}: say enable_gqa=True if groups of query heads share "
            "a key head."
        )
    if is_causal and q_len != kv_len:
        raise ArgumentError(
            f"is_causal=True with q_len={q_len} and kv_len={kv_len} is top-left in torch: query 0 would see key 0 "
            "alone. "
            "Beside a layout, queries are the last of the keys: say Causal() in the layout's pattern, and leave "
            "is_causal out."
        )


def _mask_for(attn_mask: Tensor | None, leading: torch.Size) -> Tensor | None:
    """The mask with one leading size, where the tensors had more."""
    if attn_mask is None or attn_mask.ndim <= 4:
        return attn_mask if attn_mask is None or len(leading) == 1 or attn_mask.ndim <= 3 else _one(attn_mask, leading)
    return _one(attn_mask, leading)


def _one(attn_mask: Tensor, leading: torch.Size) -> Tensor:
    own = attn_mask.shape[:-3]
    if own.numel() == 1:
        return attn_mask.reshape(attn_mask.shape[-3:])
    return attn_mask.expand(*leading, *attn_mask.shape[-3:]).reshape(-1, *attn_mask.shape[-3:])
