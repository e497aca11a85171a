"""Masks of Hugging Face transformers: 4-D `attention_mask` and the `mask_function` of its masking utilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from openwork.errors import LayoutError
from openwork.interop.dense import MAX_BYTES, EmptyRows, dense_mask
from openwork.interop.flex import from_mask_mod
from openwork.interop.pairs import MaskMod, block_table, mask_mod_of
from openwork.layout import BlockLayout
from openwork.layout.additive import allowed_from_additive

__all__ = ["from_hf", "from_mask_function", "to_hf", "to_mask_function"]


def from_hf(attention_mask: Any, *, block_size: tuple[int, int] | None = None) -> BlockLayout:
    """The layout of a 4-D `attention_mask`: boolean, True = attend, or additive (0 and `finfo.min`).

    Args:
        attention_mask: `[batch, 1 or heads, q_len, kv_len]`.
        block_size: `(q_block, kv_block)`; `None` is 64x64.

    Raises:
        LayoutError: It is not 4-D, or a bias.
    """
    shape = list(attention_mask.shape)
    if len(shape) == 2:
        raise LayoutError(
            f"attention_mask has shape {shape}, which transformers takes for padding, one row for each sequence, "
            "even where "
            "it is square. A mask of pairs is [batch, 1 or heads, q_len, kv_len]: mask[None, None]. Padding goes into "
            "kv_positions of compile_layout, -1 where it is."
        )
    if len(shape) != 4:
        raise LayoutError(f"attention_mask must be [batch, 1 or heads, q_len, kv_len]; got {shape}.")
    return BlockLayout.from_mask(allowed_from_additive(attention_mask, "attention_mask"), block_size=block_size)


def to_hf(
    layout: BlockLayout,
    *,
    dtype: torch.dtype = torch.float32,
    padding: Tensor | None = None,
    device: Any = None,
    empty_rows: EmptyRows = "raise",
    max_bytes: int = MAX_BYTES,
) -> Tensor:
    """A 4-D `attention_mask` `[batch or 1, heads or 1, q_len, kv_len]`, for architectures that `hf.sparsify` refuses.

    The model computes every pair and masks most of them: what it means is exact, and nothing is saved. transformers
    adds no causality and no padding to a 4-D mask; both must be in the layout, padding also by `padding`. Expand it to
    the batch where an architecture does not broadcast.

    Args:
        layout: What to write.
        dtype: That of the model, for a mask that is added (0 and `finfo.min`); `torch.bool` for True = attend.
        padding: The tokenizer's 2-D `attention_mask`, `[batch, kv_len]`, 1 = token; keys that nobody sees.
        device: Where the tensor lies.
        empty_rows: `"raise"`: transformers gives a query that sees no key the mean of all *forbidden* values
            (`eager`), or what its kernel makes of it. Queries that are padding themselves are not asked.
        max_bytes: Most bytes that the boolean mask may take.

    Raises:
        LayoutError: `padding` does not fit, a query sees no key, or it would take more.
    """
    allowed = dense_mask(layout, max_bytes=max_bytes)
    real = np.ones((1, 1, layout.q_len), dtype=bool)
    if padding is not None:
        tokens = padding.detach().cpu().numpy().astype(bool)
        if tokens.ndim != 2 or tokens.shape[1] != layout.kv_len or layout.batch not in (1, len(tokens)):
            raise LayoutError(
                f"padding must be [batch, kv_len={layout.kv_len}], the tokenizer's attention_mask; got "
                f"{list(padding.shape)} beside a layout of batch={layout.batch}."
            )
        allowed = allowed & tokens[:, None, None, :]
        real = tokens[:, None, layout.kv_len - layout.q_len :]
    empty = ~allowed.any(axis=-1) & real
    if empty_rows == "raise" and empty.any():
        first = [int(i) for i in np.argwhere(empty)[0]]
        raise LayoutError(
            f"query {first[2]} of sequence {first[0]} sees no key: openwork gives it 0, transformers' eager "
            "attention the mean of all forbidden values. Let it see itself (`| Window(before=0)`), or say "
            "empty_rows='keep'."
        )
    mask = torch.from_numpy(allowed).to(device)
    if dtype == torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=device).masked_fill(~mask, torch.finfo(dtype).min)


def from_mask_function(
    mask_function: MaskMod,
    *,
    q_len: int,
    kv_len: int,
    batch: int = 1,
    heads: int = 1,
    block_size: tuple[int, int] | None = None,
    device: Any = None,
) -> BlockLayout:
    """The layout of a `mask_function(batch_idx, head_idx, q_idx, kv_idx)` of `transformers.masking_utils`.

    It counts queries as positions: query `i` of the layout is `q_idx = kv_len - q_len + i`, as with a cache. Every pair
    is asked, as `from_mask_mod` asks; the other arguments are those.
    """
    start = kv_len - q_len

    def by_row(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return mask_function(b, h, q_idx + start, kv_idx)

    return from_mask_mod(
        by_row, q_len=q_len, kv_len=kv_len, batch=batch, heads=heads, block_size=block_size, device=device
    )


def to_mask_function(layout: BlockLayout, *, block_size: Any = 128, device: Any = None) -> MaskMod:
    """A layout as a `mask_function`, for `and_mask_function=` of `transformers.masking_utils.create_causal_mask`.

    Args:
        layout: What to write; query `i` is asked for as `q_idx = kv_len - q_len + i`.
        block_size: Size of the blocks of its table.
        device: Where the table lies.
    """
    by_row = mask_mod_of(block_table(layout, block_size, device))
    start = layout.kv_len - layout.q_len

    def mask_function(batch_idx: Any, head_idx: Any, q_idx: Any, kv_idx: Any) -> Any:
        return by_row(batch_idx, head_idx, q_idx - start, kv_idx)

    return mask_function
