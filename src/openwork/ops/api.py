"""The one operation."""

from __future__ import annotations

import torch
from torch import Tensor

from openwork.layout.data import BlockLayout
from openwork.ops.prepared import PreparedLayout, attend_prepared
from openwork.ops.registry import as_given, choose
from openwork.ops.result import AttentionResult
from openwork.ops.validation import (
    check_alibi_slopes,
    check_numbers,
    check_qkv,
    check_sink_logits,
    make_call,
)

__all__ = ["sparse_attention"]


def sparse_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: BlockLayout | Tensor | PreparedLayout,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    sink_logits: Tensor | None = None,
    alibi_slopes: Tensor | None = None,
    dropout_p: float = 0.0,
    dropout_seed: int | None = None,
    backend: str = "auto",
) -> AttentionResult:
    """Softmax attention over the pairs a layout allows, and no others.

    Every backend computes this one function; `backend` changes speed and rounding, never which keys a query sees::

        s      = softcap(scale * q.k) - slope * |q_pos - kv_pos|      for allowed pairs
        lse    = logsumexp(s)
        p      = exp(s - lse) * sigmoid(lse - sink) * keep / (1 - dropout_p)
        output = sum p v

    A query that sees no key gets output 0 and `lse` of `-inf`, and every gradient that passes through it is 0. Keys
    that no query sees, and queries that see no key, may hold anything, NaN included. A finite change to a key or
    value changes no bit of the result or gradient of a query that may not see it.

    Args:
        query: `[batch, q_heads, q_len, head_dim]`.
        key: `[batch, kv_heads, kv_len, head_dim]`. `kv_heads` must divide `q_heads`; query head `h` reads key head
            `h // (q_heads // kv_heads)`.
        value: `[batch, kv_heads, kv_len, v_head_dim]`.
        layout: Compiled for this `q_len` and `kv_len`; or a boolean tensor, True = attend, `[q_len, kv_len]`,
            `[q_heads, q_len, kv_len]` or `[batch, q_heads, q_len, kv_len]` (`BlockLayout.from_mask` does the same
            once instead of at every call). `openwork.ops.prepare(layout)` is for `torch.compile(fullgraph=True)`.
        scale: Multiplies the scores before softmax. Defaults to `head_dim ** -0.5`.
        softcap: `cap` of `cap * tanh(score / cap)`, more than 0; None for no cap.
        sink_logits: `[q_heads]`, a learned logit in each query's denominator that carries no value.
        alibi_slopes: `[q_heads]` or `[batch, q_heads]`, multiplies the distance of positions (those of the layout).
        dropout_p: Chance that a pair is dropped after softmax; 0 or more, less than 1.
        dropout_seed: Which pairs are dropped, by the stated hash of `(dropout_seed, batch, q_head, q_idx, kv_idx)`:
            equal on every backend and device. None draws a seed from torch's default generator.
        backend: `"auto"` takes the fastest that supports the call. A named backend runs or raises; it is never
            replaced by another.

    Returns:
        Output and log-sum-exp. Both are always present and differentiable.

    Raises:
        ArgumentError: A tensor or an option has a shape, type or value that does not fit.
        LayoutError: `layout` was compiled for other lengths, sequences or heads.
        BackendError: The named backend, or under `"auto"` every backend, refused the call.

    Examples:
        >>> import torch
        >>> query, key, value = torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 2, 4), torch.tensor([[[[1.0], [3.0]]]])
        >>> mask = torch.tensor([[True, False], [True, True]])
        >>> result = sparse_attention(query, key, value, mask)
        >>> result.output.flatten().tolist()
        [1.0, 2.0]
        >>> [round(x, 3) for x in result.lse.flatten().tolist()]
        [0.0, 0.693]
    """
    if isinstance(layout, PreparedLayout):
        if torch.compiler.is_compiling():
            check_qkv(query, key, value)
            sink_logits, alibi_slopes = check_sink_logits(sink_logits, query), check_alibi_slopes(alibi_slopes, query)
            numbers = check_numbers(query, scale, softcap, dropout_p, dropout_seed)
            options = sink_logits, alibi_slopes
            return AttentionResult(*attend_prepared(query, key, value, layout, options, numbers, backend))
        layout = layout.layout
    call = make_call(
        query,
        key,
        value,
        layout,
        scale=scale,
        softcap=softcap,
        sink_logits=sink_logits,
        alibi_slopes=alibi_slopes,
        dropout_p=dropout_p,
        dropout_seed=dropout_seed,
    )
    with as_given(query.device):
        return AttentionResult(*choose(call, backend).run(call))
