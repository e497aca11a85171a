"""What a study knows of the model that it trains: a value without torch, for records are read without it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from openwork.plan import Plan

__all__ = ["MODEL_SHAPES", "LayerShape", "ModelFacts", "ModelShape", "facts_of_shape"]


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """The shape of the model that every plan trains, apart from its vocabulary."""

    dim: int
    """Channels of the residual stream."""
    num_layers: int
    """Number of blocks."""
    q_heads: int
    """Number of query heads."""
    kv_heads: int
    """Number of key and value heads; a divisor of `q_heads`."""
    mlp_dim: int
    """Hidden channels of the feed-forward."""
    qk_norm: bool = True
    """Whether queries and keys are normalised."""
    qk_gain: float = 2.0
    """What the gains of queries and keys start at. At 1 no score passes `sqrt(head_dim)`, too little to single
    out one key of thousands, until they have grown (LOG.md, 2026-11-26)."""
    zero_outputs: bool = True
    """Whether every block starts as the identity."""
    conv_width: int = 4
    """Tokens, itself counted, that each token takes from in the short convolution before attention; 0 for none."""


MODEL_SHAPES: Mapping[str, ModelShape] = {
    "tiny": ModelShape(dim=64, num_layers=2, q_heads=2, kv_heads=1, mlp_dim=160),
    "small": ModelShape(dim=128, num_layers=4, q_heads=2, kv_heads=1, mlp_dim=352),
    "base": ModelShape(dim=384, num_layers=8, q_heads=6, kv_heads=2, mlp_dim=1024),
}
"""Shapes by name."""


@dataclass(frozen=True, kw_only=True)
class LayerShape:
    """The shape of one attention layer."""

    q_heads: int
    """Number of query heads."""
    kv_heads: int
    """Number of key and value heads."""
    head_dim: int
    """Channels per head."""


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What plans, masks, figures and pictures need to know of a model."""

    layers: tuple[LayerShape, ...]
    """Its attention layers, in the order of `model.modules()`."""
    matrix_numbers: int
    """Numbers in the matrices that every token is multiplied by, each 2 FLOPs forward and 4 backward."""
    num_parameters: int
    """Numbers in all its parameters, each counted once."""
    mixes: tuple[int, ...]
    """Tokens before each token that short convolutions bring in ahead of each attention layer, and after the last."""

    @property
    def num_layers(self) -> int:
        """Number of attention layers."""
        return len(self.layers)

    @property
    def heads(self) -> tuple[int, ...]:
        """The different numbers of query heads that its layers have; most models have one."""
        return tuple(sorted({layer.q_heads for layer in self.layers}))

    def check(self, plan: Plan) -> None:
        """Raises a `PlanError` where the plan does not fit the layers and heads."""
        for q_heads in self.heads:
            plan.check(self.num_layers, q_heads)

    def to_dict(self) -> dict[str, Any]:
        """The facts as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> ModelFacts:
        """The facts that `to_dict` wrote."""
        layers = tuple(LayerShape(**layer) for layer in content["layers"])
        return cls(**{**content, "layers": layers, "mixes": tuple(content["mixes"])})


def facts_of_shape(name: str, vocab_size: int) -> ModelFacts:
    """What is known of a shape of `MODEL_SHAPES` without making the model.

    >>> facts_of_shape("tiny", vocab_size=256).num_parameters
    103360
    """
    shape = MODEL_SHAPES[name]
    head_dim = shape.dim // shape.q_heads
    projections = 2 * shape.dim + 2 * shape.kv_heads * head_dim
    block = shape.dim * (projections + 3 * shape.mlp_dim + shape.conv_width)
    matrices = shape.num_layers * block + vocab_size * shape.dim
    gains = shape.num_layers * (2 * shape.dim + 2 * head_dim * shape.qk_norm) + shape.dim
    layer = LayerShape(q_heads=shape.q_heads, kv_heads=shape.kv_heads, head_dim=head_dim)
    return ModelFacts(
        layers=(layer,) * shape.num_layers,
        matrix_numbers=matrices,
        num_parameters=matrices + gains,
        mixes=(*(max(0, shape.conv_width - 1),) * shape.num_layers, 0),
    )
