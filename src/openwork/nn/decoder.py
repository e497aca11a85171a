"""A small decoder: RMSNorm, rotary positions, grouped-query heads, SwiGLU, tied embeddings.

What helps it learn in few steps is optional: normalised queries and keys, outputs that start at zero, and a short
convolution before attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from openwork.errors import ArgumentError, LayoutError, PlanError
from openwork.layout import BlockLayout
from openwork.nn.attention import SparseAttention
from openwork.nn.convolution import ShortConvolution
from openwork.nn.layouts import Facts, LayoutCache, prepare_layouts
from openwork.nn.rotary import RotaryTable, rotary_table
from openwork.patterns import Causal, Pattern
from openwork.plan import Plan

__all__ = ["Decoder", "DecoderConfig"]

_INIT_STD = 0.02


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The shape of a `Decoder`."""

    vocab_size: int
    """Number of token ids."""
    dim: int = 256
    """Channels of the residual stream."""
    num_layers: int = 4
    """Number of blocks of attention and feed-forward."""
    q_heads: int = 4
    """Number of query heads."""
    kv_heads: int = 2
    """Number of key and value heads; a divisor of `q_heads`."""
    mlp_dim: int = 640
    """Hidden channels of the feed-forward."""
    rope_theta: float = 10_000.0
    """Base of the rotary embedding's wavelengths."""
    norm_eps: float = 1e-6
    """Added to the mean square before its root."""
    qk_norm: bool = False
    """Whether each head's queries and keys are normalised (RMSNorm with a learned gain) before they are turned by
    their positions, which bounds the scores. Henry et al. 2020; in this form Dehghani et al. 2023 and Qwen3."""
    qk_gain: float = 1.0
    """What the gains of `qk_norm` start at; see `SparseAttention`."""
    zero_outputs: bool = False
    """Whether `out_proj` and `down_proj` start at zero, so that every block starts as the identity. Zhang et al. 2019
    (Fixup), Bachlechner et al. 2020 (ReZero)."""
    conv_width: int = 0
    """Tokens, itself counted, that each token takes from in a `ShortConvolution` before attention; 0 for none. It
    carries information between neighbours whatever the plan says: count it when asking what can reach what."""

    def __post_init__(self) -> None:
        if self.conv_width < 0 or self.conv_width == 1:
            raise PlanError(
                f"DecoderConfig conv_width counts the token itself, so it is 2 or more, or 0 for no convolution; got "
                f"{self.conv_width}."
            )
        for name in ("vocab_size", "dim", "num_layers", "q_heads", "kv_heads", "mlp_dim"):
            if getattr(self, name) < 1:
                raise PlanError(f"DecoderConfig {name} must be 1 or more; got {getattr(self, name)}.")
        if self.dim % self.q_heads or self.q_heads % self.kv_heads:
            raise PlanError(
                f"DecoderConfig needs q_heads to divide dim and kv_heads to divide q_heads; got dim={self.dim}, "
                f"q_heads={self.q_heads}, kv_heads={self.kv_heads}."
            )


class _FeedForward(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(dim, hidden, bias=False)
        self.up_proj = nn.Linear(dim, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, dim, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        output: Tensor = self.down_proj(F.silu(self.gate_proj(hidden)) * self.up_proj(hidden))
        return output


class _Block(nn.Module):
    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.attention = SparseAttention(
            config.dim,
            q_heads=config.q_heads,
            kv_heads=config.kv_heads,
            rope_theta=config.rope_theta,
            qk_norm=config.qk_norm,
            qk_gain=config.qk_gain,
        )
        self.convolution = ShortConvolution(config.dim, config.conv_width) if config.conv_width else None
        self.mlp_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.mlp = _FeedForward(config.dim, config.mlp_dim)

    def forward(self, hidden: Tensor, layout: BlockLayout, positions: Any, rotary: RotaryTable) -> Tensor:
        mixed = self.attention_norm(hidden)
        if self.convolution is not None:
            mixed = self.convolution(mixed, positions)
        hidden = hidden + self.attention(mixed, layout, positions=positions, rotary=rotary)
        output: Tensor = hidden + self.mlp(self.mlp_norm(hidden))
        return output


class Decoder(nn.Module):
    """A causal language model whose layers take their patterns from a plan.

    Args:
        config: Its shape.
        plan: What each layer uses; dense (`Causal()`) by default. `set_plan` changes it later.

    Raises:
        PlanError: The plan does not fit the shape.

    Attributes:
        checkpointing: Whether the backward pass computes each block again instead of keeping what the forward pass
            made: less memory, about a third more time, equal results. Set it at any time.

    Examples:
        >>> from openwork.patterns import Causal, Window
        >>> model = Decoder(DecoderConfig(vocab_size=256, dim=32, num_layers=2), Causal() & Window(before=15))
        >>> model(torch.zeros(1, 64, dtype=torch.long)).shape
        torch.Size([1, 64, 256])
    """

    def __init__(self, config: DecoderConfig, plan: Plan | Pattern | None = None) -> None:
        super().__init__()
        self.config, self.checkpointing = config, False
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self._cache = LayoutCache()
        self._initialise()
        self.set_plan(Plan.of(Causal() if plan is None else plan))

    def _initialise(self) -> None:
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                # what is added to the residual stream starts small, so that depth does not set its scale
                added = name.endswith(("out_proj", "down_proj"))
                std = _INIT_STD * ((2 * self.config.num_layers) ** -0.5 if added else 1)
                # drawn in any case, so that what else is drawn does not depend on it
                nn.init.normal_(module.weight, std=std)
                if added and self.config.zero_outputs:
                    nn.init.zeros_(module.weight)

    @property
    def layers(self) -> tuple[SparseAttention, ...]:
        """The attention layers, lowest first."""
        return tuple(module for module in self.modules() if isinstance(module, SparseAttention))

    @property
    def num_plan_layers(self) -> int:
        """Layers that a plan of it speaks of."""
        return self.config.num_layers

    @property
    def num_parameters(self) -> int:
        """Number of trained numbers; the embedding, which is also the output layer, counts once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def set_plan(self, plan: Plan) -> None:
        """Uses the plan from the next call on; see `openwork.nn.set_plan`."""
        plan.check(self.config.num_layers, self.config.q_heads)
        for number, layer in enumerate(self.layers):
            layer.set_pattern(plan.for_layer(number, self.config.num_layers))
        self.plan = plan

    def set_backend(self, backend: str) -> None:
        """Computes attention with this backend of `ops.sparse_attention` from the next call on."""
        for layer in self.layers:
            layer.backend = backend

    def prepare(self, seq_len: int, *, annotations: Facts | None = None, positions: Any = None) -> list[BlockLayout]:
        """The layouts that `forward` would use, one for each layer; equal content is compiled once and kept."""
        return list(
            prepare_layouts(
                self.plan,
                self.config.num_layers,
                seq_len,
                annotations=annotations,
                positions=positions,
                cache=self._cache,
            )
        )

    def forward(
        self,
        tokens: Tensor,
        layouts: Sequence[BlockLayout] | None = None,
        *,
        annotations: Facts | None = None,
        positions: Any = None,
    ) -> Tensor:
        """Scores of every token id at every place, before softmax.

        Args:
            tokens: int [batch, seq_len].
            layouts: One for each layer, in place of the plan's own; see `prepare`.
            annotations: Facts that the plan's patterns read; not used where layouts are given.
            positions: int [batch or 1, seq_len]; -1 is padding. By default 0, 1, 2, ...

        Returns:
            [batch, seq_len, vocab_size].

        Raises:
            ArgumentError: `tokens` has another shape or type.
            LayoutError: There is not one layout for each layer, or one was compiled for another length.
            AnnotationError: The plan reads annotations that are not given.
        """
        hidden = self.embed(tokens, layouts, annotations=annotations, positions=positions)
        return F.linear(hidden, self.embedding.weight)

    def embed(
        self,
        tokens: Tensor,
        layouts: Sequence[BlockLayout] | None = None,
        *,
        annotations: Facts | None = None,
        positions: Any = None,
    ) -> Tensor:
        """The last layer's normalised output, [batch, seq_len, dim]; the arguments are those of `forward`."""
        if tokens.ndim != 2 or tokens.dtype.is_floating_point or tokens.dtype.is_complex or tokens.dtype == torch.bool:
            raise ArgumentError(f"tokens must be int [batch, seq_len]; got {tokens.dtype} {list(tokens.shape)}.")
        seq_len = tokens.shape[-1]
        if layouts is None:
            layouts = self.prepare(seq_len, annotations=annotations, positions=positions)
        if len(layouts) != len(self.blocks):
            raise LayoutError(f"the model has {len(self.blocks)} layers, but got {len(layouts)} layouts; one for each.")
        places = torch.arange(seq_len) if positions is None else torch.as_tensor(positions)
        head_dim = self.config.dim // self.config.q_heads
        rotary = rotary_table(places.to(tokens.device), head_dim, self.config.rope_theta)
        hidden = self.embedding(tokens)
        for block, layout in zip(self.blocks, layouts, strict=True):
            if self.checkpointing and torch.is_grad_enabled():
                hidden = checkpoint(block, hidden, layout, positions, rotary, use_reentrant=False)
            else:
                hidden = block(hidden, layout, positions, rotary)
        normalised: Tensor = self.norm(hidden)
        return normalised

    def token_losses(
        self,
        tokens: Tensor,
        targets: Tensor,
        layouts: Sequence[BlockLayout] | None = None,
        *,
        annotations: Facts | None = None,
    ) -> Tensor:
        """Negative log-likelihood of each target in nats, float32 (float64 for float64) [batch, seq_len].

        Args:
            tokens: int [batch, seq_len].
            targets: int [batch, seq_len], the token that follows each one.
            layouts: As in `forward`.
            annotations: As in `forward`.
        """
        logits = self(tokens, layouts, annotations=annotations)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
