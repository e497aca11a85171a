"""`make_optimizer`: Muon for matrices and AdamW for the rest, or AdamW for all, under one learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from openwork.errors import ArgumentError
from openwork.train.kinds import OPTIMIZERS

__all__ = ["Optimizers", "make_optimizer"]

_BETAS = (0.9, 0.95)
_MOMENTUM = 0.95


class Optimizers:
    """Several torch optimizers that step, save and load as one.

    Args:
        parts: Name to optimizer; each group's learning rate is the highest that it will have.

    Attributes:
        parts: The same.
    """

    def __init__(self, parts: Mapping[str, torch.optim.Optimizer]) -> None:
        self.parts = dict(parts)
        for group in self._groups():
            group["highest_lr"] = group["lr"]

    def _groups(self) -> Iterator[dict[str, Any]]:
        for part in self.parts.values():
            yield from part.param_groups

    def set_rate(self, share: float) -> None:
        """Every group's learning rate becomes this share of its highest."""
        for group in self._groups():
            group["lr"] = group["highest_lr"] * share

    def step(self) -> None:
        """One step of each."""
        for part in self.parts.values():
            part.step()

    def zero_grad(self) -> None:
        """Drops all gradients."""
        for part in self.parts.values():
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """The state of each, by name."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` gave.

        Raises:
            ArgumentError: The state is that of other optimizers.
        """
        if state.keys() != self.parts.keys():
            raise ArgumentError(
                f"the saved state is of {', '.join(sorted(state)) or 'no optimizer'}, but the optimizers here are "
                f"{', '.join(sorted(self.parts))}; make them with the kind that was saved."
            )
        for name, part in self.parts.items():
            part.load_state_dict(state[name])


def make_optimizer(
    model: nn.Module, kind: str = "muon", *, lr: float, matrix_lr: float, weight_decay: float = 0.1
) -> Optimizers:
    """The optimizer of a model's parameters.

    `muon` updates the weights of linear layers by `torch.optim.Muon` (Jordan et al. 2024: momentum, orthogonalised by
    Newton-Schulz steps, times `sqrt(max(1, rows / columns))`) and everything else - embeddings, vectors, short
    convolutions - by AdamW. A linear layer with as many outputs as an embedding has rows is an output layer and goes
    to AdamW too. `adamw` takes AdamW for all.

    Args:
        model: Its parameters that require a gradient are optimized.
        kind: One of `OPTIMIZERS`.
        lr: Highest learning rate of AdamW.
        matrix_lr: Highest learning rate of Muon; not used by `adamw`.
        weight_decay: Decoupled decay of linear layers and embeddings, times the learning rate; the rest has none.

    Raises:
        ArgumentError: The kind is unknown, or a rate is not positive and finite.

    Examples:
        >>> model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 8), nn.RMSNorm(8), nn.Linear(8, 10))
        >>> optimizer = make_optimizer(model, lr=1e-3, matrix_lr=2e-2)
        >>> {name: sum(len(group["params"]) for group in part.param_groups) for name, part in optimizer.parts.items()}
        {'muon': 1, 'adamw': 5}
    """
    if kind not in OPTIMIZERS:
        raise ArgumentError(f"optimizer must be one of {', '.join(OPTIMIZERS)}; got {kind!r}.")
    for name, value in (("lr", lr), ("matrix_lr", matrix_lr)):
        if not (math.isfinite(value) and value > 0):
            raise ArgumentError(f"{name} must be more than 0 and finite; got {value}.")
    hidden, decayed = _matrices(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if kind == "muon" and id(parameter) in hidden]
    taken = {id(parameter) for parameter in matrices}
    rest = [parameter for parameter in trained if id(parameter) not in taken]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in rest if id(p) in decayed], "weight_decay": weight_decay},
        {"params": [p for p in rest if id(p) not in decayed], "weight_decay": 0.0},
    ]
    parts: dict[str, torch.optim.Optimizer] = {}
    if matrices:
        parts["muon"] = torch.optim.Muon(
            matrices, lr=matrix_lr, weight_decay=weight_decay, momentum=_MOMENTUM, nesterov=True
        )
    if rest:
        parts["adamw"] = torch.optim.AdamW([group for group in groups if group["params"]], lr=lr, betas=_BETAS)
    return Optimizers(parts)


def _matrices(model: nn.Module) -> tuple[set[int], set[int]]:
    """Weights of linear layers between the model's ends, and all that decay, each by `id`."""
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    rows = {embedding.num_embeddings for embedding in embeddings}
    tied = {id(embedding.weight) for embedding in embeddings}
    hidden = {id(module.weight) for module in linear if module.out_features not in rows} - tied
    return hidden, {id(module.weight) for module in (*embeddings, *linear)}
