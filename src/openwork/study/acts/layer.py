"""Act 4, continued: the pattern in a whole layer of a Hugging Face Llama, made sparse by `hf.sparsify`."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from statistics import median
from typing import Any

import torch
from torch import Tensor

from openwork.layout import BlockLayout
from openwork.ops import explain
from openwork.patterns import Annotations, Pattern
from openwork.study.acts.passes import interleaved
from openwork.study.acts.scale import DENSE, MASK, SPARSE, Progress, ScaleRow
from openwork.study.bench.figures import BACKWARD, kept_bytes
from openwork.study.bench.subject import dense_mask, random_tokens, sharing_copy
from openwork.study.model import matrix_numbers

__all__ = ["has_transformers", "measure_layer"]

_VOCABULARY = 256
_MATRIX_PASSES = 3
"""A matrix's forward pass and its backward pass, which is two products of the same size."""


def has_transformers() -> bool:
    """Whether there is a library to take the layer from."""
    return find_spec("transformers") is not None


def measure_layer(
    pattern: Pattern,
    notes: Annotations,
    layout: BlockLayout,
    *,
    heads: int = 8,
    head_dim: int = 64,
    rounds: int = 3,
    seconds: float = 20.0,
    device: str = "cpu",
    progress: Progress = lambda done, total, what: None,
) -> tuple[ScaleRow, ...]:
    """Times one Llama layer with its projections and feed-forward, forward and backward, three ways.

    Dense is transformers' own causal `sdpa`; the mask is a boolean `attention_mask` `[1, 1, length, length]`; sparse is
    the same weights after `hf.sparsify(model, pattern, annotate=...)`.

    Args:
        pattern: The pattern; it reads `notes`.
        notes: Facts about the tokens.
        layout: The pattern compiled over them; causal.
        heads: Number of query, key and value heads.
        head_dim: Channels of each.
        rounds: Most rounds; the first call of each way warms up and does not count.
        seconds: Time after which no further round begins.
        device: `cpu` or `cuda`.
        progress: Told before each pass.
    """
    length = layout.q_len
    model = _model(heads, head_dim, length).to(device)
    tokens = random_tokens(_VOCABULARY, 1, length, seed=length).to(device)
    calls = _calls(model, pattern, notes, dense_mask(layout, torch.device(device)), tokens)
    gradient = torch.ones(1, length, heads * head_dim, device=device)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def passing(forward: Callable[[], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(forward(), parameters, gradient)

    ways = {name: passing(forward) for name, forward in calls.items()}
    for compute in ways.values():
        # the first sparse call compiles its layout
        compute()
    total = rounds * len(ways)
    found = interleaved(
        ways,
        rounds=rounds,
        until=time.monotonic() + seconds,
        device=device,
        before=lambda done, name: progress(done, total, f"a Llama layer, {length:,} tokens: {name}"),
    )
    kept = kept_bytes(lambda inputs: calls[DENSE](), model, {"input_ids": tokens})
    held = kept + sum(parameter.nbytes for parameter in parameters)
    query = torch.empty(1, heads, length, head_dim, device=device)
    told = explain(query, query, query, layout)
    attention = (1 + BACKWARD) * told.useful_flops
    rest = 2.0 * _MATRIX_PASSES * matrix_numbers(model.layers, 0) * length
    ideal = (rest + attention * told.ideal) / (rest + attention)
    return tuple(
        ScaleRow(
            name=name,
            length=length,
            samples_s=tuple(passes.samples_s),
            extra_bytes=int(median(passes.extra)) if passes.extra else None,
            theory_bytes=held + (told.layout_bytes if name == SPARSE else 0),
            theory_speedup=ideal if name == SPARSE else 1.0,
            backend=told.backend if name == SPARSE else "sdpa",
        )
        for name, passes in found.items()
    )


def _model(heads: int, head_dim: int, length: int) -> Any:
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(length)
    width = heads * head_dim
    config = LlamaConfig(
        vocab_size=_VOCABULARY,
        hidden_size=width,
        intermediate_size=8 * width // 3,
        num_hidden_layers=1,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=length,
    )
    model = LlamaModel(config)
    model.eval()  # type: ignore[no-untyped-call]
    return model


def _calls(
    model: Any, pattern: Pattern, notes: Annotations, mask: Tensor, tokens: Tensor
) -> dict[str, Callable[[], Tensor]]:
    """Each way's forward pass, `[1, length, width]`; all with the same weights."""
    from openwork.hf import sparsify

    annotate = (lambda batch: notes) if pattern.needs else None
    sparse: Any = sparsify(sharing_copy(model), pattern, annotate)

    def call(module: Any, **options: Any) -> Callable[[], Tensor]:
        def forward() -> Tensor:
            hidden: Tensor = module(input_ids=tokens, use_cache=False, **options).last_hidden_state
            return hidden

        return forward

    return {DENSE: call(model), MASK: call(model, attention_mask=mask), SPARSE: call(sparse)}
