"""A checkpoint of Hugging Face in a study: what a mask breaks, what tuning brings back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from openwork.errors import AnnotationError, StudyError
from openwork.hf import sparsify
from openwork.plan import Plan
from openwork.runs import read_json
from openwork.study import Contender, StudyConfig, StudyResult, contender_from_text, run
from openwork.study.compare import compare_studies
from openwork.study.corpus import read_corpus
from openwork.study.folder import StudyFolder
from openwork.study.history import StudyEntry
from openwork.study.notes import annotator_of_texts
from openwork.study.prepare import load_data
from openwork.study.record import RunRecord
from openwork.study.state import load_checkpoint
from openwork.study.trainer import Interrupted, Trainer

Tiny = Callable[..., StudyConfig]
NEAR = contender_from_text("near: Causal() & Window(before=3)")


def shape(**options: Any) -> dict[str, Any]:
    return {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 128,
        "bos_token_id": 0,
        "eos_token_id": 0,
    } | options


def study(texts: Path, out: Path, **options: Any) -> StudyResult:
    defaults: dict[str, Any] = {
        "data": texts,
        "out": out,
        "device": "cpu",
        "seq_len": 96,
        "batch_size": 2,
        "steps": 4,
        "warmup_steps": 2,
        "eval_tokens": 400,
        "eval_every": 0,
        "isolate": False,
    }
    return run(StudyConfig(**(defaults | options)))


@pytest.fixture(scope="module")
def checkpoint(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama trained dense by the study itself from a configuration alone, and saved by it."""
    root = tmp_path_factory.mktemp("checkpoint")
    transformers.LlamaConfig(vocab_size=9, **shape()).save_pretrained(root / "begun")
    study(texts, root / "out", model=str(root / "begun" / "config.json"), tokenizer="bytes", steps=60, lr=0.02)
    return root / "out" / "runs" / "0-dense-seed0" / "model"


def nats_of(model: Any, config: StudyConfig) -> float:
    """Held-out nats by plain code: each sequence alone, the model's own logits."""
    data = load_data(config, StudyFolder(config.out))
    total = 0.0
    with torch.no_grad():
        for number in range(config.num_eval_sequences(data.held_out.num_sequences(config.seq_len))):
            both = torch.from_numpy(data.held_out.sequence(number, config.seq_len).astype(np.int64))[None]
            scores = model.eval()(input_ids=both[:, :-1]).logits.double().log_softmax(-1)
            total -= float(scores.gather(-1, both[:, 1:, None]).sum())
    return total


def records(config: StudyConfig) -> dict[str, RunRecord]:
    places = StudyFolder(config.out).places(config)
    return {place.contender.name: RunRecord.from_dict(read_json(place.record)) for place in places}


def plain(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def test_a_checkpoint_of_the_study_is_one_of_plain_transformers(checkpoint: Path, texts: Path) -> None:
    config = StudyConfig.from_dict(read_json(checkpoint.parents[2] / "study.json")["config"])
    model = plain(checkpoint)
    assert "openwork_plan" not in json.loads((checkpoint / "config.json").read_text())
    assert model.config.vocab_size == 257 and model.config.bos_token_id == model.config.eos_token_id == 256
    assert model.config._attn_implementation == "sdpa"
    assert nats_of(model, config) == pytest.approx(records(config)["dense"].nats, rel=1e-5)
    text = next(texts.rglob("*.py")).read_text() + "\N{SNOWMAN}\t\N{PILE OF POO}"
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    assert tokenizer(text).input_ids == list(text.encode())
    assert tokenizer.decode(tokenizer(text).input_ids) == text and tokenizer.eos_token_id == 256


@pytest.fixture(scope="module")
def tuned(checkpoint: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, StudyResult]:
    """The checkpoint tuned in each way."""
    out = tmp_path_factory.mktemp("tuned")
    return {
        tune: study(texts, out / tune, model=str(checkpoint), tune=tune, contenders=(NEAR,), steps=8, lr=5e-3)
        for tune in ("all", "attention", "lora")
    }


def test_untuned_is_the_checkpoint_with_the_plan_put_on(tuned: dict[str, StudyResult], checkpoint: Path) -> None:
    before = StudyConfig.from_dict(read_json(checkpoint.parents[2] / "study.json")["config"])
    for result in tuned.values():
        found = records(result.config)
        # what the study that trained it measured, on the same text, cut and separated in the same way
        assert found["dense"].untuned_nats == pytest.approx(records(before)["dense"].nats, rel=1e-6)
        assert found["dense"].untuned_nats == pytest.approx(nats_of(plain(checkpoint), result.config), rel=1e-5)
        sparse = sparsify(plain(checkpoint), NEAR.plan)
        assert found["near"].untuned_nats == pytest.approx(nats_of(sparse, result.config), rel=1e-5)


def test_a_mask_breaks_and_tuning_brings_back(tuned: dict[str, StudyResult]) -> None:
    for tune, result in tuned.items():
        dense, near = result.rows
        assert dense.untuned is not None and near.untuned is not None
        assert near.untuned.bits_per_byte > 1.02 * dense.untuned.bits_per_byte
        assert near.bits_per_byte < near.untuned.bits_per_byte
        first, second, *_ = result.verdict.split("\n")
        assert first.startswith(
            f"The checkpoint as it is has perplexity {dense.untuned.perplexity:.4g} on the held-out"
        )
        assert {"all": "all weights", "attention": "weights of attention", "lora": "adapters"}[tune] in first
        assert (
            second.startswith("near: put on untuned, it makes the checkpoint ")
            and " of the way from there to tuned dense attention" in second
        )


def changed(result: StudyResult, name: str, checkpoint: Path) -> dict[str, torch.Tensor]:
    """What a run changed of the checkpoint's weights, by the saved model."""
    place = next(p for p in StudyFolder(result.config.out).places(result.config) if p.contender.name == name)
    before, after = plain(checkpoint).state_dict(), plain(place.directory / "model").state_dict()
    assert before.keys() == after.keys()
    return {key: after[key] - before[key] for key in before if not torch.equal(before[key], after[key])}


def test_only_what_is_tuned_changes(tuned: dict[str, StudyResult], checkpoint: Path) -> None:
    for name in ("dense", "near"):
        everything = changed(tuned["all"], name, checkpoint)
        assert len(everything) == len(plain(checkpoint).state_dict())
        attention, lora = (changed(tuned[tune], name, checkpoint) for tune in ("attention", "lora"))
        projections = {f"model.layers.{n}.self_attn.{p}_proj.weight" for n in (0, 1) for p in "qkvo"}
        assert attention.keys() == lora.keys() == projections
        assert all(torch.linalg.matrix_rank(delta, rtol=1e-4) <= 16 for delta in lora.values())
        assert any(torch.linalg.matrix_rank(delta, rtol=1e-4) > 16 for delta in attention.values())


def test_a_saved_model_is_the_one_that_was_measured(tuned: dict[str, StudyResult]) -> None:
    for result in tuned.values():
        for place in StudyFolder(result.config.out).places(result.config):
            model = plain(place.directory / "model")
            # what was tuned under a plan comes back under it
            sparse = place.contender.name == "near"
            assert getattr(model, "plan", None) == (NEAR.plan if sparse else None)
            found = records(result.config)[place.contender.name]
            assert nats_of(model, result.config) == pytest.approx(found.nats, rel=1e-5)


def test_every_plan_sees_the_same_batches_and_begins_with_the_same_weights(
    checkpoint: Path, texts: Path, tmp_path: Path
) -> None:
    wide = contender_from_text("wide: Causal() & Window(before=95)")
    result = study(texts, tmp_path, model=str(checkpoint), tune="lora", contenders=(wide,), lr=5e-3)
    dense, same = (record for record in result.records)
    assert {"transformers", "peft"} <= result.environment.keys()
    assert dense.backend == "sdpa" and np.allclose(dense.losses, same.losses, rtol=1e-5)
    assert dense.losses[0] != dense.losses[-1]


def test_blocks_can_be_computed_again_and_steps_in_parts(
    tuned: dict[str, StudyResult], checkpoint: Path, texts: Path, tmp_path: Path
) -> None:
    for tune in ("all", "lora"):
        options: dict[str, Any] = {
            "model": str(checkpoint),
            "tune": tune,
            "contenders": (NEAR,),
            "steps": 8,
            "lr": 5e-3,
        }
        again = study(texts, tmp_path / tune, checkpointing=True, accumulate=2, **options)
        for record, other in zip(again.records, tuned[tune].records, strict=True):
            assert np.allclose(record.losses, other.losses, rtol=1e-4)


def test_a_checkpoint_that_was_saved_sparse_begins_dense(
    tuned: dict[str, StudyResult], texts: Path, tmp_path: Path
) -> None:
    result = tuned["all"]
    place = StudyFolder(result.config.out).places(result.config)[1]
    again = study(texts, tmp_path, model=str(place.directory / "model"), tune="all", contenders=(NEAR,), steps=1)
    assert records(again.config)["near"].untuned_nats == pytest.approx(records(result.config)["near"].nats, rel=1e-5)
    assert records(again.config)["dense"].backend == "sdpa"


@pytest.mark.parametrize("tune", ["all", "lora"])
def test_a_run_that_was_stopped_anywhere_ends_like_an_unbroken_one(
    tune: str, checkpoint: Path, texts: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"model": str(checkpoint), "tune": tune, "contenders": (NEAR,), "dense_steps": 2}
    result = study(texts, tmp_path / "whole", **options)
    config = replace(result.config, checkpoint_seconds=0.0)
    data = load_data(config, StudyFolder(config.out))
    asked, sessions = 0, 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked % (2 + sessions % 3) == 0

    (place := tmp_path / "broken").mkdir()
    while True:
        sessions += 1
        try:
            state = Trainer(config, config.everyone[1], 0, data, place, stop=stop).run()
            break
        except Interrupted:
            assert sessions < 50
    whole = records(result.config)["near"]
    assert sessions > 2 and state.untuned["nats"] == whole.untuned_nats
    assert tuple(state.losses) == whole.losses and state.final["nats"] == whole.nats
    assert [change["step"] for change in state.timeline] == [0, 2]


def test_a_run_s_checkpoint_keeps_only_what_is_tuned(tuned: dict[str, StudyResult]) -> None:
    kept = {}
    for tune, result in tuned.items():
        loaded = load_checkpoint(StudyFolder(result.config.out).places(result.config)[0].directory / "checkpoint.pt")
        assert loaded is not None
        kept[tune] = loaded[1]["model"]
    assert all("self_attn" in name for name in kept["attention"])
    assert all("lora_" in name for name in kept["lora"])
    assert "model.embed_tokens.weight" in kept["all"]


def test_a_mask_and_a_schedule_work_on_a_checkpoint(checkpoint: Path, texts: Path, tmp_path: Path) -> None:
    allowed = np.tri(96, dtype=bool) & ~np.tri(96, k=-4, dtype=bool)
    np.save(tmp_path / "band.npy", allowed)
    band = Contender(name="band", mask=tmp_path / "band.npy")
    options: dict[str, Any] = {"model": str(checkpoint), "tune": "attention", "dense_steps": 2, "lr": 5e-3}
    result = study(texts, tmp_path / "out", contenders=(NEAR, band), **options)
    near, mask = records(result.config)["near"], records(result.config)["band"]
    # untuned is the plan itself, though the schedule begins dense
    assert near.untuned_nats == pytest.approx(mask.untuned_nats, rel=1e-5)
    assert near.untuned_nats > 1.02 * records(result.config)["dense"].untuned_nats
    assert np.allclose(near.losses, mask.losses, rtol=1e-5)
    assert near.density[:2] == mask.density[:2] == records(result.config)["dense"].density[:2]
    assert near.density[2:] == mask.density[2:] and near.density[2] < 0.1
    assert not (
        StudyFolder(result.config.out).places(result.config)[2].directory / "model" / "openwork_plan.json"
    ).exists()


def test_a_plan_that_follows_the_text_is_put_on_and_tuned(checkpoint: Path, texts: Path, tmp_path: Path) -> None:
    facts = contender_from_text("facts: Causal() & (Window(before=3) | Keys('definition') | Linked('use'))")
    options: dict[str, Any] = {"model": str(checkpoint), "tune": "all", "lr": 5e-3, "accumulate": 2}
    result = study(texts, tmp_path, contenders=(NEAR, facts), **options)
    near, read = records(result.config)["near"], records(result.config)["facts"]
    # definitions and uses are more than the window alone
    assert min(read.density) > max(near.density) and read.untuned_nats < near.untuned_nats
    # no configuration can make those facts again, so the saved model is dense and the plan lies beside it
    saved = StudyFolder(result.config.out).places(result.config)[2].directory / "model"
    assert Plan.from_json((saved / "openwork_plan.json").read_text()) == facts.plan
    assert plain(saved).config._attn_implementation == "sdpa"


def local(kind: str) -> Any:
    """A configuration whose layers see 8 keys, or a chunk of 8, by themselves."""
    if kind == "window":
        return transformers.MistralConfig(vocab_size=9, **shape(sliding_window=8))
    more = shape(attention_chunk_size=8, num_local_experts=2, intermediate_size_mlp=32, head_dim=8)
    return transformers.Llama4TextConfig(vocab_size=9, **more)


@pytest.mark.parametrize("kind", ["window", "chunk"])
def test_local_layers_of_the_model_stay_local_and_count(kind: str, texts: Path, tmp_path: Path) -> None:
    local(kind).save_pretrained(tmp_path / "begun")
    wide = contender_from_text("wide: Causal() & Window(before=30)")
    config = str(tmp_path / "begun" / "config.json")
    result = study(texts, tmp_path / "out", model=config, tokenizer="bytes", contenders=(wide, NEAR), steps=2)
    q, k = np.mgrid[:96, :96]
    own = (k <= q) & (q - k < 8 if kind == "window" else q // 8 == k // 8)
    allowed = [float(mask.mean()) for mask in (own, own & (q - k <= 30), own & (q - k <= 3))]
    for record, density in zip(result.records, allowed, strict=True):
        assert record.density == pytest.approx([density] * 2)
    assert records(result.config)["dense"].losses == pytest.approx(records(result.config)["wide"].losses, rel=1e-5)


METRIC = """
import torch

def last(model, tokenizer):
    ids = tokenizer("def parse(value):", return_tensors="pt").input_ids
    assert not model.training and not torch.is_grad_enabled()
    torch.rand(7)
    return {"loss": model(input_ids=ids, labels=ids).loss, "tokens": ids.shape[1]}

def number(model, tokenizer):
    return 0.5

def words(model, tokenizer):
    return "much"

def endless(model, tokenizer):
    return float("inf")

def nothing(model, tokenizer):
    return {}

def broken(model, tokenizer):
    return 1 / 0
"""


@pytest.fixture(scope="module")
def metric(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("metric") / "mine.py"
    path.write_text(METRIC)
    return path


def test_the_user_s_metric_is_measured_before_and_after(
    checkpoint: Path, metric: Path, texts: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"model": str(checkpoint), "tune": "all", "contenders": (NEAR,), "lr": 5e-3}
    result = study(texts, tmp_path / "with", metric=f"{metric}:last", **options)
    without = study(texts, tmp_path / "without", **options)
    for record, other in zip(result.records, without.records, strict=True):
        assert record.losses == other.losses and record.nats == other.nats
        model = plain(checkpoint)
        if record.name == "near":
            sparsify(model, NEAR.plan)
        ids = torch.tensor([list(b"def parse(value):")])
        expected = float(model(input_ids=ids, labels=ids).loss.detach())
        assert record.untuned_metrics == pytest.approx({"loss": expected, "tokens": 17})
        assert record.metrics["loss"] != record.untuned_metrics["loss"]
    near = result.rows[1]
    assert f"loss {near.untuned.metrics['loss']:.4g} -> {near.metrics['loss']:.4g}" in result.verdict
    page = (result.config.out / "report.html").read_text()
    assert "What a plan breaks, and what tuning brings back" in page and "untuned perplexity" in page
    assert StudyResult.from_dict(result.to_dict()).rows == result.rows


FACTS = contender_from_text("facts: Causal() & (Window(before=3) | Keys('definition') | Same('document'))")


def test_the_user_s_metric_reads_its_texts_under_a_plan_that_follows_them(
    checkpoint: Path, metric: Path, texts: Path, tmp_path: Path
) -> None:
    within = contender_from_text("within: Causal() & Same('document') & Window(before=3)")
    options: dict[str, Any] = {"model": str(checkpoint), "tune": "all", "contenders": (FACTS, within), "lr": 5e-3}
    result = study(texts, tmp_path / "with", metric=f"{metric}:last", **options)
    without = study(texts, tmp_path / "without", **options)
    found = records(result.config)
    for name, record in records(without.config).items():
        assert found[name].losses == record.losses and found[name].nats == record.nats
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    ids = tokenizer("def parse(value):", return_tensors="pt").input_ids
    model = sparsify(plain(checkpoint), FACTS.plan, annotate=("python", tokenizer))
    expected = float(model(input_ids=ids, labels=ids).loss.detach())
    assert found["facts"].untuned_metrics["loss"] == pytest.approx(expected)
    assert found["facts"].untuned_metrics["loss"] != found["within"].untuned_metrics["loss"]
    near = sparsify(plain(checkpoint), NEAR.plan)
    assert found["within"].untuned_metrics["loss"] == pytest.approx(
        float(near(input_ids=ids, labels=ids).loss.detach())
    )


def test_a_metric_s_texts_need_one_annotator(checkpoint: Path, metric: Path, texts: Path, tmp_path: Path) -> None:
    both = tmp_path / "both"
    shutil.copytree(texts, both)
    (both / "notes.c").write_text("int parse(int value) { return value; }\n" * 40)
    options: dict[str, Any] = {"model": str(checkpoint), "tune": "all", "metric": f"{metric}:last"}
    with pytest.raises(AnnotationError, match=r"the plan reads what c, python make .* name one in the plan"):
        study(both, tmp_path / "several", contenders=(FACTS,), **options)
    assert not (tmp_path / "several").exists()
    named = replace(FACTS, plan=replace(FACTS.plan, annotator="python"))
    result = study(both, tmp_path / "named", contenders=(named,), **options)
    assert records(result.config)["facts"].metrics["tokens"] == 17


def test_no_annotator_knows_the_features_of_the_study_s_own_sequences(texts: Path) -> None:
    documents = read_corpus(texts).training
    assert annotator_of_texts(documents, {"document": "label"}) is None
    with pytest.raises(AnnotationError, match="reads 'exon', which is known of this study's own sequences and of no"):
        annotator_of_texts(documents, {"exon": "label", "definition": "flag"})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("words", r"--metric .*mine.py:words gave str for 'words'; it returns a number, or numbers by name"),
        ("endless", r"--metric .*mine.py:endless gave inf for 'endless'; numbers must be finite"),
        ("nothing", r"--metric .*mine.py:nothing gave no number; it returns a number, or numbers by name"),
        ("broken", r"--metric .*mine.py:broken raised ZeroDivisionError at line 23 of mine.py: division by zero"),
        ("absent", r"--metric .*mine.py:absent: .*mine.py has no function 'absent'; functions and classes in it: last"),
    ],
)
def test_a_metric_that_gives_no_number_is_refused_in_words(
    name: str, message: str, checkpoint: Path, metric: Path, texts: Path, tmp_path: Path
) -> None:
    with pytest.raises(StudyError, match=message):
        study(texts, tmp_path / "out", model=str(checkpoint), tune="all", metric=f"{metric}:{name}")


def test_another_metric_or_tuning_is_another_study(
    tuned: dict[str, StudyResult], checkpoint: Path, metric: Path, texts: Path
) -> None:
    config = tuned["all"].config
    with pytest.raises(StudyError, match=r"other options: --tune \(was all, now lora\)"):
        run(replace(config, tune="lora"))
    with pytest.raises(StudyError, match=r"other options: --metric \(was None, now .*mine.py:number\)"):
        run(replace(config, metric=f"{metric}:number"))
    entries = [
        StudyEntry(path=r.config.out, status="done", changed=datetime.now(UTC), recorded=r.config.to_dict(), result=r)
        for r in (tuned["all"], tuned["lora"])
    ]
    compared = compare_studies(*entries)
    assert "tune" in {difference.what for difference in compared.differences}
    assert all(not outcome.paired for outcome in compared.outcomes)


@pytest.mark.slow
def test_runs_in_processes_of_their_own_give_the_same(checkpoint: Path, texts: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"model": str(checkpoint), "tune": "lora", "contenders": (NEAR,), "steps": 2}
    inside = study(texts, tmp_path / "inside", **options)
    apart = study(texts, tmp_path / "apart", isolate=True, **options)
    assert [record.losses for record in inside.records] == [record.losses for record in apart.records]
    assert [record.untuned_nats for record in inside.records] == [record.untuned_nats for record in apart.records]
    assert all(record.peak_bytes for record in apart.records)
