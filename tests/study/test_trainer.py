"""One run: resumed or not it is the same, plans that mean the same train the same, and what ends it in words."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import openwork
from openwork.errors import StudyError
from openwork.nn import set_plan
from openwork.ops.backends.cpu import CpuBackend
from openwork.ops.backends.cpu_native import absence
from openwork.ops.backends.sdpa import SdpaBackend
from openwork.patterns import Causal, Window
from openwork.plan import Plan
from openwork.runs import write_file
from openwork.study import Contender, StudyConfig, contender_from_text
from openwork.study.batches import Batches
from openwork.study.corpus import read_corpus
from openwork.study.environment import code_version
from openwork.study.folder import StudyFolder
from openwork.study.prepare import measure_held_out, prepare_data
from openwork.study.record import RunRecord
from openwork.study.state import RunState, load_checkpoint
from openwork.study.tokens import TokenStream
from openwork.study.trainer import Interrupted, StudyData, Trainer

WINDOW = contender_from_text("window: Causal() & Window(before=7)")
ANNOTATED = contender_from_text("facts: Causal() & (Window(before=7) | Keys('definition') | Linked('use'))")
Tiny = Callable[..., StudyConfig]


@pytest.fixture(scope="module")
def data(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyData:
    config = StudyConfig(data=texts, tokenizer="bytes", seq_len=96)
    return prepare_data(config, read_corpus(texts), StudyFolder(tmp_path_factory.mktemp("data")), lambda event: None)


def train(config: StudyConfig, contender: Contender, data: StudyData, place: Path, **hooks: Any) -> RunState:
    place.mkdir(exist_ok=True)
    return Trainer(config, contender, config.seed, data, place, **hooks).run()


def weights(place: Path) -> dict[str, torch.Tensor]:
    loaded = load_checkpoint(place / "checkpoint.pt")
    assert loaded is not None
    return loaded[1]["model"]


@pytest.mark.parametrize(
    ("contender", "options"),
    [
        (WINDOW, {}),
        (ANNOTATED, {"optimizer": "adamw"}),
        (ANNOTATED, {"accumulate": 2, "checkpointing": True, "dtype": "bfloat16"}),
    ],
    ids=["window", "facts-adamw", "facts-accumulated"],
)
def test_a_run_that_was_stopped_anywhere_ends_like_an_unbroken_one(
    contender: Contender, options: dict[str, Any], tiny: Tiny, data: StudyData, tmp_path: Path
) -> None:
    config = tiny(steps=7, dense_steps=3, eval_every=3, checkpoint_seconds=0.0, **options)
    whole = train(config, contender, data, tmp_path / "whole")
    asked, sessions = 0, 0

    def stop() -> bool:
        # after ever more pieces of work, evaluations included
        nonlocal asked
        asked += 1
        return asked % (2 + sessions % 3) == 0

    while True:
        sessions += 1
        try:
            broken = train(config, contender, data, tmp_path / "broken", stop=stop)
            break
        except Interrupted:
            continue
    assert sessions > 3 and broken.sessions == sessions
    assert broken.losses == whole.losses
    assert [(step, nats) for step, _, nats in broken.evaluated] == [(step, nats) for step, _, nats in whole.evaluated]
    assert broken.final == whole.final and len(broken.final["use_nats"]) == 5 and not broken.tally
    for name, tensor in weights(tmp_path / "whole").items():
        assert torch.equal(tensor, weights(tmp_path / "broken")[name]), name


def test_a_run_knows_every_code_that_worked_on_it(
    tiny: Tiny, data: StudyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(checkpoint_seconds=0.0)
    for version, stops in (("one", [False, True]), ("one", [True]), ("two", [True])):
        monkeypatch.setattr("openwork.study.trainer.code_version", lambda version=version: version)
        with pytest.raises(Interrupted):
            train(config, WINDOW, data, tmp_path / "run", stop=iter(stops).__next__)
    state = train(config, WINDOW, data, tmp_path / "run")
    assert (state.code, state.sessions) == (["one", "two"], 4)
    held_out = measure_held_out(data, config)
    record = RunRecord.of("window", 0, state, tokens_per_step=192, held_out=held_out)
    assert RunRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record
    assert code_version().startswith(f"openwork {openwork.__version__}") and torch.__version__ in code_version()


def test_time_that_was_spent_counts(
    tiny: Tiny, data: StudyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count()
    # a clock on which every step takes equally long, however busy the machine is
    clock = SimpleNamespace(perf_counter=lambda: next(ticks) / 64, monotonic=time.monotonic)
    monkeypatch.setattr("openwork.study.trainer.time", clock)
    config = replace(tiny(), steps=None, seconds=0.5, checkpoint_seconds=0.0)
    whole = train(config, WINDOW, data, tmp_path / "whole")
    per_step = whole.spent_s / whole.step
    assert whole.step > 5 and 0.5 <= whole.spent_s < 0.5 + per_step
    stops = iter([False, False, True])
    with pytest.raises(Interrupted):
        train(config, WINDOW, data, tmp_path / "broken", stop=lambda: next(stops))
    saved = load_checkpoint(tmp_path / "broken" / "checkpoint.pt")
    assert saved is not None and saved[0].step == 3 and saved[0].spent_s == pytest.approx(3 * per_step)
    broken = train(config, WINDOW, data, tmp_path / "broken")
    assert (broken.step, broken.spent_s, broken.losses) == (whole.step, whole.spent_s, whole.losses)


def test_dense_attention_trains_where_flash_attention_does_not_run(
    tiny: Tiny, data: StudyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(steps=3)
    # as without a compiler
    monkeypatch.setattr(CpuBackend, "refusal_reasons", lambda self, call: ["not here"])
    flash = train(config, config.everyone[0], data, tmp_path / "flash")
    # as on an accelerator in float32
    monkeypatch.setattr(SdpaBackend, "refusal_reasons", lambda self, call: ["nor here"])
    other = train(config, config.everyone[0], data, tmp_path / "other")
    assert (flash.backend, other.backend) == ("sdpa", "gather")
    np.testing.assert_allclose(other.losses, flash.losses, rtol=1e-4)


@pytest.mark.skipif(absence() is not None, reason="no native kernels")
def test_dense_attention_trains_on_the_native_kernels_and_says_so(
    tiny: Tiny, data: StudyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(steps=3)
    ours = train(config, config.everyone[0], data, tmp_path / "ours")
    monkeypatch.setattr(CpuBackend, "refusal_reasons", lambda self, call: ["not here"])
    flash = train(config, config.everyone[0], data, tmp_path / "flash")
    assert (ours.backend, flash.backend) == ("cpu", "sdpa")
    np.testing.assert_allclose(ours.losses, flash.losses, rtol=1e-4)


def test_full_density_trains_like_dense_attention(tiny: Tiny, data: StudyData, tmp_path: Path) -> None:
    config = tiny(steps=8)
    dense = train(config, config.everyone[0], data, tmp_path / "dense")
    full = train(config, contender_from_text("full: Causal() & Window(before=500)"), data, tmp_path / "full")
    sparse = train(config, WINDOW, data, tmp_path / "sparse")
    assert dense.density == full.density
    difference = np.abs(np.subtract(full.losses, dense.losses)).max()
    assert difference < 1e-4 < np.abs(np.subtract(sparse.losses, dense.losses)).max()


@pytest.mark.parametrize("contender", [WINDOW, ANNOTATED], ids=lambda contender: contender.name)
def test_checkpointing_changes_no_bit(contender: Contender, tiny: Tiny, data: StudyData, tmp_path: Path) -> None:
    plain = train(tiny(), contender, data, tmp_path / "plain")
    computed = 0

    def count(module: Any, inputs: Any) -> None:
        nonlocal computed
        computed += 1

    trainer = Trainer(tiny(checkpointing=True), contender, 0, data, tmp_path)
    trainer._build()
    trainer.model.blocks[0].register_forward_pre_hook(count)
    trainer._step()
    assert computed == 2
    again = train(tiny(checkpointing=True), contender, data, tmp_path / "again")
    assert again.losses == plain.losses and again.evaluated[-1][2] == plain.evaluated[-1][2]
    for name, tensor in weights(tmp_path / "plain").items():
        assert torch.equal(tensor, weights(tmp_path / "again")[name]), name


@pytest.mark.parametrize("contender", [WINDOW, ANNOTATED], ids=lambda contender: contender.name)
def test_an_accumulated_step_is_the_whole_one_to_rounding(
    contender: Contender, tiny: Tiny, data: StudyData, tmp_path: Path
) -> None:
    def gradients(**options: Any) -> tuple[float, torch.Tensor, list[int]]:
        trainer = Trainer(tiny(batch_size=4, steps=1, **options), contender, 0, data, tmp_path)
        torch.manual_seed(0)
        trainer._build()
        trainer._optimizer.step = lambda: None  # type: ignore[method-assign]
        sizes: list[int] = []
        trainer.model.embedding.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
        trainer._step()
        grads = [parameter.grad.flatten() for parameter in trainer.model.parameters() if parameter.grad is not None]
        return trainer.state.losses[0], torch.cat(grads), sizes

    (loss, whole, one), (other_loss, parts, four) = gradients(), gradients(accumulate=4)
    assert one == [4] and four == [1, 1, 1, 1]
    assert other_loss == pytest.approx(loss, rel=1e-6)
    assert float((parts - whole).norm() / whole.norm()) < 1e-5
    # and so the curves agree, but for an optimizer that rounds to bfloat16 on its way
    for optimizer, most in (("adamw", 1e-4), ("muon", 1e-2)):
        curves = [
            train(
                tiny(batch_size=4, accumulate=n, optimizer=optimizer), contender, data, tmp_path / f"{optimizer}{n}"
            ).losses
            for n in (1, 4)
        ]
        assert np.abs(np.subtract(*curves)).max() < most


def test_clipping_counts_where_gradients_are_larger(tiny: Tiny, data: StudyData, tmp_path: Path) -> None:
    def losses(clip_norm: float) -> list[float]:
        return train(tiny(clip_norm=clip_norm), WINDOW, data, tmp_path / f"{clip_norm}").losses

    assert losses(1e6) == losses(1e5) != losses(1e-3)


def test_a_checkpoint_holds_both_optimizers(tiny: Tiny, data: StudyData, tmp_path: Path) -> None:
    train(tiny(), WINDOW, data, tmp_path)
    loaded = load_checkpoint(tmp_path / "checkpoint.pt")
    assert loaded is not None
    optimizer = loaded[1]["optimizer"]
    assert optimizer.keys() == {"muon", "adamw"}
    assert all("momentum_buffer" in state for state in optimizer["muon"]["state"].values())
    assert all(float(state["step"]) == 6 for state in optimizer["adamw"]["state"].values())


def test_dense_steps_are_those_of_dense_attention(tiny: Tiny, data: StudyData, tmp_path: Path) -> None:
    config = tiny(dense_steps=4, contenders=(WINDOW,))
    state = train(config, config.everyone[1], data, tmp_path / "window")
    dense = train(config, config.everyone[0], data, tmp_path / "dense")
    assert state.losses[:4] == dense.losses[:4] and state.losses[4] != dense.losses[4]
    assert state.density[3] == dense.density[3] > 4 * state.density[4]


def test_quality_is_what_the_model_says_of_every_held_out_token(tiny: Tiny, data: StudyData, tmp_path: Path) -> None:
    config = tiny(steps=3, eval_every=2)
    state = train(config, WINDOW, data, tmp_path / "run")
    assert [step for step, _, _ in state.evaluated] == [2, 3]
    trainer = Trainer(config, WINDOW, 0, data, tmp_path / "run")
    trainer.run()
    assert WINDOW.plan is not None
    set_plan(trainer.model, WINDOW.plan)
    model, ids, nats = trainer.model, torch.from_numpy(data.held_out.ids).long(), 0.0
    with torch.no_grad():
        for first in range(0, 384, 96):
            tokens, targets = ids[None, first : first + 96], ids[first + 1 : first + 97]
            chances = torch.log_softmax(model(tokens)[0].double(), -1)
            nats -= float(chances[torch.arange(96), targets].sum())
    assert state.final["nats"] == pytest.approx(nats, rel=1e-5)
    held_out = measure_held_out(data, config)
    text = "".join(data.corpus.texts(data.corpus.held_out)).encode()
    # 384 bytes and separators are predicted; the separators stand for no byte
    separators = int((ids[1:385] == 256).sum())
    assert held_out.num_tokens == 384
    assert held_out.num_bytes == len(text[: 384 - separators])


def test_held_out_bytes_of_a_cut_document_end_with_its_last_token(texts: Path, tmp_path: Path) -> None:
    config = StudyConfig(data=texts, tokenizer="bpe:300", seq_len=50, eval_tokens=150)
    data = prepare_data(config, read_corpus(texts), StudyFolder(tmp_path), lambda event: None)
    text = next(data.corpus.texts(data.corpus.held_out))
    assert measure_held_out(data, config).num_bytes == len(text[: data.tokenizer.offsets(text)[149][1]].encode())


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_checkpoint(
    tiny: Tiny, data: StudyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(checkpoint_seconds=0.0)
    real, calls = Trainer._loss, iter(range(9))

    def poisoned(self: Trainer, *arguments: Any) -> torch.Tensor:
        loss = real(self, *arguments)
        return loss * math.nan if next(calls) == 3 else loss

    monkeypatch.setattr(Trainer, "_loss", poisoned)
    message = (
        r"the loss became nan at step 3 of plan 'window' \(seed 0\). Start anew with --fresh and a lower --lr \(now"
    )
    with pytest.raises(StudyError, match=message):
        train(config, WINDOW, data, tmp_path / "run")
    saved = load_checkpoint(tmp_path / "run" / "checkpoint.pt")
    assert saved is not None and saved[0].step == 3
    assert all(tensor.isfinite().all() for tensor in saved[1]["model"].values())


@pytest.mark.parametrize(("eval_every", "step"), [(2, 2), (0, 6)], ids=["on the way", "at the end"])
def test_a_held_out_loss_that_is_no_number_ends_the_run_in_words(
    eval_every: int, step: int, tiny: Tiny, data: StudyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Trainer._loss

    def poisoned(self: Trainer, *arguments: Any) -> torch.Tensor:
        loss = real(self, *arguments)
        return loss if self.model.training else loss + math.inf

    monkeypatch.setattr(Trainer, "_loss", poisoned)
    message = (
        rf"the held-out loss became inf at step {step} of plan 'window' \(seed 0\). Start anew with --fresh and a l"
    )
    with pytest.raises(StudyError, match=message):
        train(tiny(eval_every=eval_every, checkpoint_seconds=0.0), WINDOW, data, tmp_path / "run")
    saved = load_checkpoint(tmp_path / "run" / "checkpoint.pt")
    assert saved is not None and saved[0].step == step
    assert not saved[0].tally and not saved[0].evaluated and not saved[0].final


@pytest.mark.parametrize(
    ("optimizer", "rates"), [("adamw", ""), ("muon", r" or a lower --matrix-lr \(now 0.02\)")], ids=["adamw", "muon"]
)
def test_a_rate_that_is_far_too_high_ends_in_words(
    optimizer: str, rates: str, tiny: Tiny, data: StudyData, tmp_path: Path
) -> None:
    words = rf"became (nan|inf) at step \d+ of plan 'window'.* a lower --lr \(now 1e\+30\){rates}, or a longer warm-up"
    with pytest.raises(StudyError, match=words):
        train(tiny(lr=1e30, steps=50, optimizer=optimizer), WINDOW, data, tmp_path / "run")


def test_a_full_disk_ends_the_run_and_keeps_the_checkpoint(
    tiny: Tiny, data: StudyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, written = tiny(checkpoint_seconds=0.0), 0
    whole = train(config, WINDOW, data, tmp_path / "whole")

    def filling(path: Path, content: Any) -> None:
        nonlocal written
        written += 1
        if written == 3:
            raise StudyError(f"no space left to write {path}")
        write_file(path, content)

    monkeypatch.setattr("openwork.study.state.write_file", filling)
    with pytest.raises(StudyError, match=r"no space left to write .*checkpoint.pt"):
        train(config, WINDOW, data, tmp_path / "run")
    saved = load_checkpoint(tmp_path / "run" / "checkpoint.pt")
    assert saved is not None and saved[0].step == 2
    assert train(config, WINDOW, data, tmp_path / "run").losses == whole.losses


def test_a_damaged_checkpoint_is_named(tiny: Tiny, data: StudyData, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"damaged")
    with pytest.raises(StudyError, match=r"cannot read the checkpoint .*checkpoint.pt \(.*\): it was changed"):
        train(tiny(), WINDOW, data, tmp_path)


def test_a_lack_of_memory_ends_in_words(
    tiny: Tiny, data: StudyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def greedy(self: Trainer, *ignored: Any) -> torch.Tensor:
        return torch.empty(1 << 60)

    monkeypatch.setattr(Trainer, "_loss", greedy)
    message = "not enough memory for plan 'window' at --batch-size 2 and --seq-len 96; lower one of them"
    with pytest.raises(StudyError, match=message):
        train(tiny(), WINDOW, data, tmp_path / "run")


def test_training_leaves_the_callers_chance_alone(tiny: Tiny, data: StudyData, tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = train(tiny(steps=1), WINDOW, data, tmp_path / "run")
    assert torch.equal(torch.rand(3), expected)
    # and is left alone by it: weights follow from the study's own seed
    assert train(tiny(steps=1), WINDOW, data, tmp_path / "again").losses == first.losses
    assert train(tiny(steps=1, seed=1), WINDOW, data, tmp_path / "other").losses != first.losses


def test_bfloat16_computes_low_and_keeps_parameters_high(tiny: Tiny, data: StudyData, tmp_path: Path) -> None:
    high = train(tiny(steps=4), WINDOW, data, tmp_path / "high")
    low = train(tiny(steps=4, dtype="bfloat16"), WINDOW, data, tmp_path / "low")
    assert low.losses != high.losses
    assert low.losses == pytest.approx(high.losses, rel=0.02)
    assert {tensor.dtype for tensor in weights(tmp_path / "low").values()} == {torch.float32}


def test_the_order_is_a_function_of_seed_and_step(data: StudyData) -> None:
    stream = TokenStream(np.arange(10 * 8 + 1, dtype=np.int32), np.array([0]), ())

    def firsts(seed: int, steps: range) -> list[int]:
        batches = Batches(stream, seq_len=8, batch_size=3, seed=seed)
        return [int(row[0]) // 8 for step in steps for row in batches.training(step).tokens]

    whole = firsts(0, range(10))
    assert sorted(whole[:10]) == sorted(whole[10:20]) == list(range(10)) != whole[:10]
    assert whole[:10] != whole[10:20]
    assert firsts(0, range(7, 10)) == whole[21:]
    assert firsts(1, range(10)) != whole
    batch = Batches(stream, seq_len=8, batch_size=3, seed=0).training(0)
    assert np.array_equal(batch.targets, batch.tokens + 1)


def test_layers_of_a_plan_differ(tiny: Tiny, data: StudyData, tmp_path: Path) -> None:
    plan = Plan(default=Causal(), layers={0: Causal() & Window(before=7)})
    state = train(tiny(steps=2), Contender(name="mixed", plan=plan), data, tmp_path / "run")
    window = train(tiny(steps=2), WINDOW, data, tmp_path / "window")
    dense_density = 97 / (2 * 96)
    assert state.density[0] == pytest.approx((dense_density + window.density[0]) / 2)
