"""Training a sparsified model as people train: Trainer, checkpointing, accumulation, autocast, LoRA."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from architectures import LAYERS, Architecture, by_name
from inputs import DECODER_PLAN, batch, output, plan_for, sequences, tokens
from oracle import Oracle
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from openwork import hf
from openwork.testing import assert_no_worse_than

# transformers 6 will say activation_checkpointing; older versions know this name alone
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")

ROWS = [tokens(24, seed)[0] for seed in range(8)]


class LastLoss(Trainer):
    """A Trainer that reads its rows in their order."""

    def _get_train_sampler(self, *_: Any, **__: Any) -> torch.utils.data.Sampler:
        return torch.utils.data.SequentialSampler(ROWS)


def trained(model: nn.Module, folder: Any, **options: Any) -> nn.Module:
    """The model after three steps of plain gradient descent by `Trainer`."""
    settings = {"per_device_train_batch_size": 2, "max_steps": 3, "optim": "sgd", "learning_rate": 0.1, "seed": 1}
    settings |= {"use_cpu": True, "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1}
    arguments = TrainingArguments(str(folder), **{**settings, **options})
    rows = [{"input_ids": row, "labels": row} for row in ROWS]
    trainer = LastLoss(model, arguments, train_dataset=rows)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 3
    return model


def assert_trained_alike(model: nn.Module, reference: nn.Module, exact: nn.Module, before: nn.Module) -> None:
    """Asserts that every parameter is where the oracle's training put it, and that training moved them."""
    wanted, precise, first = (dict(one.named_parameters()) for one in (reference, exact, before))
    moved = 0.0
    for name, parameter in model.named_parameters():
        values = parameter, wanted[name], precise[name]
        assert_no_worse_than(*values, name=name, multiple=6.0, ulps=64.0)
        moved = max(moved, (parameter - first[name]).abs().max().item())
    assert moved > 1e-3


OPTIONS = {
    "plain": {},
    "checkpointing": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
    "reentrant checkpointing": {
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": True},
    },
    "accumulation": {"gradient_accumulation_steps": 2},
    "autocast": {"bf16": True},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_trainer_trains_the_masked_model(name, options, tmp_path):
    entry = by_name(name)
    before, plan = entry.build(), plan_for(entry)
    model = trained(hf.sparsify(entry.build(), plan), tmp_path, **options)
    reference, exact = (Oracle(before, plan, dtype, LAYERS).model for dtype in (torch.float32, torch.float64))
    trained(reference, tmp_path, **options)
    trained(exact, tmp_path, **{**options, "bf16": False})
    assert_trained_alike(model, reference, exact, before)


def gradients(model: nn.Module, ids: Tensor) -> dict[str, Tensor]:
    model.train()
    model.zero_grad()
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gpt_oss", "bert", "bart", "vit"])
def test_checkpointing_changes_no_bit_of_a_gradient(name, reentrant):
    entry = by_name(name)
    model = hf.sparsify(entry.build(), plan_for(entry))
    given = batch(entry, sequences(entry))
    plain = output_gradients(model, entry, given)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    if reentrant and hasattr(model, "enable_input_require_grads") and entry.kind != "vision":
        model.enable_input_require_grads()
    again = output_gradients(model, entry, given)
    assert plain.keys() == again.keys() and len(plain) > LAYERS
    largest = max(grad.abs().max().item() for grad in plain.values())
    for key in plain:
        if name == "bart" and reentrant:  # the encoder's gradients are added in another order, in the dense model too
            grads = again[key], plain[key], plain[key].double()
            assert_no_worse_than(*grads, name=key, ulps=64.0, magnitude=largest)
        else:
            assert again[key].equal(plain[key]), key


def output_gradients(model: nn.Module, entry: Architecture, given: dict[str, Any]) -> dict[str, Tensor]:
    model.train()
    model.zero_grad()
    torch.manual_seed(0)  # dropout included
    output(entry, model(**given)).square().sum().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_two_forward_passes_before_one_backward_keep_their_own_masks():
    """As in preference training: two batches of other padding, checkpointed, then one backward pass."""
    entry = by_name("llama")
    model = hf.sparsify(entry.build(), DECODER_PLAN).train()
    ids = torch.cat([tokens(24, 1), tokens(24, 2)])
    masks = torch.ones(2, 2, 24, dtype=torch.long)
    masks[0, 0, :9], masks[1, 1, :5] = 0, 0

    def grads(checkpointed: bool, together: bool) -> Tensor:
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        else:
            model.gradient_checkpointing_disable()
        model.zero_grad()
        losses = []
        for mask in masks:
            loss = (model(input_ids=ids, attention_mask=mask).logits * mask[..., None]).square().sum()
            losses.append(loss) if together else loss.backward()
        if together:
            sum(losses).backward()
        return model.model.layers[0].self_attn.q_proj.weight.grad.clone()

    separate, together = grads(False, False), grads(True, True)
    exact = separate.double()
    assert_no_worse_than(together, separate, exact, name="gradient of layer 0", ulps=32.0)


def lora(model: nn.Module) -> nn.Module:
    """The model with a LoRA of rank 2 on queries and values, its weights the same each time."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    generator = torch.Generator().manual_seed(7)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return wrapped


def test_a_lora_is_trained_on_the_masked_model():
    entry = by_name("llama")
    dense, ids = entry.build(), torch.cat([tokens(24, 1), tokens(24, 2)])
    sparse = lora(hf.sparsify(entry.build(), DECODER_PLAN))
    reference, exact = (
        lora(Oracle(dense, DECODER_PLAN, dtype, LAYERS).model) for dtype in (torch.float32, torch.float64)
    )
    exact.double()
    made, wanted, precise = (gradients(model, ids) for model in (sparse, reference, exact))
    assert made.keys() == wanted.keys() and all("lora" in name for name in made)
    for name in made:
        assert_no_worse_than(made[name], wanted[name], precise[name], name=name, multiple=6.0, ulps=64.0)
    for model in (sparse, reference):
        model.eval()
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    one = ids[:1]
    wrote = sparse.generate(input_ids=one, **options)
    assert wrote.equal(reference.generate(input_ids=one, **options, use_cache=False))
    merged = copy.deepcopy(sparse).merge_and_unload()
    with torch.no_grad():
        logits = [model(input_ids=one).logits for model in (merged, reference, exact.eval())]
    assert_no_worse_than(*logits, name="merged LoRA", multiple=6.0, ulps=64.0)
