"""The attention function and the mask function, registered under one name: never one without the other.

A custom attention function without its mask function is handed no mask at all, and a causal model silently becomes
bidirectional.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from openwork.errors import ArgumentError, BackendError, PlanError
from openwork.hf.calls import current_facts
from openwork.hf.mask import LazyMask
from openwork.hf.own import OwnMask, conjuncts, read_mask_function
from openwork.hf.positions import Surroundings
from openwork.hf.prompt import current_prompt
from openwork.hf.state import NAME, LayerState, layer_state
from openwork.layout import BlockLayout, documents_from_positions
from openwork.ops import decode_attention, sparse_attention
from openwork.patterns import Causal, Dense, Pattern, PerHead
from openwork.patterns.annotations import BoolArray

__all__ = ["attention", "mask", "register"]

_META = (
    "the model is on meta, which holds no values, and which keys are read depends on them (padding, the plan's facts). "
    "Load its weights, or move it with model.to_empty(device='cpu')."
)
_REFUSED = {
    "position_bias": "a bias for every pair",
    "indices": "keys that the model chooses itself",
    "block_indices": "blocks that the model chooses itself",
    "head_mask": "a factor for every head",
}


def register() -> None:
    """Makes the name known to transformers; done by `import openwork.hf`."""
    # dynamo cannot trace a tensor subclass being made, and would build the layout into its graph
    AttentionInterface.register(NAME, torch.compiler.disable(attention))
    AttentionMaskInterface.register(NAME, torch.compiler.disable(mask))


def mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: Any = None,
    attention_mask: Tensor | None = None,
    use_vmap: bool = False,
    device: torch.device | str = "cpu",
    **_: Any,
) -> LazyMask:
    """What transformers calls once for each kind of layer: the model's own mask, not yet as pairs.

    Args:
        batch_size: Sequences.
        q_length: Queries.
        kv_length: Keys, unwritten slots of a static cache among them.
        q_offset: Tokens before the first query.
        kv_offset: Tokens before the first key.
        mask_function: `mask_function(batch, head, q_idx, kv_idx)`.
        attention_mask: bool `[batch, tokens]`, False for padding.
        use_vmap: Whether the function answers for single pairs only.
        device: Where the mask is.

    Raises:
        ArgumentError: `attention_mask` has another number of rows than there are sequences.
    """
    # a static cache counts this tensor up in place before the attention function runs
    first = int(q_offset)
    if torch.device(device).type == "meta":
        raise ArgumentError(_META)
    own = read_mask_function(mask_function, single=use_vmap)
    stop = min(kv_offset + kv_length, first + q_length) if own.of_decoder else kv_offset + kv_length
    make_pairs = partial(
        sdpa_mask,
        batch_size=batch_size,
        q_length=q_length,
        kv_length=kv_length,
        q_offset=first,
        kv_offset=kv_offset,
        mask_function=mask_function,
        attention_mask=attention_mask,
        allow_is_causal_skip=False,
        allow_is_bidirectional_skip=False,
        use_vmap=use_vmap,
        device=device,
    )
    valid = _valid(attention_mask, batch_size, stop)
    documents = None if own.positions is None else documents_from_positions(own.positions)
    surroundings = Surroundings(
        batch=batch_size,
        q_len=q_length,
        kv_len=stop - kv_offset,
        kv_start=kv_offset,
        own=own,
        valid=None if valid is None or _is_behind(own, valid) else valid,
        facts=current_facts(batch_size, stop, valid, documents),
        cached=first > 0,
        prompt=current_prompt(),
        make_pairs=make_pairs,
    )
    return LazyMask(surroundings, kv_length, device)


def _is_of_pairs(mask: BoolArray) -> bool:
    """Whether a square mask, for a batch of as many rows, says which pairs may talk: padding stands at ends of rows."""
    if len(mask) < 4 or mask.shape[0] != mask.shape[1] or not mask.diagonal().all():
        return False
    inside = (~mask[:, 0] & ~mask[:, -1]).any()
    holes = (np.abs(np.diff(mask.astype(np.int8), axis=1)).sum(axis=1) > 1).any()
    return bool(inside or holes or not np.triu(mask, 1).any())


def _is_behind(own: OwnMask, valid: BoolArray) -> bool:
    """Whether all padding stands behind text that cannot see it: then all rows of a length share one layout."""
    causal = any(isinstance(part, Causal) for part in conjuncts(own.pattern))
    return causal and not (valid[:, 1:] & ~valid[:, :-1]).any()


def _valid(attention_mask: Tensor | None, batch: int, stop: int) -> Any:
    """Bool `[batch, stop]`, or None where no token is padding."""
    if attention_mask is None:
        return None
    if attention_mask.ndim != 2:
        raise ArgumentError(
            f"attention_mask has shape {list(attention_mask.shape)}; give [batch, tokens] for padding, or [batch, 1, "
            "q_len, kv_len] for pairs."
        )
    rows, columns = attention_mask.shape
    square = ""
    if rows == columns:
        square = " A boolean tensor [q, k] of allowed pairs is a plan: openwork.hf.sparsify(model, mask)."
    if rows != batch:
        raise ArgumentError(
            f"attention_mask is [{rows}, {columns}], but the batch has {batch} sequences; it says which tokens are no "
            f"padding, [batch, tokens].{square}"
        )
    array = attention_mask.detach().cpu().numpy().astype(np.bool_)[:, :stop]
    if rows == columns and _is_of_pairs(array):
        raise ArgumentError(
            f"attention_mask is [{rows}, {columns}] and reads like pairs of tokens, not like padding of {batch} rows: "
            f"row i has token i, and rows begin and end anywhere.{square}"
        )
    if array.shape[1] < stop:
        array = np.pad(array, ((0, 0), (0, stop - array.shape[1])))
    return None if array.all() else array


def attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in every attention layer.

    Args:
        module: The layer, on which `sparsify` left its pattern.
        query: `[batch, q_heads, q_len, head_dim]`.
        key: `[batch, kv_heads, kv_len, head_dim]`.
        value: `[batch, kv_heads, kv_len, v_head_dim]`.
        attention_mask: What `mask` returned; a 4-D mask of the user's; or None, where the model makes none.
        scaling: Multiplies the scores.
        dropout: Chance that a pair is dropped.
        is_causal: Whether a layer without a mask hides later keys; the module says it otherwise.
        softcap: Cap of the scores.
        s_aux: `[q_heads]`, a logit of each head that carries no value (gpt-oss).
        kwargs: What other attention functions read; what would change the result is refused.

    Returns:
        `[batch, q_len, q_heads, v_head_dim]`, and None for the probabilities, which are never built.

    Raises:
        PlanError: The layer has no plan, or the plan is for another number of heads.
        ArgumentError: A 4-D mask that is no mask but a bias.
        BackendError: An argument that sparse attention cannot honour.
    """
    state = layer_state(module)
    if state.pattern is None:
        return _dense(module, query, key, value, attention_mask, scaling, dropout, is_causal, softcap, s_aux, kwargs)
    for name, what in _REFUSED.items():
        if kwargs.get(name) is not None:
            raise BackendError(f"{state.path} is given {name}, {what}, which sparse attention cannot honour.")
    if kwargs.get("cache") is not None:
        raise BackendError(f"{state.path} is given a paged cache (continuous batching), which is not supported.")
    if query.is_meta:
        raise ArgumentError(_META)
    query, key, value = _as_autocast(query, key, value)
    surroundings, extra = _surroundings(state, query, key, attention_mask, is_causal)
    state.own = surroundings.own.pattern
    key, value = key[:, :, : surroundings.kv_len], value[:, :, : surroundings.kv_len]
    options: dict[str, Any] = {"scale": scaling, "softcap": softcap, "sink_logits": s_aux, "dropout_p": float(dropout)}
    attend = partial(_attend, state, key=key, value=value, options=options)
    q_len, generated = surroundings.q_len, surroundings.num_generated(state.model)
    if state.decode_pattern in (None, state.pattern) or not generated:
        output = attend(surroundings, state.pattern, query, pairs=extra)
    elif generated == q_len:
        output = attend(surroundings, state.decode_pattern, query, pairs=extra)
    else:
        # the end of a prompt and candidates of assisted decoding in one call
        first = q_len - generated
        last = None if extra is None else extra[:, :, first:]
        parts = (
            attend(surroundings, state.pattern, query, pairs=extra)[:, :, :first],
            attend(surroundings.of_last(generated), state.decode_pattern, query[:, :, first:], pairs=last),
        )
        output = torch.cat(parts, dim=2)
    return output.transpose(1, 2).contiguous(), None


def _attend(
    state: LayerState,
    surroundings: Surroundings,
    pattern: Pattern,
    query: Tensor,
    *,
    key: Tensor,
    value: Tensor,
    pairs: Tensor | None,
    options: dict[str, Any],
) -> Tensor:
    """Attention of the last tokens under one pattern, `[batch, q_heads, q_len, v_head_dim]`."""
    _check_heads(pattern, query, state)
    single = surroundings.cached and surroundings.q_len == 1
    if pairs is not None:
        layout = _and_pairs(surroundings, pattern, state, pairs)
    elif single and options["dropout_p"] == 0.0 and (visible := _few(surroundings, pattern)) is not None:
        scale = {name: option for name, option in options.items() if name != "dropout_p"}
        return decode_attention(query, key, value, visible, **scale).output
    else:
        layout = surroundings.layout(pattern, state.model.cache)
    return sparse_attention(query, key, value, layout, backend=state.model.backend, **options).output


def _few(surroundings: Surroundings, pattern: Pattern) -> list[list[Any]] | None:
    """The keys that a single new token sees; None where they are all keys, which are read faster where they lie."""
    visible = surroundings.visible(pattern)
    if all(len(keys) == surroundings.kv_len for heads in visible for keys in heads):
        return None
    return visible


def _surroundings(
    state: LayerState, query: Tensor, key: Tensor, attention_mask: Tensor | None, is_causal: bool | None
) -> tuple[Surroundings, Tensor | None]:
    """What is known of the tokens, and the pairs that a mask of the user's allows where there is one."""
    if isinstance(attention_mask, LazyMask):
        return attention_mask.surroundings, None
    q_len, kv_len = query.shape[2], key.shape[2]
    causal = q_len > 1 and attention_mask is None and (state.causal if is_causal is None else is_causal)
    surroundings = Surroundings(
        batch=query.shape[0],
        q_len=q_len,
        kv_len=kv_len,
        kv_start=0,
        own=OwnMask(Causal() if causal else Dense()),
        facts=current_facts(query.shape[0], kv_len),
        cached=kv_len > q_len,
        prompt=current_prompt(),
    )
    return surroundings, None if attention_mask is None else _pairs(attention_mask, key, state)


def _pairs(attention_mask: Tensor, key: Tensor, state: LayerState) -> Tensor:
    """A 4-D mask as booleans, True = attend."""
    if attention_mask.ndim != 4:
        raise ArgumentError(
            f"{state.path} is given a mask of shape {list(attention_mask.shape)}; give [batch, tokens] for padding or "
            "[batch, 1, q_len, kv_len] for pairs."
        )
    attention_mask = attention_mask[..., : key.shape[2]]
    if attention_mask.dtype == torch.bool:
        return attention_mask
    hidden = attention_mask <= torch.finfo(attention_mask.dtype).min / 2 if attention_mask.is_floating_point() else None
    if hidden is None or bool((attention_mask.masked_fill(hidden, 0) != 0).any()):
        raise ArgumentError(
            f"{state.path} is given a 4-D mask of {attention_mask.dtype} that holds other values than 0 and the "
            "smallest: a bias, which sparse attention cannot honour. Give booleans, True = attend."
        )
    return ~hidden


def _and_pairs(surroundings: Surroundings, pattern: Pattern, state: LayerState, pairs: Tensor) -> BlockLayout:
    """The layout of the plan under a 4-D mask, which is of size q_len x kv_len already."""
    layout = surroundings.layout(pattern, state.model.cache)
    allowed = torch.from_numpy(np.array(layout.to_dense())) & pairs.detach().cpu()
    return BlockLayout.from_mask(allowed)


def _check_heads(pattern: Pattern, query: Tensor, state: LayerState) -> None:
    if isinstance(pattern, PerHead) and len(pattern.patterns) != query.shape[1]:
        raise PlanError(
            f"the plan has a PerHead of {len(pattern.patterns)} heads, but {state.path} has {query.shape[1]} query "
            "heads; give one pattern for each."
        )


def _as_autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in autocast's type, as torch's own attention would take them."""
    kind = tensors[0].device.type
    if torch.is_autocast_enabled(kind):
        return tuple(tensor.to(torch.get_autocast_dtype(kind)) for tensor in tensors)
    return tensors


def _dense(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None,
    dropout: float,
    is_causal: bool | None,
    softcap: float | None,
    s_aux: Tensor | None,
    kwargs: dict[str, Any],
) -> tuple[Tensor, None]:
    """A layer that the plan leaves alone (cross-attention), as torch's own attention computes it."""
    if isinstance(attention_mask, LazyMask):
        surroundings = attention_mask.surroundings
        if surroundings.own.bidirectional:
            valid = surroundings.valid
            attention_mask = None if valid is None else torch.from_numpy(valid)[:, None, None].to(query.device)
        else:
            attention_mask = attention_mask.pairs()
    if softcap is not None or s_aux is not None:
        # torch's own attention has neither; the model's eager function, which its file holds, has what its family needs
        extra = {"softcap": softcap, "s_aux": s_aux}
        options = {**kwargs, **{name: value for name, value in extra.items() if value is not None}}
        if attention_mask is not None and attention_mask.dtype == torch.bool:
            lowest = torch.finfo(query.dtype).min
            attention_mask = torch.zeros_like(attention_mask, dtype=query.dtype).masked_fill(~attention_mask, lowest)
        eager = sys.modules[type(module).__module__].eager_attention_forward
        return eager(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options)[0], None
    output: tuple[Tensor, None] = sdpa_attention_forward(
        module,
        query,
        key,
        value,
        attention_mask,
        dropout=dropout,
        scaling=scaling,
        is_causal=is_causal,
        softcap=softcap,
        **kwargs,
    )
    return output
