"""A sparsified model on a GPU: what it computes and writes there is what it does on the CPU."""

from __future__ import annotations

import pytest
import torch
from architectures import by_name
from inputs import DECODER_PLAN, LENGTHS, padded, tokens

from openwork import hf

pytestmark = pytest.mark.gpu


def both(name: str):
    """The same sparsified model on the CPU and on the GPU, and a batch padded on the left."""
    entry = by_name(name)
    if entry.missing:
        pytest.skip("the running transformers has no such model")
    ids, mask = padded([tokens(length, seed) for seed, length in enumerate(LENGTHS)], "left")
    here, there = (hf.sparsify(entry.build().to(device), DECODER_PLAN) for device in ("cpu", "cuda"))
    return here, there, {"input_ids": ids, "attention_mask": mask}


def moved(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value.to("cuda") for key, value in inputs.items()}


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss"])
def test_logits_and_gradients_are_those_of_the_cpu(name):
    here, there, inputs = both(name)
    found = []
    for model, given in ((here, inputs), (there, moved(inputs))):
        kept = model(**given).logits[given["attention_mask"].bool()]
        kept.logsumexp(-1).sum().backward()
        found.append((kept.detach().cpu(), [p.grad.cpu() for p in model.parameters() if p.grad is not None]))
    (wanted, wanted_gradients), (own, gradients) = found
    torch.testing.assert_close(own, wanted, rtol=2e-4, atol=2e-5)
    for one, other in zip(gradients, wanted_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("cache", [None, "static"])
def test_generate_writes_what_it_writes_on_the_cpu(cache):
    here, there, inputs = both("llama")
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    wanted = here.generate(**inputs, **options, cache_implementation=cache)
    assert there.generate(**moved(inputs), **options, cache_implementation=cache).cpu().equal(wanted)


def test_bfloat16_stays_near_float32():
    here, there, inputs = both("llama")
    wanted = here(**inputs).logits
    with torch.autocast("cuda", torch.bfloat16):
        own = there(**moved(inputs)).logits.float().cpu()
    real = inputs["attention_mask"].bool()
    assert (own[real] - wanted[real]).norm() < 0.03 * wanted[real].norm()
