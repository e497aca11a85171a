"""Exact union of attention results over disjoint keys."""

from __future__ import annotations

import torch

from openwork.errors import ArgumentError
from openwork.ops.result import AttentionResult

__all__ = ["merge"]


def merge(*results: AttentionResult) -> AttentionResult:
    """Attention over the union of key sets, from the results over each of them.

    `lse = log(sum exp(lse_i))` and `output = sum exp(lse_i - lse) * output_i`: exact where the key sets are disjoint.
    A query that sees no key in any of them keeps output 0 and `lse` of `-inf`. Differentiable.

    The results must be without sink logits, which belong to a query's whole denominator: leave them out, merge, and
    multiply the output by `sigmoid(lse - sink)`.

    Args:
        results: One or more results for the same queries, `[batch, q_heads, q_len, v_head_dim]`.

    Raises:
        ArgumentError: There is nothing to merge, or the results are not for the same queries.

    Examples:
        >>> from openwork.ops import sparse_attention
        >>> q, k, v = (torch.randn(1, 2, 6, 8) for _ in range(3))
        >>> left = torch.arange(6) < 3
        >>> halves = [sparse_attention(q, k, v, columns.expand(6, 6)) for columns in (left, ~left)]
        >>> whole = sparse_attention(q, k, v, torch.ones(6, 6, dtype=torch.bool))
        >>> torch.allclose(merge(*halves).output, whole.output, atol=1e-6)
        True
    """
    if not results:
        raise ArgumentError("merge needs at least one result; got none.")
    for number, result in enumerate(results):
        if not isinstance(result, AttentionResult):
            raise ArgumentError(
                f"merge takes results of sparse_attention; argument {number} is {type(result).__name__}."
            )
        if result.output.shape != results[0].output.shape or result.output.dtype != results[0].output.dtype:
            raise ArgumentError(
                f"merge takes results for the same queries; output {number} is {list(result.output.shape)} "
                f"{result.output.dtype}, output 0 is {list(results[0].output.shape)} {results[0].output.dtype}."
            )
    if len(results) == 1:
        return results[0]
    parts = torch.stack([result.lse for result in results])
    empty = (parts == -torch.inf).all(dim=0)
    # the logsumexp of -inf alone has no gradient; where all is empty a 0 stands in
    base = torch.logsumexp(parts.masked_fill(empty, 0.0), dim=0)
    output = sum((result.lse - base).exp().unsqueeze(-1) * result.output.to(base.dtype) for result in results)
    assert isinstance(output, torch.Tensor)
    return AttentionResult(output.to(results[0].output.dtype), base.masked_fill(empty, -torch.inf))
