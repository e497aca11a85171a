"""What a micro-run asks of a model, whatever library it comes from."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from openwork.layout import BlockLayout
from openwork.plan import Plan
from openwork.study.shapes import LayerShape

__all__ = ["MASKED_BACKEND", "BenchModel", "Inputs", "Way", "dense_mask", "random_tokens", "sharing_copy"]

MASKED_BACKEND = "sdpa with a mask"
"""What computes the pairs of a plan where dense attention is given them as a mask."""

Inputs = Mapping[str, Tensor]
"""A batch: names of the model's arguments to tensors, `[batch, ...]`."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to compute the model: dense, with a mask, or sparse."""

    name: str
    """One of `DENSE`, `MASK`, `EAGER`, `SPARSE`."""
    module: nn.Module
    """The model; the ways of one model share their parameters."""
    loss: Callable[[Inputs], Tensor]
    """A number to differentiate, of a batch."""
    forward: Callable[[Inputs], Tensor]
    """What a prefill computes of a batch."""
    layouts: tuple[BlockLayout, ...]
    """The pairs of each attention layer, in order."""
    held_bytes: int
    """The mask or the layouts, in bytes."""
    compile_s: float
    """Time to compile the layouts or to make the mask, in seconds; no step repeats it."""
    backend: str
    """What computes attention."""


class BenchModel(ABC):
    """A model with weights, and the three ways to compute it.

    Attributes:
        title: What reports call it.
        weights: Where its numbers come from, in words.
        module: The model as it came, dense.
        causal: Whether a token sees none after it, whatever a plan says.
        shapes: Its self-attention layers, in the order in which a plan counts them.
        matrix_numbers: Numbers that every token is multiplied by, outside attention's own products.
        vocab_size: Number of token ids.
        most_tokens: Longest sequence that it reads; `None` where nothing limits it.
        generates: Whether it can continue a prompt.
    """

    title: str
    weights: str
    module: nn.Module
    causal: bool
    shapes: tuple[LayerShape, ...]
    matrix_numbers: int
    vocab_size: int
    most_tokens: int | None = None
    generates: bool = False

    @abstractmethod
    def inputs(self, batch_size: int, seq_len: int, seed: int) -> Inputs:
        """A batch of random tokens, the same for the same arguments."""

    @abstractmethod
    def dense(self, seq_len: int) -> Way:
        """All pairs that the model itself allows, by the fastest exact path that it has."""

    @abstractmethod
    def masked(self, plan: Plan, seq_len: int, *, eager: bool = False) -> Way:
        """The pairs of the plan, by dense attention that is given them as a mask; it keeps its scores if eager."""

    @abstractmethod
    def sparse(self, plan: Plan, seq_len: int, backend: str) -> Way:
        """The pairs of the plan, by openwork."""

    @abstractmethod
    def require_fits(self, plan: Plan) -> None:
        """Raises a `PlanError` where the plan does not fit the model."""

    @abstractmethod
    def to_double(self) -> BenchModel:
        """A copy that computes in float64."""

    def generate(self, way: Way, inputs: Inputs, new_tokens: int, seen: Callable[[], None]) -> None:
        """Continues the prompt greedily by `new_tokens` tokens; `seen` is called as each becomes known."""
        raise NotImplementedError

    @property
    def num_parameters(self) -> int:
        """Numbers in all parameters, each counted once."""
        return sum(parameter.numel() for parameter in self.module.parameters())


def sharing_copy(module: nn.Module) -> nn.Module:
    """A copy of a module with hooks and plans of its own, and the very parameters and buffers of the original.

    Examples:
        >>> layer = nn.Linear(2, 2)
        >>> copy = sharing_copy(layer)
        >>> copy is layer, copy.weight is layer.weight
        (False, True)
    """
    shared: dict[int, object] = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    made: nn.Module = copy.deepcopy(module, shared)
    return made


def dense_mask(layout: BlockLayout, device: torch.device) -> Tensor:
    """Bool `[batch or 1, heads or 1, q_len, kv_len]`, True = attend."""
    return torch.from_numpy(layout.to_dense()).to(device)


def random_tokens(vocab_size: int, batch_size: int, seq_len: int, seed: int) -> Tensor:
    """Token ids, int64 `[batch_size, seq_len]`, the same for the same arguments.

    Examples:
        >>> random_tokens(10, 1, 4, seed=0).equal(random_tokens(10, 1, 4, seed=0))
        True
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocab_size, (batch_size, seq_len), generator=generator)
