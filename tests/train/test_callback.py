"""`PlanCallback`: the trainer's model has the plan of its step, after any interruption too."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

from openwork.errors import PlanError
from openwork.nn import Decoder, DecoderConfig, SparseAttention, model_plan, set_plan
from openwork.patterns import Causal, Dense, Pattern, Window
from openwork.plan import Plan
from openwork.train import DenseThenSparse, PlanCallback, RelaxOnPlateau, Schedule, Shrink
from openwork.train.schedules import Measurement

LENGTH = 24
LOCAL = Plan(default=Causal() & Window(before=3))


class Model(nn.Module):
    """A decoder that gives the trainer its loss."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        config = DecoderConfig(vocab_size=32, dim=16, num_layers=2, q_heads=2, kv_heads=1, mlp_dim=32)
        self.decoder = Decoder(config, LOCAL)

    def set_plan(self, plan: Plan) -> None:
        self.decoder.set_plan(plan)

    @property
    def plan(self) -> Plan:
        return self.decoder.plan

    @property
    def num_plan_layers(self) -> int:
        return self.decoder.num_plan_layers

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        losses = self.decoder.token_losses(input_ids[:, :-1], labels[:, 1:])
        return {"loss": losses.mean(), "logits": losses}


class Plans(TrainerCallback):
    """Which plan each step ran under, and each evaluation."""

    def __init__(self) -> None:
        self.steps: dict[int, Pattern] = {}
        self.evaluations: dict[int, Plan] = {}

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps[state.global_step] = model_plan(kwargs["model"]).plan

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.evaluations[state.global_step] = model_plan(kwargs["model"]).plan


def rows(count: int, seed: int) -> list[dict[str, Tensor]]:
    tokens = torch.randint(32, (count, LENGTH), generator=torch.Generator().manual_seed(seed))
    return [{"input_ids": row, "labels": row} for row in tokens]


def trainer(out: Path, callback: TrainerCallback, *, model: nn.Module | None = None, **options: Any) -> Trainer:
    given: dict[str, Any] = {
        "output_dir": str(out),
        "max_steps": 8,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 0.05,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_strategy": "steps",
        "save_steps": 1,
        "logging_steps": 1,
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "report_to": "none",
    }
    set_seed(0)
    return Trainer(
        model or Model(),
        TrainingArguments(**(given | options)),
        train_dataset=rows(64, 0),
        eval_dataset=rows(4, 1),
        callbacks=[callback, Plans()],
    )


def plans_of(made: Trainer) -> Plans:
    return next(callback for callback in made.callback_handler.callbacks if isinstance(callback, Plans))


SCHEDULES = {
    "dense first": lambda: PlanCallback(DenseThenSparse(steps=3)),
    "shrinking": lambda: PlanCallback(
        Shrink(start_step=1, end_step=6, final_window=3, multiple=1), LOCAL, seq_len=LENGTH
    ),
    # with so little gain asked of it, validation stalls at every measurement but the first
    "relaxing": lambda: PlanCallback(RelaxOnPlateau(start_step=1, patience=1, min_gain=0.9, spike=9.0)),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_run_resumed_at_any_step_has_the_plans_and_weights_of_an_unbroken_one(name: str, tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole", SCHEDULES[name]())
    whole.train()
    expected = plans_of(whole)
    assert set(expected.steps) == set(range(8)) and len(set(expected.steps.values())) > 1
    for step in (1, 4, 7):
        out = tmp_path / f"from {step}"
        checkpoint = out / f"checkpoint-{step}"
        shutil.copytree(tmp_path / "whole" / checkpoint.name, checkpoint)
        callback, model = SCHEDULES[name](), Model()
        # as a model that is loaded from this checkpoint comes: with the plan of its step, not of the schedule's end
        set_plan(model, expected.steps[step])
        resumed = trainer(out, callback, model=model)
        resumed.train(resume_from_checkpoint=str(checkpoint))
        assert plans_of(resumed).steps == {n: plan for n, plan in expected.steps.items() if n >= step}
        unbroken = next(made for made in whole.callback_handler.callbacks if isinstance(made, PlanCallback))
        assert callback.timeline == unbroken.timeline
        for key, weight in whole.model.state_dict().items():
            assert torch.equal(weight, resumed.model.state_dict()[key]), key


def test_each_step_has_what_the_schedule_says(tmp_path: Path) -> None:
    schedule = Shrink(start_step=1, end_step=6, final_window=3, multiple=1)
    made = trainer(tmp_path, PlanCallback(schedule, seq_len=LENGTH))
    made.train()
    for step, plan in plans_of(made).steps.items():
        assert plan == schedule.plan_at(step, LOCAL, seq_len=LENGTH, num_layers=2)
    assert made.model.plan == LOCAL


def test_an_evaluation_and_a_checkpoint_have_the_plan_of_the_next_step(tmp_path: Path) -> None:
    made = trainer(tmp_path, PlanCallback(DenseThenSparse(steps=4)), max_steps=6)
    made.train()
    assert plans_of(made).evaluations == {2: Plan(default=Causal()), 4: LOCAL, 6: LOCAL}


def test_relaxing_reads_the_log_of_the_trainer(tmp_path: Path) -> None:
    schedule = RelaxOnPlateau(start_step=1, patience=1, min_gain=0.9, spike=9.0)
    callback = PlanCallback(schedule)
    made = trainer(tmp_path, callback)
    made.train()
    measured = [Measurement(e["step"], e["eval_loss"]) for e in made.state.log_history if "eval_loss" in e]
    assert [entry.step for entry in measured] == [2, 4, 6, 8]
    for step, plan in plans_of(made).steps.items():
        assert plan == schedule.plan_at(step, LOCAL, seq_len=LENGTH, num_layers=2, measured=measured)
    assert [change.step for change in callback.timeline] == [0, 1, 4, 6]
    assert "validation stalled at" in callback.timeline[2].reason


class Encoder(nn.Module):
    """A model that keeps its own mask: what it is told, it remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.plan, self.num_plan_layers = nn.Parameter(torch.ones(())), None, 3

    def set_plan(self, plan: Plan) -> None:
        self.plan = plan

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": self.weight * 2, "logits": input_ids}


def test_dense_is_all_pairs_where_a_model_keeps_its_own_causality(tmp_path: Path) -> None:
    near = Plan(default=Window(before=2, after=2))
    made = trainer(tmp_path, PlanCallback(DenseThenSparse(steps=2), near), model=Encoder(), max_steps=3)
    made.train()
    assert plans_of(made).steps == {0: Plan(default=Dense()), 1: Plan(default=Dense()), 2: near}


def test_shrinking_around_a_token_stays_around_it() -> None:
    near = Plan(default=Window(before=2, after=2))
    schedule = Shrink(end_step=8, final_window=2, multiple=1)
    plans = [schedule.plan_at(step, near, seq_len=10, num_layers=1, dense=Dense()) for step in (0, 4, 8)]
    assert plans == [Plan(default=Dense()), Plan(default=Window(before=6, after=6)), near]


@pytest.fixture
def process_group(tmp_path: Path) -> Any:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_a_wrapped_model_is_asked_beneath_its_wrapping(process_group: None) -> None:
    def compiled(model: nn.Module) -> Any:
        return torch.compile(model, backend="eager")

    for wrap in (DistributedDataParallel, DataParallel, compiled, lambda m: compiled(DistributedDataParallel(m))):
        model, plain = Model(), nn.Sequential(SparseAttention(8, q_heads=2), nn.Linear(8, 8))
        for inner in (model, plain):
            wrapped = wrap(inner)
            set_plan(wrapped, LOCAL)
            assert model_plan(wrapped) == model_plan(inner) == (LOCAL, 2 if inner is model else 1)
            assert next(m for m in inner.modules() if isinstance(m, SparseAttention)).pattern == LOCAL.default


def test_a_model_that_says_nothing_says_nothing() -> None:
    assert model_plan(nn.Linear(2, 2)) == (None, None)


def begin(callback: PlanCallback, tmp_path: Path, model: nn.Module | None = None, **options: Any) -> None:
    trainer(tmp_path, callback, model=model, **options).train()


class Silent(Encoder):
    num_plan_layers: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.num_plan_layers = None


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (
            lambda out: PlanCallback(LOCAL),
            r"PlanCallback takes a schedule, such as DenseThenSparse\(steps=500\), .* got Plan",
        ),
        (lambda out: PlanCallback("Dense()"), "unknown schedule 'Dense'"),
        (lambda out: PlanCallback(Shrink(end_step=5)), r"Shrink reckons .* PlanCallback\(..., seq_len=\)"),
        (
            lambda out: begin(PlanCallback(DenseThenSparse(steps=1)), out, Encoder()),
            "Encoder has no plan that the schedule could lead to: give it one with openwork.hf.sparsify",
        ),
        (
            lambda out: begin(PlanCallback(DenseThenSparse(steps=1), LOCAL), out, Silent()),
            r"Silent does not say how many layers a plan has: PlanCallback\(num_layers=\)",
        ),
        (
            lambda out: begin(PlanCallback(RelaxOnPlateau()), out, eval_strategy="no"),
            r"RelaxOnPlateau reads validation, and the trainer makes none: set TrainingArguments\(eval_strategy=",
        ),
        (
            lambda out: begin(PlanCallback(RelaxOnPlateau(), metric="eval_perplexity"), out),
            r"the trainer's log has no eval_perplexity, which PlanCallback\(metric=\) names; it has eval_loss",
        ),
    ],
)
def test_what_cannot_be_scheduled_is_refused_in_words(attempt: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=message):
        attempt(tmp_path)


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (PlanCallback(DenseThenSparse(steps=5)), r"was trained with DenseThenSparse\(steps=2\), but this .*steps=5"),
        (PlanCallback(DenseThenSparse(steps=2), Causal()), r"was trained towards (?s:.*) but PlanCallback\(plan=\) is"),
    ],
)
def test_a_resumed_run_keeps_schedule_and_plan(callback: PlanCallback, message: str, tmp_path: Path) -> None:
    begin(PlanCallback(DenseThenSparse(steps=2)), tmp_path, max_steps=3)
    with pytest.raises(PlanError, match=message):
        trainer(tmp_path, callback).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


def test_a_checkpoint_without_a_schedule_can_be_given_one(tmp_path: Path) -> None:
    trainer(tmp_path, TrainerCallback(), max_steps=3).train()
    made = trainer(tmp_path, PlanCallback(DenseThenSparse(steps=5)))
    made.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert plans_of(made).steps == {step: Plan(default=Causal()) if step < 5 else LOCAL for step in range(3, 8)}
    kept = json.loads((tmp_path / "checkpoint-8" / "trainer_state.json").read_text())["stateful_callbacks"]
    assert kept["openwork_plan"]["schedule"] == "DenseThenSparse(steps=5)"


def test_every_schedule_takes_the_callback_s_words() -> None:
    assert isinstance(PlanCallback("DenseThenSparse(steps=5)").schedule, Schedule)
