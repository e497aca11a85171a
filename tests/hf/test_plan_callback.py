"""`PlanCallback` on models of transformers: schedules reach a sparsified model, adapters or not, and the checkpoint."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments, set_seed

from openwork.hf import sparsify
from openwork.nn import model_plan
from openwork.patterns import Dense, Pattern, Window
from openwork.plan import Plan
from openwork.train import DenseThenSparse, PlanCallback, RelaxOnPlateau, Shrink

NEAR = Plan(default=Window(before=3))
SIZES = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3}


def llama() -> Any:
    torch.manual_seed(0)
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    return LlamaForCausalLM(LlamaConfig(**SIZES, **heads, max_position_embeddings=64))


class Plans(TrainerCallback):
    def __init__(self) -> None:
        self.steps: dict[int, Plan | None] = {}

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps[state.global_step] = model_plan(kwargs["model"]).plan


def train(
    model: Any, callback: PlanCallback | None, out: Path, resume: str | None = None, **options: Any
) -> dict[int, Any]:
    tokens = torch.randint(32, (24, 20), generator=torch.Generator().manual_seed(0))
    rows = [{"input_ids": row, "labels": row} for row in tokens]
    given: dict[str, Any] = {
        "output_dir": str(out),
        "max_steps": 6,
        "per_device_train_batch_size": 2,
        "learning_rate": 0.01,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_steps": 2,
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "report_to": "none",
    }
    plans = Plans()
    set_seed(0)
    arguments = TrainingArguments(**(given | options))
    made = Trainer(
        model, arguments, train_dataset=rows, eval_dataset=rows[:4], callbacks=[callback, plans] if callback else None
    )
    made.train(resume_from_checkpoint=resume)
    return plans.steps


# PEFT calls what transformers has renamed
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("adapters", [False, True], ids=["all", "lora"])
def test_dense_first_reaches_a_sparsified_model_and_its_checkpoints(adapters: bool, tmp_path: Path) -> None:
    model = sparsify(llama(), NEAR)
    if adapters:
        model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
        assert model_plan(model) == (NEAR, 3)
    steps = train(model, PlanCallback(DenseThenSparse(steps=3)), tmp_path)
    assert steps == {step: Plan(default=Dense()) if step < 3 else NEAR for step in range(6)}
    if not adapters:
        written = [json.loads((tmp_path / f"checkpoint-{n}" / "config.json").read_text()) for n in (2, 4)]
        assert [Plan.from_json(json.dumps(each["openwork_plan"])) for each in written] == [Plan(default=Dense()), NEAR]


def test_dense_steps_train_the_weights_of_the_plain_model(tmp_path: Path) -> None:
    sparse, plain = sparsify(llama(), NEAR), llama()
    train(sparse, PlanCallback(DenseThenSparse(steps=99)), tmp_path / "sparse")
    train(plain, None, tmp_path / "plain")
    for name, weight in plain.state_dict().items():
        assert torch.allclose(sparse.state_dict()[name], weight, atol=1e-4), name


def test_a_checkpoint_that_is_loaded_anew_goes_on_with_the_plans_of_an_unbroken_run(tmp_path: Path) -> None:
    def callback() -> PlanCallback:
        return PlanCallback(Shrink(end_step=5, final_window=3, multiple=1), seq_len=20)

    whole = train(sparsify(llama(), NEAR), callback(), tmp_path)
    assert len(set(whole.values())) == 6
    # its plan is that of step 2, not the one that the schedule leads to
    loaded = LlamaForCausalLM.from_pretrained(tmp_path / "checkpoint-2")
    assert loaded.plan == whole[2] != NEAR
    resumed = train(loaded, callback(), tmp_path, resume=str(tmp_path / "checkpoint-2"))
    assert resumed == {step: plan for step, plan in whole.items() if step >= 2}


def test_relaxing_counts_the_layers_itself(tmp_path: Path) -> None:
    everything: Pattern = Dense()
    schedule = RelaxOnPlateau(patience=1, min_gain=0.9, spike=9.0, to=everything)
    steps = train(sparsify(llama(), NEAR), PlanCallback(schedule), tmp_path)
    assert [len(steps[step].layers) for step in (0, 2, 4, 5)] == [0, 0, 1, 1]
    assert steps[4].layers == {2: everything}


RANK = """
import json, os, sys
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments
from openwork.hf import sparsify
from openwork.nn import model_plan
from openwork.patterns import Dense, Window
from openwork.train import PlanCallback, RelaxOnPlateau

class Plans(TrainerCallback):
    seen = []

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        self.seen.append(repr(model_plan(model).plan))

torch.manual_seed(0)
sizes = dict(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2)
model = sparsify(LlamaForCausalLM(LlamaConfig(**sizes)), Window(before=3))
tokens = torch.randint(32, (24, 20))
rows = [{"input_ids": row, "labels": row} for row in tokens]
arguments = TrainingArguments(
    output_dir=sys.argv[1], max_steps=6, per_device_train_batch_size=2, eval_strategy="steps", eval_steps=2,
    save_strategy="no", use_cpu=True, disable_tqdm=True, report_to="none", dataloader_pin_memory=False,
)
schedule = RelaxOnPlateau(patience=1, min_gain=0.9, spike=9.0, to=Dense())
trainer = Trainer(
    model, arguments, train_dataset=rows, eval_dataset=rows[:8], callbacks=[PlanCallback(schedule), Plans()]
)
trainer.train()
weights = float(sum(parameter.double().sum() for parameter in model.parameters()))
found = [type(trainer.model_wrapped).__name__, Plans.seen, weights]
open(f"{sys.argv[1]}/{os.environ['RANK']}.json", "w").write(json.dumps(found))
"""


@pytest.mark.slow
def test_two_processes_relax_the_same_layers_at_the_same_step(tmp_path: Path) -> None:
    (tmp_path / "rank.py").write_text(RANK)
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run([*command, str(tmp_path / "rank.py"), str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second and first[0] == "DistributedDataParallel"
    assert first[1][0] == repr(NEAR) and first[1][-1] == repr(Plan(default=Window(before=3), layers={2: Dense()}))
