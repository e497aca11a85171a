"""Tiny models, and the dense masked reference that a sparsified model is compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import openwork as ow

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.fixture
def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES)).eval()


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(3, 64, (2, 40), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def sizes() -> dict[str, Any]:
    return dict(SIZES)


@pytest.fixture
def pairs() -> Callable[[ow.Pattern, int], torch.Tensor]:
    def of(pattern: ow.Pattern, length: int) -> torch.Tensor:
        """Bool `[1, heads or 1, length, length]`: the definition, every pair asked."""
        return torch.from_numpy(ow.bind(pattern, q_len=length, kv_len=length).to_dense())

    return of


@pytest.fixture
def masked() -> Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]:
    def logits(model: Any, ids: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        """Of the dense model under a 4-D mask."""
        length = ids.shape[1]
        result: torch.Tensor = model(ids, attention_mask=allowed.expand(len(ids), -1, length, length)).logits
        return result

    return logits
