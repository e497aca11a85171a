"""Micro-runs of transformers models: from a config.json, a folder or a function; the three ways beside each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="the extra hf is not installed")

import openwork as ow  # noqa: E402
from openwork.errors import PlanError, StudyError  # noqa: E402
from openwork.hf import sparsify  # noqa: E402
from openwork.study.bench import BenchConfig, run_bench  # noqa: E402
from openwork.study.bench.config import DENSE, MASK, SPARSE  # noqa: E402
from openwork.study.bench.source import bench_model  # noqa: E402
from openwork.study.bench.words import verdict  # noqa: E402
from openwork.study.contender import Contender, contender_from_text  # noqa: E402

DECODER = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 90,
}
GROUPED = {**DECODER, "num_key_value_heads": 2, "head_dim": 8}
KINDS = {
    "llama": (transformers.LlamaConfig, GROUPED),
    "gpt2": (transformers.GPT2Config, {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 90}),
    "mistral": (transformers.MistralConfig, {**GROUPED, "sliding_window": 20}),
    "gemma2": (transformers.Gemma2Config, {**GROUPED, "sliding_window": 20}),
    "bert": (transformers.BertConfig, DECODER),
    "bart": (
        transformers.BartConfig,
        {
            "d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 4,
            "decoder_attention_heads": 4, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "vocab_size": 90,
        },
    ),
}  # fmt: skip
PLAN = contender_from_text("near: Window(before=30, after=30)")
LENGTH = 100


def saved(tmp_path: Path, name: str, **changes) -> Path:
    kind, sizes = KINDS[name]
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    kind(**{**sizes, **special, **changes}).save_pretrained(tmp_path / name)
    return tmp_path / name / "config.json"


def config(model, **changes) -> BenchConfig:
    given = {"model": str(model), "contenders": (PLAN,), "seq_lens": (LENGTH,), "steps": 1}
    return BenchConfig(**{**given, **changes})


def spread_out(model) -> None:
    """Weights so large that who sees whom matters."""
    torch.manual_seed(0)
    for parameter in model.module.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)


@pytest.mark.parametrize("name", KINDS)
def test_sparse_is_the_mask_and_not_dense(tmp_path, name) -> None:
    model = bench_model(config(saved(tmp_path, name)))
    spread_out(model)
    inputs, plan = model.inputs(2, LENGTH, seed=0), ow.Plan(default=ow.Window(before=9, after=9))
    ways = {DENSE: model.dense(LENGTH), MASK: model.masked(plan, LENGTH), SPARSE: model.sparse(plan, LENGTH, "auto")}
    losses = {}
    for way, made in ways.items():
        # the masked way keeps its masks after the first call
        losses[way] = [made.loss(inputs).item() for _ in range(2)]
        assert losses[way][0] == losses[way][1]
    assert losses[SPARSE][0] == pytest.approx(losses[MASK][0], rel=1e-5)
    assert abs(losses[DENSE][0] - losses[MASK][0]) > 1e-3


@pytest.mark.parametrize("name", KINDS)
def test_gradients_are_those_of_the_reference(tmp_path, name) -> None:
    result = run_bench(config(saved(tmp_path, name), batch_sizes=(2,)))
    assert result.passed and result.checks[0].seq_len == LENGTH
    assert result.checks[0].largest_difference < 1e-4
    assert all(row.samples_s for row in result.rows)
    assert result.causal is (name not in ("bert", "bart"))
    eager = name == "gemma2"
    assert result.row(MASK, "near", LENGTH, 2).backend == ("eager with a mask" if eager else "sdpa with a mask")


def test_pairs_are_those_of_plan_and_own_window(tmp_path) -> None:
    dense = run_bench(config(saved(tmp_path, "mistral"), forward_only=True)).rows[0]
    # sliding_window counts the query: 19 before it
    own = sum(min(q, 19) + 1 for q in range(LENGTH))
    assert dense.useful_flops == 4 * 8 * 4 * 2 * own
    sparse = run_bench(config(saved(tmp_path, "mistral"), forward_only=True)).row(SPARSE, "near", LENGTH, 1)
    assert sparse.useful_flops == dense.useful_flops
    wide = run_bench(config(saved(tmp_path, "llama"), forward_only=True))
    assert wide.rows[0].useful_flops == 4 * 8 * 4 * 2 * LENGTH * (LENGTH + 1) // 2
    assert wide.row(SPARSE, "near", LENGTH, 1).useful_flops == 4 * 8 * 4 * 2 * sum(
        min(q, 30) + 1 for q in range(LENGTH)
    )


def test_the_masked_way_is_a_plain_model_with_a_4d_mask(tmp_path) -> None:
    model = bench_model(config(saved(tmp_path, "llama")))
    spread_out(model)
    inputs, plan = model.inputs(2, LENGTH, seed=0), ow.Plan(default=ow.Window(before=9, after=9))
    mask = ow.compile_layout(ow.Causal() & ow.Window(before=9), q_len=LENGTH, kv_len=LENGTH).to_dense()
    with torch.no_grad():
        expected = model.module(**inputs, attention_mask=torch.from_numpy(mask)).logits[:, -1:]
        for eager in (False, True):
            way = model.masked(plan, LENGTH, eager=eager)
            for _ in range(2):
                torch.testing.assert_close(way.forward(inputs), expected)


def test_every_layer_has_its_own_mask(tmp_path) -> None:
    plan = ow.Plan(default=ow.Window(before=9), layers={1: ow.PerHead(*[ow.Window(before=n) for n in (3, 5, 7, 90)])})
    model = bench_model(config(saved(tmp_path, "llama")))
    spread_out(model)
    inputs = model.inputs(1, LENGTH, seed=0)
    torch.testing.assert_close(model.sparse(plan, LENGTH, "auto").loss(inputs), model.masked(plan, LENGTH).loss(inputs))
    result = run_bench(config(saved(tmp_path, "llama"), contenders=(Contender(name="p", plan=plan),)))
    assert result.passed


def test_generation_is_timed_dense_and_sparse(tmp_path) -> None:
    result = run_bench(config(saved(tmp_path, "llama"), new_tokens=4, batch_sizes=(2,)))
    for way in (DENSE, SPARSE):
        row = result.row(way, "near", LENGTH, 2)
        assert len(row.first_token_s) == 3 and len(row.token_s) == 9 and min(row.first_token_s + row.token_s) > 0
    assert result.row(MASK, "near", LENGTH, 2).token_s == ()
    assert any("near generating after 100 tokens, batch 2: first token" in line for line in verdict(result))


def test_a_folder_brings_its_weights(tmp_path) -> None:
    torch.manual_seed(3)
    original = transformers.LlamaForCausalLM(transformers.LlamaConfig(**GROUPED))
    original.save_pretrained(tmp_path / "mine")
    model = bench_model(config(tmp_path / "mine"))
    assert model.weights == "of model.safetensors" and model.title == "LlamaForCausalLM of mine"
    assert model.module.lm_head.weight.equal(original.lm_head.weight)
    # the configuration alone stands for random ones
    alone = bench_model(config(tmp_path / "mine" / "config.json"))
    assert alone.weights == "random" and not alone.module.lm_head.weight.equal(original.lm_head.weight)


def test_a_sparse_checkpoint_has_a_dense_baseline(tmp_path) -> None:
    original = sparsify(transformers.LlamaForCausalLM(transformers.LlamaConfig(**GROUPED)), ow.Window(before=3))
    original.save_pretrained(tmp_path / "mine")
    model = bench_model(config(tmp_path / "mine"))
    assert model.dense(LENGTH).layouts[0].allowed_pairs == LENGTH * (LENGTH + 1) // 2
    assert model.dense(LENGTH).backend == "sdpa"


def test_a_function_may_give_a_transformers_model(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = json.dumps(GROUPED)
    Path("mine.py").write_text(
        f"from transformers import LlamaConfig, LlamaModel\ndef make(): return LlamaModel(LlamaConfig(**{sizes}))\n"
    )
    result = run_bench(config("mine.py:make"))
    assert result.model == "LlamaModel of mine.py:make" and result.passed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seq_lens": (2000,)}, "--seq-len 2,000: GPT2LMHeadModel of config.json reads at most 1,024 tokens."),
        ({"seq_lens": (1020,), "new_tokens": 9}, "--seq-len 1,020 and --generate 9: GPT2LMHeadModel of config.json"),
    ],
)
def test_a_sequence_longer_than_the_table_of_positions_is_refused(tmp_path, changes, message) -> None:
    with pytest.raises(StudyError) as error:
        run_bench(config(saved(tmp_path, "gpt2"), **changes))
    assert message in str(error.value)


def test_what_is_no_checkpoint_is_refused(tmp_path) -> None:
    def refused(model, content: str | None = None) -> str:
        if content is not None:
            Path(model).write_text(content)
        with pytest.raises(StudyError) as error:
            bench_model(config(model))
        return str(error.value)

    assert f"MODEL {tmp_path} has no config.json; name a folder of a transformers model" in refused(tmp_path)
    assert "absent.json" in refused(tmp_path / "absent.json")
    file = tmp_path / "broken.json"
    assert "broken.json cannot be read as JSON: Expecting" in refused(file, "{")
    assert 'broken.json says no "model_type"' in refused(file, "[1]")
    unknown = refused(file, '{"model_type": "nobodys"}')
    assert "broken.json: transformers cannot make this model: " in unknown and "nobodys" in unknown


def test_models_that_cannot_be_made_sparse_are_refused_by_name(tmp_path) -> None:
    transformers.GPTJConfig(n_embd=32, n_layer=1, n_head=2, rotary_dim=4, vocab_size=90).save_pretrained(tmp_path / "j")
    with pytest.raises(PlanError, match="GPTJForCausalLM cannot be made sparse"):
        bench_model(config(tmp_path / "j"))
    transformers.ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2).save_pretrained(tmp_path / "v")
    with pytest.raises(StudyError, match="reads pixel_values; openwork bench runs models that read token ids"):
        bench_model(config(tmp_path / "v"))


def test_a_plan_that_does_not_fit_is_refused(tmp_path) -> None:
    plan = ow.Plan(default=ow.Causal(), layers={40: ow.Causal()})
    with pytest.raises(PlanError, match="the plan names layer 40, but the model has 2 layers"):
        run_bench(config(saved(tmp_path, "llama"), contenders=(Contender(name="p", plan=plan),)))


def test_low_precision_is_compared_with_its_own_reference(tmp_path) -> None:
    result = run_bench(config(saved(tmp_path, "llama"), dtype="bfloat16"))
    assert result.passed and 1e-4 < result.checks[0].error < 1e-1
