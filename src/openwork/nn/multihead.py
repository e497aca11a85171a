"""`SparseMultiheadAttention`: torch's `nn.MultiheadAttention`, its parameters and arguments, over a pattern's pairs."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openwork.errors import ArgumentError, PlanError
from openwork.layout import BlockLayout
from openwork.layout.additive import allowed_from_additive
from openwork.nn.graph import attended
from openwork.nn.narrow import LayoutMaker
from openwork.nn.pattern_layer import PatternLayer, Rule
from openwork.patterns import Causal, Pattern

__all__ = ["SparseMultiheadAttention"]


class SparseMultiheadAttention(PatternLayer, nn.MultiheadAttention):
    """`nn.MultiheadAttention` of a sequence to itself, over the pairs that a pattern allows and no others.

    Same arguments, parameters and state dict. What a query sees is the pattern AND `attn_mask` AND `is_causal` AND
    `key_padding_mask`, each in torch's own sense (True in a boolean mask is *masked*). Padding counts in no position,
    sees nothing and is seen by nobody. `replace_attention` turns the modules of a model into this one.

    `need_weights=True`, torch's default, gives `None` for the weights: they are `[q_len, kv_len]`, and nothing of that
    size is made.

    Args:
        embed_dim: As `nn.MultiheadAttention` takes it, like everything else that is not named here.
        num_heads: Likewise.
        pattern: Which pairs may interact; `Causal()` by default. `set_plan` changes it later.
        backend: Which backend of `ops.sparse_attention` computes.
        **options: The other arguments of `nn.MultiheadAttention`.

    Raises:
        PlanError: `add_bias_kv` or `add_zero_attn` is asked for, or the pattern does not fit.

    Examples:
        >>> from openwork.patterns import Causal, Window
        >>> layer = SparseMultiheadAttention(32, 4, batch_first=True, pattern=Causal() & Window(before=7))
        >>> hidden = torch.randn(2, 50, 32)
        >>> output, weights = layer(hidden, hidden, hidden)
        >>> output.shape, weights
        (torch.Size([2, 50, 32]), None)
        >>> dense = nn.MultiheadAttention(32, 4, batch_first=True)
        >>> dense.load_state_dict(layer.state_dict())
        <All keys matched successfully>
    """

    def __init__(
        self, embed_dim: int, num_heads: int, *, pattern: Pattern | None = None, backend: str = "auto", **options: Any
    ) -> None:
        super().__init__(embed_dim, num_heads, **options)
        self.prepare(Causal() if pattern is None else pattern, backend)

    def prepare(self, rule: Rule, backend: str) -> None:
        """What this class needs beside a dense module's own attributes.

        Args:
            rule: A pattern, or a layout that stands for one.
            backend: Which backend computes.

        Raises:
            PlanError: The module has keys that no token of the sequence is.
        """
        if self.bias_k is not None or self.add_zero_attn:
            raise PlanError(
                "add_bias_kv and add_zero_attn put keys beside the sequence that are no token of it, so no pattern "
                "speaks of them; make the module without them."
            )
        self.set_pattern(rule)
        self.backend, self._maker = backend, LayoutMaker()

    @property
    def _qkv_same_embed_dim(self) -> bool:
        # torch's encoder layer reads it to decide whether its fused kernel, which knows no pattern and calls no
        # submodule, may run in place of this module; there is no public switch for one layer. Before `prepare` torch's
        # constructor asks it which parameters there are
        return "_maker" not in self.__dict__ and bool(self.__dict__["_qkv_same_embed_dim"])

    @_qkv_same_embed_dim.setter
    def _qkv_same_embed_dim(self, value: bool) -> None:
        self.__dict__["_qkv_same_embed_dim"] = value

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        """What each token takes from the tokens that it may see.

        Args:
            query: `[seq_len, batch, embed_dim]`, with `batch_first` `[batch, seq_len, embed_dim]`, or `[seq_len,
                embed_dim]`.
            key: The same tensor: a pattern speaks of a sequence and itself.
            value: `[..., vdim]`, of the same tokens.
            key_padding_mask: `[batch, seq_len]`, True (or `-inf`) is padding.
            need_weights: Weights are `None` whatever it says.
            attn_mask: `[seq_len, seq_len]` or `[batch * num_heads, seq_len, seq_len]`, True is masked; or additive.
            average_attn_weights: Without weights it changes nothing.
            is_causal: No token sees a later one.

        Returns:
            The output, in the shape of `query`, and `None`.

        Raises:
            ArgumentError: `key` is another tensor than `query`, or a tensor is nested or of another shape.
            LayoutError: A mask is a bias, or does not fit.
        """
        _check(query, key, value)
        batched = query.ndim == 3
        steps_first = batched and not self.batch_first
        q, v = (x.transpose(0, 1) if steps_first else x if batched else x[None] for x in (query, value))
        q, k, v = self._projected(q, v)
        batch, _, seq_len, _ = q.shape
        layout = self._maker.layout(
            self.pattern,
            q_len=seq_len,
            kv_len=seq_len,
            is_causal=is_causal,
            mask=_allowed_pairs(attn_mask, self.num_heads),
            kv_valid=_valid_keys(key_padding_mask, batch, seq_len),
        )
        dropout_p = self.dropout if self.training else 0.0
        mixed = attended(q, k, v, layout, dropout_p=dropout_p, backend=self.backend)
        output = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return (output.transpose(0, 1) if steps_first else output if batched else output[0]), None

    def _projected(self, hidden: Tensor, value: Tensor) -> list[Tensor]:
        """Query, key and value heads, each `[batch, num_heads, seq_len, head_dim]`."""
        separate = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        weights = separate if self.in_proj_weight is None else self.in_proj_weight.chunk(3)
        biases = (None, None, None) if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        sources = (hidden, hidden, value)
        return [
            F.linear(source, weight, bias).unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
            for source, weight, bias in zip(sources, weights, biases, strict=True)
        ]

    def extra_repr(self) -> str:
        """What `print(model)` adds: the pattern."""
        shown = "from a mask" if isinstance(self.pattern, BlockLayout) else repr(self.pattern)
        return f"num_heads={self.num_heads}, pattern={shown}, backend={self.backend!r}"


def _check(query: Tensor, key: Tensor, value: Tensor) -> None:
    if query.is_nested:
        raise ArgumentError("SparseMultiheadAttention takes padded tensors with key_padding_mask, not nested ones.")
    same = query is key or (query.shape == key.shape and query.data_ptr() == key.data_ptr())
    if not same or query.ndim not in (2, 3) or value.shape[:-1] != query.shape[:-1]:
        raise ArgumentError(
            "SparseMultiheadAttention is attention of a sequence to itself: key must be the tensor query, and "
            "value its "
            f"tokens; got query {list(query.shape)}, key {list(key.shape)}, value {list(value.shape)}. Leave "
            "cross-attention dense: replace_attention(model, plan, skip=[its name])."
        )


def _allowed_pairs(attn_mask: Tensor | None, heads: int) -> Any:
    """Bool `[q_len, kv_len]` or `[batch, heads, q_len, kv_len]`, True = attend, from torch's inverted sense."""
    if attn_mask is None:
        return None
    allowed = ~attn_mask if attn_mask.dtype == torch.bool else attn_mask
    return allowed.unflatten(0, (-1, heads)) if allowed.ndim == 3 else allowed


def _valid_keys(key_padding_mask: Tensor | None, batch: int, seq_len: int) -> Any:
    """Bool `[batch, seq_len]`, or None where nothing is padding."""
    if key_padding_mask is None:
        return None
    if tuple(key_padding_mask.shape) not in {(batch, seq_len), (seq_len,)}:
        raise ArgumentError(
            f"key_padding_mask must be [batch={batch}, seq_len={seq_len}]; got {list(key_padding_mask.shape)}."
        )
    mask = ~key_padding_mask if key_padding_mask.dtype == torch.bool else key_padding_mask
    valid = allowed_from_additive(mask, "key_padding_mask").reshape(-1, seq_len)
    return None if valid.all() else valid
