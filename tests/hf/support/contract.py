"""What every sparsified architecture must do, as functions of one catalogue entry; each raises on the first miss."""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch
from architectures import AUDIO, DECODER, GRID, LAYERS, PAIR, VISION, Architecture, by_name
from inputs import batch, output, padded, plan_for, real, sequences
from oracle import Oracle
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutput

from openwork import Axis, Causal, First, Pattern, Plan, Window, hf
from openwork.testing import assert_no_worse_than

EXPERTS = ("mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss", "olmoe", "llama4_text", "deepseek_v3")
"""Families whose tokens share matrix products with others' tokens, in groups that the router makes anew."""
NEW_TOKENS = 7


@dataclass(frozen=True, eq=False)
class Case:
    """An architecture, dense and sparsified, with its oracles."""

    entry: Architecture
    model: nn.Module
    sparse: nn.Module
    reference: Oracle
    exact: Oracle

    @classmethod
    def of(cls, entry: Architecture, plan: Plan | Pattern | None = None) -> Case:
        """Builds the model twice from one seed and sparsifies one of them."""
        model, plan = entry.build(), plan_for(entry) if plan is None else plan
        layers = 1 if entry.name == "albert" else LAYERS
        oracles = [Oracle(model, plan, dtype, layers) for dtype in (torch.float32, torch.float64)]
        return cls(entry, model, hf.sparsify(entry.build(), plan), *oracles)

    def compare(self, made: Tensor, given: dict[str, Any], name: str) -> None:
        """Asserts that `made` `[length, width]` is what the oracle computes for this one sequence."""
        with torch.no_grad():
            reference = output(self.entry, self.reference(**given))[0]
            exact = output(self.entry, self.exact(**doubled(given)))[0]
        assert_no_worse_than(made, reference, exact, name=f"{self.entry.name}: {name}", multiple=4.0, ulps=16.0)


@lru_cache(maxsize=2)
def _case(name: str) -> Case:
    return Case.of(by_name(name))


def case(entry: Architecture) -> Case:
    """The case of an entry of the catalogue, built once while its tests run."""
    return _case(entry.name)


@cache
def _goes_through(name: str) -> bool:
    entry = by_name(name)
    oracle = Oracle(entry.build(), plan_for(entry), torch.float32, 1 if name == "albert" else LAYERS)
    with torch.no_grad():
        oracle(**sequences(entry)[0])
    return bool(oracle.seen)


def goes_through(entry: Architecture) -> bool:
    """Whether the dense model calls the attention interface: asked of the model, not of openwork."""
    return _goes_through(entry.name)


def doubled(given: dict[str, Any]) -> dict[str, Any]:
    """The inputs in float64 where they are floating-point numbers."""
    return {name: value.double() if value.is_floating_point() else value for name, value in given.items()}


def accepted(model: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs without `position_ids`, where the model takes none and counts by the attention mask."""
    if "position_ids" in inspect.signature(model.forward).parameters:
        return inputs
    return {name: value for name, value in inputs.items() if name != "position_ids"}


def sides(entry: Architecture) -> tuple[str, ...]:
    """The sides on which a batch of this architecture may be padded."""
    return ("right", "left") if entry.kind == DECODER and entry.left_padding else ("right",)


def check_values(entry: Architecture) -> None:
    """A padded batch gives, row by row, what the oracle gives for the bare sequence; and it is not dense."""
    tried, given = case(entry), sequences(entry)
    for side in sides(entry):
        with torch.no_grad():
            made = output(entry, tried.sparse(**accepted(tried.sparse, batch(entry, given, side))))
        for row, one in enumerate(given):
            tried.compare(real(entry, made, row, one, side), one, f"sequence {row} of a batch padded on the {side}")
    with torch.no_grad():
        dense = output(entry, tried.model(**given[0]))[0]
        sparse = output(entry, tried.sparse(**given[0]))[0]
    assert (dense - sparse).abs().max() > 1e-2 * dense.abs().max(), f"{entry.name} computes what the dense model does"


def check_gradients(entry: Architecture) -> None:
    """Parameters get the gradients of the oracle's separate runs from one padded batch."""
    tried, given = case(entry), sequences(entry)
    trained = copy.deepcopy(tried.sparse)
    width = output(entry, trained(**given[0])).shape[-1]
    weights = torch.randn(64, width, generator=torch.Generator().manual_seed(3))

    def loss(made: Tensor) -> Tensor:
        return (made * weights[: made.shape[0]].to(made.dtype)).sum()

    made = output(entry, trained(**batch(entry, given)))
    sum(loss(real(entry, made, row, one)) for row, one in enumerate(given)).backward()
    for oracle, change in ((tried.reference, dict), (tried.exact, doubled)):
        oracle.model.zero_grad()
        sum(loss(output(entry, oracle(**change(one)))[0]) for one in given).backward()
    exact, reference = dict(tried.exact.model.named_parameters()), dict(tried.reference.model.named_parameters())
    compared = 0
    for name, parameter in trained.named_parameters():
        if parameter.grad is None:
            assert reference[name].grad is None or not reference[name].grad.any(), f"{entry.name}: {name} got none"
            continue
        if reference[name].grad is None:
            assert not parameter.grad.any()
            continue
        grads = parameter.grad, reference[name].grad, exact[name].grad
        # a bias of keys moves all scores of a query alike: its gradient is a sum of terms that cancel
        weight = exact.get(f"{name.rpartition('.')[0]}.weight")
        size = 0.0 if weight is None or weight.grad is None else weight.grad.abs().max().item()
        what = f"{entry.name}: gradient of {name}"
        assert_no_worse_than(*grads, name=what, multiple=6.0, ulps=64.0, magnitude=size)
        compared += 1
    assert compared > LAYERS


def local_plan(entry: Architecture) -> Plan | Pattern:
    """A plan under which most tokens cannot reach most others, in three layers."""
    if entry.kind == VISION:
        row = Axis(shape=(GRID, GRID), axis=1, offset=entry.prefix)
        return row | (First(keys=entry.prefix) & First(queries=entry.prefix)) if entry.prefix else row
    causal = Causal() & Window(before=2)
    if entry.kind == DECODER:
        return causal
    both = Window(before=2, after=2)
    return Plan(default=causal, encoder=both, decoder=causal) if entry.kind == PAIR else both


def changed(entry: Architecture, given: dict[str, Any], name: str, at: int) -> dict[str, Any]:
    """The inputs with something else in one place of `name`."""
    value = given[name].clone()
    if name == "pixel_values":
        value[..., :8, 8 * at : 8 * at + 8] += 1.0
    elif name == "input_features":
        value[..., 2 * at] += 1.0
    elif value.is_floating_point():
        value[..., at] += 1.0
    else:
        value[..., at] = 4 + (value[..., at] - 3) % 90
    return {**given, name: value}


def check_leaks(entry: Architecture) -> None:
    """A token that the plan keeps from another in every layer changes no bit of it; those it may reach do change."""
    sparse = hf.sparsify(entry.build(), local_plan(entry))
    given = sequences(entry)[0]
    spread = 2 * LAYERS
    place = 10 if entry.kind not in (VISION, AUDIO) else 1
    names = ["decoder_input_ids"] if entry.kind == PAIR else list(given)
    if entry.kind == PAIR:
        names.append("input_features" if "input_features" in given else "input_ids")
    for name in names:
        with torch.no_grad():
            before, after = sparse(**given), sparse(**changed(entry, given, name, place))
        encoder = entry.kind == PAIR and name != "decoder_input_ids"
        made = [r.encoder_last_hidden_state if encoder else output(entry, r) for r in (before, after)]
        size = (made[1] - made[0])[0].abs().amax(-1)
        touched = (size > (1e-4 if entry.name in EXPERTS else 0.0)).nonzero().flatten().tolist()
        if entry.kind == VISION:
            assert touched, entry.name
            row = set(range(entry.prefix, entry.prefix + GRID))
            assert set(touched) <= row and entry.prefix + place in touched, f"{entry.name}: {touched}"
            continue
        first = place if entry.kind == DECODER or name == "decoder_input_ids" else place - spread
        slack = 2 if name == "input_features" else 0  # two convolutions before the first layer
        wanted = set(range(max(first - slack, 0), place + spread + slack + 1))
        assert set(touched) <= wanted, f"{entry.name}: {name} {place} reaches {sorted(set(touched) - wanted)}"
        assert {place, place + 1} <= set(touched), f"{entry.name}: {name} {place} reaches nothing"


def check_cached(entry: Architecture) -> None:
    """Chunks and single tokens upon a cache give what the whole sequence gives at once."""
    tried, given = case(entry), sequences(entry)
    if entry.kind == PAIR:
        return _check_cached_pair(tried, given)
    inputs = batch(entry, given, "left" if entry.left_padding else "right")
    if not entry.left_padding:
        inputs, given = batch(entry, given[:1]), given[:1]
    length, cache, parts, start = inputs["input_ids"].shape[1], DynamicCache(config=tried.sparse.config), [], 0
    for step in (20, 5, *[1] * (length - 25)):
        stop = start + step
        part: dict[str, Any] = {"input_ids": inputs["input_ids"][:, start:stop]}
        part["attention_mask"] = inputs["attention_mask"][:, :stop]
        if "position_ids" in inputs:
            part["position_ids"] = inputs["position_ids"][:, start:stop]
        with torch.no_grad():
            made = tried.sparse(**accepted(tried.sparse, part), past_key_values=cache, use_cache=True)
        parts.append(made.logits)
        start = stop
    for row, one in enumerate(given):
        tried.compare(real(entry, torch.cat(parts, 1), row, one, "left"), one, f"sequence {row} upon a cache")
    return None


def _check_cached_pair(tried: Case, given: list[dict[str, Any]]) -> None:
    entry, rows = tried.entry, [one["decoder_input_ids"][:, :9] for one in given]
    inputs = batch(entry, given)
    source = {name: value for name, value in inputs.items() if name != "decoder_input_ids"}
    past, encoded, parts = None, None, []
    for start, stop in ((0, 4), (4, 7), (7, 8), (8, 9)):
        with torch.no_grad():
            made = tried.sparse(
                **source,
                decoder_input_ids=torch.cat(rows)[:, start:stop],
                past_key_values=past,
                encoder_outputs=encoded,
                use_cache=True,
            )
        past, encoded = made.past_key_values, BaseModelOutput(made.encoder_last_hidden_state)
        parts.append(made.logits)
    for row, one in enumerate(given):
        short = {**one, "decoder_input_ids": rows[row]}
        tried.compare(torch.cat(parts, 1)[row], short, f"sequence {row} upon a cache")


def check_generation(entry: Architecture, **options: Any) -> None:
    """`generate` on a padded batch writes what the oracle writes for each sequence alone, without a cache."""
    tried, given = case(entry), sequences(entry)
    settings = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 0}
    beams = {name: value for name, value in options.items() if name == "num_beams"}
    if entry.kind == PAIR:
        name = "input_features" if "input_features" in given[0] else "input_ids"
        inputs = {key: value for key, value in batch(entry, given).items() if key != "decoder_input_ids"}
        alone = [{name: one[name]} for one in given]
    else:
        ids, mask = padded([one["input_ids"] for one in given], "left")
        inputs, alone = {"input_ids": ids, "attention_mask": mask}, given
    made = tried.sparse.generate(**inputs, **settings, **options)
    for row, one in enumerate(alone):
        wanted = tried.reference.model.generate(**one, **settings, **beams, use_cache=False)[0]
        assert made[row, -NEW_TOKENS:].tolist() == wanted[-NEW_TOKENS:].tolist(), f"{entry.name}: sequence {row}"


def check_restored(entry: Architecture) -> None:
    """`densify` gives the dense model back, to the bit, and its attention implementation."""
    model, given = entry.build(), sequences(entry)[0]
    with torch.no_grad():
        before, chosen = output(entry, model(**given)), model.config._attn_implementation
        sparse = output(entry, hf.sparsify(model, plan_for(entry))(**given))
        assert not sparse.equal(before)
        restored = output(entry, hf.densify(model)(**given))
    assert restored.equal(before), f"{entry.name}: densify does not give the dense model back"
    assert model.config._attn_implementation == chosen
