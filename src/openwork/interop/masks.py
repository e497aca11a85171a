"""Boolean and additive masks of PyTorch, of its `nn.MultiheadAttention`, and of fairseq."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from openwork.errors import LayoutError
from openwork.interop.dense import MAX_BYTES, EmptyRows, dense_mask
from openwork.layout import BlockLayout
from openwork.layout.additive import allowed_from_additive
from openwork.patterns.annotations import BoolArray

__all__ = [
    "from_additive",
    "from_fairseq",
    "from_multihead_attention",
    "to_additive",
    "to_boolean",
    "to_fairseq",
    "to_multihead_attention",
]

BlockSize = tuple[int, int] | None


def from_additive(bias: Any, *, block_size: BlockSize = None) -> BlockLayout:
    """The layout of a mask that is added to the scores: 0 is *attend*, -1e4 or less (-inf) is *masked*.

    Args:
        bias: Floating point `[q_len, kv_len]`, `[q_heads, q_len, kv_len]` or `[batch, q_heads, q_len, kv_len]`, NumPy,
            torch or JAX.
        block_size: `(q_block, kv_block)`; `None` is 64x64.

    Raises:
        LayoutError: It holds NaN (`0 * -inf`), or another value: a bias, which a layout cannot express.

    Examples:
        >>> from_additive(torch.zeros(3, 3).masked_fill(torch.ones(3, 3).triu(1).bool(), -torch.inf)).allowed_pairs
        6
    """
    return BlockLayout.from_mask(allowed_from_additive(bias, "bias"), block_size=block_size)


def to_boolean(layout: BlockLayout, *, device: Any = None, max_bytes: int = MAX_BYTES) -> Tensor:
    """Bool `[batch or 1, q_heads or 1, q_len, kv_len]`, True = attend: `attn_mask` of `scaled_dot_product_attention`.

    torch gives a query that sees no key 0, as openwork does. `BlockLayout.from_mask` is the way back.

    Args:
        layout: What to write.
        device: Where the tensor lies.
        max_bytes: Most bytes that it may take.

    Raises:
        LayoutError: It would take more.
    """
    return torch.from_numpy(dense_mask(layout, max_bytes=max_bytes)).to(device)


def to_additive(
    layout: BlockLayout,
    *,
    dtype: torch.dtype = torch.float32,
    masked: float = -torch.inf,
    device: Any = None,
    empty_rows: EmptyRows = "raise",
    max_bytes: int = MAX_BYTES,
) -> Tensor:
    """A mask to add to the scores: `[batch or 1, q_heads or 1, q_len, kv_len]`, 0 where a pair is allowed.

    It is filled and not multiplied: `0 * -inf` is NaN, so `(1 - mask) * -inf` breaks exactly where attention is
    allowed.

    Args:
        layout: What to write.
        dtype: Of the tensor.
        masked: What is added where a pair is not allowed; `torch.finfo(dtype).min` for code that cannot take `-inf`.
        device: Where the tensor lies.
        empty_rows: `"raise"`: a softmax over nothing but `-inf` is NaN, and over equal finite numbers the mean of all
            *forbidden* values. `"keep"` where such rows are thrown away, as those of padding are.
        max_bytes: Most bytes that the boolean mask may take.

    Raises:
        LayoutError: A query sees no key, or it would take more.

    Examples:
        >>> import openwork as ow
        >>> to_additive(ow.compile_layout(ow.Causal(), q_len=2, kv_len=2)).tolist()
        [[[[0.0, -inf], [0.0, 0.0]]]]
    """
    library = "a softmax over -inf alone gives NaN, and over equal finite numbers the mean of forbidden values"
    allowed = dense_mask(layout, max_bytes=max_bytes, empty_rows=empty_rows, library=library)
    forbidden = torch.from_numpy(~allowed).to(device)
    return torch.zeros(forbidden.shape, dtype=dtype, device=device).masked_fill(forbidden, masked)


def from_multihead_attention(
    attn_mask: Any = None, key_padding_mask: Any = None, *, num_heads: int, block_size: BlockSize = None
) -> BlockLayout:
    """The layout of the masks of `nn.MultiheadAttention`, in which a boolean True means *masked*.

    Args:
        attn_mask: `[q_len, kv_len]` or `[batch * num_heads, q_len, kv_len]`; boolean, True = masked, or additive.
        key_padding_mask: `[batch, kv_len]`; boolean, True = padding, or additive. Padding is a key that nobody sees; as
            in torch, a query at such a place still sees what the rest allows.
        num_heads: Number of heads, which share the first size of a 3-D mask with the batch.
        block_size: `(q_block, kv_block)`; `None` is 64x64.

    Raises:
        LayoutError: No mask is given, shapes do not fit, or a mask is a bias.

    Examples:
        >>> causal = torch.ones(4, 4, dtype=torch.bool).triu(1)
        >>> from_multihead_attention(causal, num_heads=2).to_dense()[0, 0].astype(int).tolist()
        [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    """
    pairs = None if attn_mask is None else _inverted(attn_mask, "attn_mask")
    if pairs is not None and pairs.ndim == 3:
        if len(pairs) % num_heads:
            raise LayoutError(
                f"attn_mask has first size {len(pairs)}, which is batch * num_heads, but num_heads={num_heads} "
                "does not divide it."
            )
        pairs = pairs.reshape(-1, num_heads, *pairs.shape[1:])
    return _with_padding(pairs, key_padding_mask, block_size)


def to_multihead_attention(
    layout: BlockLayout,
    *,
    num_heads: int,
    batch: int = 1,
    device: Any = None,
    empty_rows: EmptyRows = "raise",
    max_bytes: int = MAX_BYTES,
) -> Tensor:
    """The `attn_mask` of `nn.MultiheadAttention`: True = *masked*, `[q_len, kv_len]` or `[batch * num_heads, ...]`.

    Args:
        layout: What to write.
        num_heads: Number of heads of the module.
        batch: Sequences of the batch, where the layout tells heads apart and no sequences.
        device: Where the tensor lies.
        empty_rows: `"raise"`: with `need_weights=True`, its default, the module gives NaN to a query that sees no key.
        max_bytes: Most bytes that it may take.

    Raises:
        LayoutError: The layout is for other heads or another batch, a query sees no key, or it would take more.
    """
    if layout.heads not in (1, num_heads) or layout.batch not in (1, batch):
        raise LayoutError(
            f"the layout is for batch={layout.batch}, q_heads={layout.heads}; got batch={batch}, num_heads={num_heads}."
        )
    library = "nn.MultiheadAttention NaN, unless it is called with need_weights=False"
    allowed = dense_mask(layout, max_bytes=max_bytes, empty_rows=empty_rows, library=library)
    if allowed.shape[:2] == (1, 1):
        return torch.from_numpy(~allowed[0, 0]).to(device)
    whole = np.broadcast_to(~allowed, (batch, num_heads, *allowed.shape[2:]))
    return torch.from_numpy(np.array(whole)).flatten(0, 1).to(device)


def from_fairseq(attn_mask: Any = None, key_padding_mask: Any = None, *, block_size: BlockSize = None) -> BlockLayout:
    """The layout of the masks of fairseq's `MultiheadAttention`, which one `attn_mask` serves for all heads.

    fairseq adds `attn_mask` to the scores, so a boolean one has to mean *masked*, as where fairseq hands it on to
    torch.

    Args:
        attn_mask: `[tgt_len, src_len]`: float, 0 and -inf (`buffered_future_mask`), or bool or uint8, True = masked.
        key_padding_mask: `[batch, src_len]`, bool or uint8, True = padding: a key that nobody sees.
        block_size: `(q_block, kv_block)`; `None` is 64x64.

    Raises:
        LayoutError: No mask is given, shapes do not fit, or a mask is a bias.
    """
    masks = [_as_bool(mask) for mask in (attn_mask, key_padding_mask)]
    if masks[0] is not None and masks[0].ndim != 2:
        raise LayoutError(f"fairseq's attn_mask is [tgt_len, src_len]; got shape {list(masks[0].shape)}.")
    return _with_padding(None if masks[0] is None else _inverted(masks[0], "attn_mask"), masks[1], block_size)


def to_fairseq(
    layout: BlockLayout,
    *,
    dtype: torch.dtype = torch.float32,
    device: Any = None,
    empty_rows: EmptyRows = "raise",
    max_bytes: int = MAX_BYTES,
) -> Tensor:
    """Fairseq's `attn_mask`, float `[tgt_len, src_len]`: 0 where a pair is allowed, -inf where it is not.

    Args:
        layout: What to write; shared by all heads and sequences, which is all that fairseq can express.
        dtype: That of the scores.
        device: Where the tensor lies.
        empty_rows: `"raise"`: fairseq gives NaN to a query that sees no key.
        max_bytes: Most bytes that the boolean mask may take.

    Raises:
        LayoutError: Heads or sequences differ, a query sees no key, or it would take more.
    """
    if len({int(plane) for plane in layout.index.flat}) > 1:
        raise LayoutError(
            f"fairseq has one attn_mask for all, but the layout tells {layout.batch} sequences and {layout.heads} "
            "heads apart."
        )
    return to_additive(layout, dtype=dtype, device=device, empty_rows=empty_rows, max_bytes=max_bytes)[0, 0]


def _as_bool(mask: Any) -> Any:
    """Bytes, which fairseq used before torch had booleans, as booleans."""
    return mask != 0 if str(getattr(mask, "dtype", "")).endswith("uint8") else mask


def _inverted(mask: Any, name: str) -> BoolArray:
    """Bool, True = attend, from a mask in which True means masked, or that is added."""
    array = allowed_from_additive(mask, name)
    boolean = str(getattr(mask, "dtype", "")).endswith("bool")
    return ~array if boolean else array


def _with_padding(pairs: BoolArray | None, key_padding_mask: Any, block_size: BlockSize) -> BlockLayout:
    if key_padding_mask is None:
        if pairs is None:
            raise LayoutError("neither attn_mask nor key_padding_mask is given; without a mask, compile Dense().")
        return BlockLayout.from_mask(pairs, block_size=block_size)
    valid = _inverted(key_padding_mask, "key_padding_mask")
    if valid.ndim != 2 or (pairs is not None and pairs.shape[-1] != valid.shape[-1]):
        beside = "" if pairs is None else f" beside attn_mask {list(pairs.shape)}"
        raise LayoutError(f"key_padding_mask must be [batch, kv_len]; got {list(valid.shape)}{beside}.")
    if pairs is None:
        pairs = np.ones((valid.shape[1], valid.shape[1]), dtype=bool)
    if pairs.ndim == 4 and len(pairs) not in (1, len(valid)):
        raise LayoutError(f"attn_mask is for batch={len(pairs)}, key_padding_mask for batch={len(valid)}.")
    return BlockLayout.from_mask(pairs & valid[:, None, None, :], block_size=block_size)
