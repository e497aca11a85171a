"""The native passes as torch operators: what autograd, `torch.compile` and `opcheck` see of them.

`variant` names the instruction set; `"avx512+poison"` also fills scratch memory with NaN before it is handed out, so
that a test sees whoever reads what nobody wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from openwork.errors import BackendError
from openwork.ops.backends.cpu_native import kernels

__all__ = ["attention", "attention_backward", "attention_forward", "tensor_words"]

_DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_ABSENT = (0,) * 10
_MASK64 = 2**64 - 1

TensorTuple = tuple[int, ...]


def tensor_words(x: Tensor | None) -> TensorTuple:
    """`(data pointer, 4 sizes, 4 strides, dtype)` as csrc/module.cpp reads it."""
    if x is None:
        return _ABSENT
    beyond = 4 - x.ndim
    return (x.data_ptr(), *x.shape, *(1,) * beyond, *x.stride(), *(0,) * beyond, _DTYPES[x.dtype])


def _run(name: str, variant: str, tensors: Sequence[Tensor | None], words: Tensor, options: dict[str, Any]) -> None:
    native = kernels()
    isa, _, poison = variant.partition("+")
    settings = native.Options(**options, threads=torch.get_num_threads(), poisoned=poison == "poison")
    # an address without elements is null, which would mean that the tensor is absent
    if all(x is None or x.numel() for x in tensors):
        getattr(native, name)(isa, [tensor_words(x) for x in tensors], (words.data_ptr(), words.numel()), settings)
        return
    raise BackendError(f"openwork::attention_{name} needs tensors with elements.")


def _options(scale: float, softcap: float, dropout_p: float, dropout_seed: int) -> dict[str, Any]:
    return {"scale": scale, "softcap": softcap, "dropout_p": dropout_p, "seed": dropout_seed & _MASK64}


def _results(query: Tensor, value: Tensor, keep_wide: bool) -> tuple[Tensor, Tensor, Tensor]:
    shape = (*query.shape[:3], value.shape[3])
    wide = keep_wide and query.dtype != torch.float32
    return (
        query.new_empty(shape),
        query.new_empty(shape[:3], dtype=torch.float32),
        query.new_empty(shape if wide else (0,), dtype=torch.float32),
    )


@torch.library.custom_op("openwork::attention_forward", mutates_args=(), device_types="cpu")
def attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sink_logits: Tensor | None,
    alibi_slopes: Tensor | None,
    words: Tensor,
    scale: float,
    softcap: float,
    dropout_p: float,
    dropout_seed: int,
    keep_wide: bool,
    variant: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, lse, and the output before it was rounded (empty for float32, or where nobody wants it)."""
    output, lse, wide = _results(query, value, keep_wide)
    tensors = [query, key, value, sink_logits, alibi_slopes, output, lse, wide if wide.numel() else None]
    _run("forward", variant, tensors, words, _options(scale, softcap, dropout_p, dropout_seed))
    return output, lse, wide


@attention_forward.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _results(query, value, keep_wide=rest[-2])


@torch.library.custom_op("openwork::attention_backward", mutates_args=(), device_types="cpu")
def attention_backward(
    grad_output: Tensor | None,
    grad_lse: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sink_logits: Tensor | None,
    alibi_slopes: Tensor | None,
    output: Tensor,
    lse: Tensor,
    words: Tensor,
    scale: float,
    softcap: float,
    dropout_p: float,
    dropout_seed: int,
    needed: Sequence[bool],
    variant: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, key, value, sink_logits and alibi_slopes; those that are not needed are empty."""
    inputs = query, key, value, sink_logits, alibi_slopes
    grads = _gradients(inputs, needed)
    tensors = [*inputs, grad_output, grad_lse, output, lse, *(grad if grad.numel() else None for grad in grads)]
    _run("backward", variant, tensors, words, _options(scale, softcap, dropout_p, dropout_seed))
    return _summed(grads, inputs)


@attention_backward.register_fake
def _(grad_output: Any, grad_lse: Any, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    inputs = rest[:5]
    return _summed(_gradients(inputs, rest[-2]), inputs)


def _gradients(inputs: Sequence[Tensor | None], needed: Sequence[bool]) -> list[Tensor]:
    """Unwritten memory for the gradients; those of the options are by sequence and head."""
    query = inputs[0]
    assert query is not None
    none = query.new_empty((0,))
    grads = [
        torch.empty(x.shape, dtype=x.dtype, device=x.device) if want and x is not None else none.clone()
        for x, want in zip(inputs[:3], needed, strict=False)
    ]
    heads = query.shape[:2]
    grads += [
        query.new_empty(heads, dtype=torch.float32) if want and x is not None else none.clone()
        for x, want in zip(inputs[3:], needed[3:], strict=True)
    ]
    return grads


def _summed(grads: list[Tensor], inputs: Sequence[Tensor | None]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    query, key, value, sink, slopes = grads
    if sink.numel():
        sink = sink.sum(dim=0)
    given = inputs[4]
    if slopes.numel() and given is not None and given.shape[0] == 1 and slopes.shape[0] > 1:
        slopes = slopes.sum(dim=0, keepdim=True)
    return query, key, value, sink, slopes


def _called(function: Any) -> Callable[..., Any]:
    """The function; what torch declares of it is nothing, or too much."""
    return function  # type: ignore[no-any-return]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, words, scale, softcap, dropout_p, dropout_seed, _, variant = inputs
    ctx.set_materialize_grads(False)
    ctx.options = scale, softcap, dropout_p, dropout_seed
    ctx.variant = variant
    ctx.mark_non_differentiable(output[2])
    result, lse, wide = output
    # the backward pass subtracts numbers of like size: it needs the output before it is rounded
    ctx.save_for_backward(*tensors, words, wide if wide.numel() else result, lse)


def _backward(
    ctx: Any, grad_output: Tensor | None, grad_lse: Tensor | None, *_: Any, run: Callable[..., Any] = attention_backward
) -> tuple[Any, ...]:
    *tensors, words, output, lse = ctx.saved_tensors
    nothing = (None,) * 7
    if grad_output is None and grad_lse is None:
        return (None,) * 5 + nothing
    needed = list(ctx.needs_input_grad[:5])
    grads = run(grad_output, grad_lse, *tensors, output.float(), lse, words, *ctx.options, needed, ctx.variant)
    return (*(grad if want else None for grad, want in zip(grads, needed, strict=True)), *nothing)


def _no_double_backward(ctx: Any, *_: Any) -> None:
    raise BackendError("backend 'cpu' has no double backward; name backend='reference', which has.")


def _no_vmap(info: Any, in_dims: Any, *_: Any) -> None:
    raise BackendError("backend 'cpu' does not run under torch.vmap; batch is the first dimension of query.")


class _Attention(torch.autograd.Function):
    """The operators for `torch.func`, which does not see through what torch.library registers."""

    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        return _called(attention_forward)(*inputs)  # type: ignore[no-any-return]

    setup_context = staticmethod(_setup_context)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        return _backward(ctx, *grads, run=_called(_AttentionBackward.apply))

    vmap = staticmethod(_no_vmap)


class _AttentionBackward(torch.autograd.Function):
    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, ...]:
        return _called(attention_backward)(*inputs)  # type: ignore[no-any-return]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        return None

    backward = staticmethod(_no_double_backward)
    vmap = staticmethod(_no_vmap)


def attention(*inputs: Any, by_function: bool) -> tuple[Tensor, Tensor, Tensor]:
    """`attention_forward`; `by_function` differentiable under `torch.func` too, which costs time where nobody asks."""
    run = _Attention.apply if by_function else attention_forward
    return _called(run)(*inputs)  # type: ignore[no-any-return]


attention_forward.register_autograd(_backward, setup_context=_setup_context)
attention_backward.register_autograd(_no_double_backward, setup_context=lambda ctx, inputs, output: None)
attention_forward.register_vmap(_no_vmap)
attention_backward.register_vmap(_no_vmap)
