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


@pytest.fixture
def headed(ids: torch.Tensor) -> torch.Tensor:
    ids = ids.clone()
    ids[ids == 7] = 8
    ids[0, [2, 17]], ids[1, [9, 30]] = 7, 7
    return ids


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: number for number, piece in enumerate(["<pad>", "<s>", "</s>", *alphabet])}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
    )


@pytest.fixture
def reader(sizes: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**sizes, "vocab_size": 300})).eval()
