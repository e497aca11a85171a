"""One query for each sequence against the keys that it sees, in native code."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from openwork.ops.backends.cpu_native import absence, chosen_isa, kernels
from openwork.ops.backends.cpu_operators import tensor_words

__all__ = ["can_decode", "decode"]

Int64Array = npt.NDArray[np.int64]
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_MAX_HEAD_DIM = 256


def can_decode(*tensors: Tensor | None) -> bool:
    """Whether the kernels may read these tensors: query, key, value first, then options.

    They compute no gradient and know real memory only: no `torch.compile`, no `torch.func`, no dispatch modes.
    """
    given = [x for x in tensors if x is not None]
    query, value = given[0], given[2]
    if (
        query.device.type != "cpu"
        or query.dtype not in _DTYPES
        or max(query.shape[-1], value.shape[-1]) > _MAX_HEAD_DIM
    ):
        return False
    if torch.is_grad_enabled() and any(x.requires_grad for x in given):
        return False
    if torch.compiler.is_compiling() or is_in_torch_dispatch_mode():
        return False
    if not all(type(x) in (Tensor, torch.nn.Parameter) for x in given):
        return False
    if torch._C._functorch.peek_interpreter_stack() is not None or not query.numel() or not value.numel():
        return False
    return absence() is None


def decode(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    visible: Sequence[Sequence[Int64Array]],
    *,
    scale: float,
    softcap: float | None,
    sink_logits: Tensor | None,
    alibi_slopes: Tensor | None,
    q_positions: Tensor | None,
    kv_positions: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Output `[batch, q_heads, 1, v_head_dim]` and lse `[batch, q_heads, 1]`.

    Args:
        query: `[batch, q_heads, 1, head_dim]`.
        key: `[batch, kv_heads, kv_len, head_dim]`.
        value: `[batch, kv_heads, kv_len, v_head_dim]`.
        visible: For each sequence, for each head (or once for all), distinct indices below `kv_len`.
        scale: Multiplies the scores.
        softcap: The cap, or None.
        sink_logits: `[q_heads]`, or None.
        alibi_slopes: `[batch or 1, q_heads]`, or None.
        q_positions: int `[batch]`, or None for `kv_len - 1`.
        kv_positions: int `[batch, kv_len]`, or None for the index.
    """
    native = kernels()
    batch, q_heads = query.shape[:2]
    lists, list_of = _distinct(visible, q_heads, q_heads // key.shape[1])
    options = [None if x is None else x.detach().float() for x in (sink_logits, alibi_slopes)]
    positions = [None if x is None else x.to(torch.int64).contiguous() for x in (q_positions, kv_positions)]
    output = torch.empty((batch, q_heads, 1, value.shape[-1]), dtype=query.dtype)
    lse = torch.empty((batch, q_heads, 1), dtype=torch.float32)
    settings = native.Options(
        scale=scale, softcap=softcap or 0.0, dropout_p=0.0, seed=0, threads=torch.get_num_threads(), poisoned=False
    )
    native.decode(
        chosen_isa(),
        [tensor_words(x) for x in (query, key, value, *options, output, lse)],
        [(keys.ctypes.data, len(keys)) for keys in lists],
        list_of,
        tuple(0 if x is None else x.data_ptr() for x in positions),
        settings,
    )
    return output, lse


def _distinct(visible: Sequence[Sequence[Int64Array]], q_heads: int, group: int) -> tuple[list[Int64Array], list[int]]:
    """The lists, and which of them each head of each sequence has: heads of a key head share equal ones."""
    lists: list[Int64Array] = []
    numbers: dict[int, int] = {}
    list_of: list[int] = []
    for of_heads in visible:
        own_numbers: list[int] = []
        for head, own in enumerate(of_heads):
            number = numbers.get(id(own))
            if number is None:
                beside = own_numbers[head - head % group :]
                number = next((n for n in beside if np.array_equal(lists[n], own)), len(lists))
            if number == len(lists):
                lists.append(own)
            numbers[id(own)] = number
            own_numbers.append(number)
        list_of += own_numbers if len(of_heads) > 1 else own_numbers * q_heads
    return lists, list_of
