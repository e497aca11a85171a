"""Two optimizers that step, save and load as one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from openwork.errors import ArgumentError
from openwork.nn import Decoder, DecoderConfig
from openwork.train.optimizer import Optimizers, make_optimizer

CONFIG = DecoderConfig(
    vocab_size=40, dim=16, num_layers=2, q_heads=2, kv_heads=1, mlp_dim=24, qk_norm=True, conv_width=3
)


def model() -> Decoder:
    torch.manual_seed(0)
    return Decoder(CONFIG)


def make(module: nn.Module, kind: str = "muon", weight_decay: float = 0.1) -> Optimizers:
    return make_optimizer(module, kind, lr=1e-3, matrix_lr=2e-2, weight_decay=weight_decay)


def names(module: nn.Module, part: torch.optim.Optimizer, decay: bool | None = None) -> set[str]:
    found = {id(p): name for name, p in module.named_parameters()}
    groups = [group for group in part.param_groups if decay is None or (group["weight_decay"] > 0) == decay]
    return {found[id(parameter)] for group in groups for parameter in group["params"]}


def gradients(module: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_matrices_go_to_muon_and_the_rest_to_adamw() -> None:
    decoder = model()
    parts = make(decoder).parts
    matrices = {name for name, _ in decoder.named_parameters() if "_proj" in name}
    assert names(decoder, parts["muon"]) == matrices
    assert names(decoder, parts["adamw"]) == {name for name, _ in decoder.named_parameters()} - matrices
    assert names(decoder, parts["adamw"], decay=True) == {"embedding.weight"}
    plain = make(decoder, "adamw").parts
    assert plain.keys() == {"adamw"}
    assert names(decoder, plain["adamw"], decay=True) == matrices | {"embedding.weight"}


def test_an_output_layer_and_frozen_weights_are_left_out_of_muon() -> None:
    module = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 8), nn.Linear(8, 4), nn.Linear(4, 10))
    module[1].weight.requires_grad = False
    parts = make(module).parts
    assert names(module, parts["muon"]) == {"2.weight"}
    assert "1.weight" not in names(module, parts["adamw"]) and "3.weight" in names(module, parts["adamw"])


def test_an_update_of_muon_has_equal_singular_values_whatever_the_gradients_size() -> None:
    decoder = model()
    before = copy.deepcopy(decoder.state_dict())
    gradients(decoder, 1)
    for parameter in decoder.parameters():
        parameter.grad *= 1e-3
    make(decoder, weight_decay=0.0).step()
    name = "blocks.0.mlp.gate_proj.weight"
    change = (decoder.state_dict()[name] - before[name]) / 2e-2 / (24 / 16) ** 0.5
    assert torch.linalg.svdvals(change).sub(1).abs().max() < 0.5


def test_a_rate_is_a_share_of_each_groups_highest() -> None:
    optimizer = make(model())
    optimizer.set_rate(0.5)
    optimizer.set_rate(0.25)
    rates = {name: {group["lr"] for group in part.param_groups} for name, part in optimizer.parts.items()}
    assert rates == {"muon": {0.25 * 2e-2}, "adamw": {0.25 * 1e-3}}


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_steps_after_loading_are_those_of_an_unbroken_run(kind: str, tmp_path) -> None:
    whole, broken = model(), model()
    one, two = make(whole, kind), make(broken, kind)
    for step in range(4):
        if step == 2:
            torch.save({"model": broken.state_dict(), "optimizer": two.state_dict()}, tmp_path / "saved.pt")
            saved = torch.load(tmp_path / "saved.pt", weights_only=True)
            broken = model()
            broken.load_state_dict(saved["model"])
            two = make(broken, kind)
            two.load_state_dict(saved["optimizer"])
        for module, optimizer in ((whole, one), (broken, two)):
            gradients(module, step)
            optimizer.set_rate(1 / (step + 1))
            optimizer.step()
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, broken.state_dict()[name]), name


def test_the_state_of_another_kind_is_refused() -> None:
    with pytest.raises(ArgumentError, match="the saved state is of adamw, but the optimizers here are adamw, muon"):
        make(model()).load_state_dict(make(model(), "adamw").state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "sgd"}, "optimizer must be one of muon, adamw; got 'sgd'"),
        ({"lr": 0.0}, "lr must be more than 0 and finite; got 0.0"),
        ({"matrix_lr": float("inf")}, "matrix_lr must be more than 0 and finite; got inf"),
    ],
)
def test_wrong_options_are_refused_in_words(options: dict, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make_optimizer(model(), **{"lr": 1e-3, "matrix_lr": 2e-2, **options})
