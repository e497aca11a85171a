"""`SparseAttention`: the attention layer of a model, with its projections."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from openwork.errors import ArgumentError, PlanError
from openwork.layout import BlockLayout
from openwork.nn.cache import AttentionCache
from openwork.nn.graph import attended
from openwork.nn.layouts import Facts, LayoutCache
from openwork.nn.pattern_layer import PatternLayer
from openwork.nn.rotary import RotaryTable, rotary_table, rotate
from openwork.ops import decode_attention
from openwork.patterns import Causal, Pattern

__all__ = ["SparseAttention"]

_NORM_EPS = 1e-6


class SparseAttention(PatternLayer, nn.Module):
    """Multi-head attention of a sequence to itself, over the pairs that a pattern allows and no others.

    Args:
        dim: Channels of the input and the output.
        q_heads: Number of query heads.
        kv_heads: Number of key and value heads, a divisor of `q_heads`; `None` for as many as query heads.
        head_dim: Channels per head; `None` for `dim // q_heads`.
        pattern: Which pairs may interact; a `PerHead` gives every query head its own. `set_plan` changes it later.
        rope_theta: Base of the rotary embedding's wavelengths; `None` for no position embedding.
        qk_norm: Whether each head's queries and keys are normalised, with a learned gain, before they are turned by
            their positions (Henry et al. 2020, "Query-Key Normalization"; RMSNorm as in Qwen3).
        qk_gain: What those gains start at: scores of unrelated tokens are spread by `qk_gain ** 2`, and none passes
            `qk_gain ** 2 * sqrt(head_dim)`. At 1 no key among thousands can stand out until the gains have grown.
        bias: Whether the projections have a bias.
        dropout_p: Probability that an allowed pair is dropped while training.
        backend: Which backend of `ops.sparse_attention` computes.

    Raises:
        PlanError: The head counts do not divide, the pattern has another number of heads, `dropout_p` is no chance, or
            `qk_gain` is not positive and finite.

    Examples:
        >>> from openwork.patterns import Causal, Window
        >>> layer = SparseAttention(64, q_heads=4, kv_heads=2, pattern=Causal() & Window(before=15))
        >>> layer(torch.zeros(1, 100, 64)).shape
        torch.Size([1, 100, 64])
    """

    takes_annotations = True

    def __init__(
        self,
        dim: int,
        *,
        q_heads: int,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        pattern: Pattern | None = None,
        rope_theta: float | None = 10_000.0,
        qk_norm: bool = False,
        qk_gain: float = 1.0,
        bias: bool = False,
        dropout_p: float = 0.0,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        kv_heads = q_heads if kv_heads is None else kv_heads
        if min(dim, q_heads, kv_heads) < 1 or q_heads % kv_heads:
            raise PlanError(f"kv_heads must divide q_heads; got q_heads={q_heads}, kv_heads={kv_heads}, dim={dim}.")
        if head_dim is None and dim % q_heads:
            raise PlanError(f"q_heads={q_heads} does not divide dim={dim}; say head_dim.")
        self.dim, self.q_heads, self.kv_heads = dim, q_heads, kv_heads
        self.head_dim = dim // q_heads if head_dim is None else head_dim
        if rope_theta is not None and self.head_dim % 2:
            raise PlanError(f"rotary embedding turns pairs of channels, so head_dim must be even; got {self.head_dim}.")
        if not 0.0 <= dropout_p < 1.0:
            raise PlanError(f"dropout_p must be 0 or more and less than 1; got {dropout_p}.")
        if not 0.0 < qk_gain < math.inf:
            raise PlanError(f"qk_gain is what gains start at, so it must be more than 0 and finite; got {qk_gain}.")
        self.rope_theta, self.dropout_p, self.backend = rope_theta, dropout_p, backend
        self.q_proj = nn.Linear(dim, q_heads * self.head_dim, bias=bias)
        self.kv_proj = nn.Linear(dim, 2 * kv_heads * self.head_dim, bias=bias)
        self.out_proj = nn.Linear(q_heads * self.head_dim, dim, bias=bias)
        self.q_norm = nn.RMSNorm(self.head_dim, eps=_NORM_EPS) if qk_norm else None
        self.k_norm = nn.RMSNorm(self.head_dim, eps=_NORM_EPS) if qk_norm else None
        for norm in (self.q_norm, self.k_norm):
            if norm is not None:
                nn.init.constant_(norm.weight, qk_gain)
        self._cache = LayoutCache()
        self.set_pattern(Causal() if pattern is None else pattern)

    def forward(
        self,
        hidden: Tensor,
        layout: BlockLayout | None = None,
        *,
        annotations: Facts | None = None,
        positions: Any = None,
        rotary: RotaryTable | None = None,
        cache: AttentionCache | None = None,
    ) -> Tensor:
        """What each token takes from the tokens it may see.

        Args:
            hidden: [batch, seq_len, dim].
            layout: Prepared for `seq_len` (see `prepare_layouts`), used in place of the layer's own pattern.
            annotations: Facts that the layer's pattern reads; one set, or one for each sequence. With a cache they
                speak of all tokens so far. Not used where a layout is given.
            positions: int [batch or 1, seq_len]; -1 is padding. By default 0, 1, 2, ..., with a cache from its length
                on.
            rotary: Angles of those positions where the caller has them; otherwise made here.
            cache: This layer's, from one call to the next: keys are those of all tokens so far, and a single token
                reads only those that it sees.

        Returns:
            [batch, seq_len, dim]. A token that may see nothing takes nothing: zeros before the output projection.

        Raises:
            ArgumentError: `hidden` has another shape.
            LayoutError: The layout was compiled for another length.
            AnnotationError: The pattern reads annotations that are not given.
        """
        if hidden.ndim != 3 or hidden.shape[-1] != self.dim:
            raise ArgumentError(f"hidden must be [batch, seq_len, dim={self.dim}]; got {list(hidden.shape)}.")
        batch, seq_len, _ = hidden.shape
        if positions is None and cache is not None:
            positions = torch.arange(len(cache), len(cache) + seq_len)[None]
        query = self.q_proj(hidden).view(batch, seq_len, self.q_heads, self.head_dim).transpose(1, 2)
        both = self.kv_proj(hidden).view(batch, seq_len, 2, self.kv_heads, self.head_dim)
        key, value = both.permute(2, 0, 3, 1, 4).unbind(0)
        if self.q_norm is not None and self.k_norm is not None:
            # under autocast the projections are low and the gains are high
            high, low = self.q_norm.weight.dtype, value.dtype
            query, key = self.q_norm(query.to(high)).to(low), self.k_norm(key.to(high)).to(low)
        if self.rope_theta is not None:
            if rotary is None:
                places = torch.arange(seq_len) if positions is None else torch.as_tensor(positions)
                rotary = rotary_table(places.to(hidden.device), self.head_dim, self.rope_theta)
            query, key = rotate(query, rotary), rotate(key, rotary)
        if cache is None:
            mixed = self.attend(query, key, value, self._own_layout(seq_len, annotations, positions, layout))
        else:
            mixed = self._attend_cached(query, key, value, cache, annotations, positions, layout)
        output: Tensor = self.out_proj(mixed.transpose(1, 2).reshape(batch, seq_len, -1))
        return output

    def _own_layout(
        self, seq_len: int, annotations: Facts | None, positions: Any, layout: BlockLayout | None
    ) -> BlockLayout:
        if layout is not None or isinstance(self.pattern, BlockLayout):
            return layout if layout is not None else cast(BlockLayout, self.pattern)
        return self._cache.layout(
            self.pattern, q_len=seq_len, kv_len=seq_len, annotations=annotations, kv_positions=positions
        )

    def _attend_cached(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cache: AttentionCache,
        annotations: Facts | None,
        positions: Any,
        layout: BlockLayout | None,
    ) -> Tensor:
        q_len = query.shape[2]
        places = np.atleast_2d(np.asarray(torch.as_tensor(positions).cpu(), dtype=np.int64))
        key, value = cache.append(key, value, places)
        rule = self.pattern_for(q_len, len(cache))
        if layout is not None or isinstance(rule, BlockLayout):
            return self.attend(query, key, value, layout if layout is not None else cast(BlockLayout, rule))
        if q_len == 1 and not (self.training and self.dropout_p):
            return decode_attention(query, key, value, cache.visible(rule, annotations)).output
        return self.attend(query, key, value, cache.layout(rule, q_len, annotations))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, layout: BlockLayout) -> Tensor:
        """The one operation, between the projections: whoever measures puts another way to compute it in its place.

        Args:
            query: [batch, q_heads, seq_len, head_dim], normalised and turned.
            key: [batch, kv_heads, kv_len, head_dim], likewise.
            value: [batch, kv_heads, kv_len, head_dim].
            layout: The pairs.

        Returns:
            [batch, q_heads, seq_len, head_dim].
        """
        dropout_p = self.dropout_p if self.training else 0.0
        return attended(query, key, value, layout, dropout_p=dropout_p, backend=self.backend)

    def extra_repr(self) -> str:
        """What `print(model)` adds: heads and pattern."""
        return f"q_heads={self.q_heads}, kv_heads={self.kv_heads}, pattern={self.pattern!r}, backend={self.backend!r}"
