"""Checkpoints that cannot be tuned, and why, in words."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from openwork.errors import OpenworkError, StudyError
from openwork.hf import sparsify
from openwork.patterns import Causal, Window
from openwork.study import StudyConfig, contender_from_text, run
from openwork.study.metric import Metric
from openwork.study.model import StudyModel
from openwork.study.model_source import function_source

Tiny = Callable[..., StudyConfig]
END = "<|end|>"
SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


def folder(root: Path, *, weights: bool = True) -> Path:
    """A folder as broken as asked."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=[END], show_progress=False)
    tokenizer.train_from_iterator(["def of all that is"] * 9, trainer)
    root.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(root / "tokenizer.json"))
    transformers.LlamaConfig(vocab_size=300, **SHAPE).save_pretrained(root)
    if weights:
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=300, **SHAPE))
        model.save_pretrained(root)
    return root


def edited(root: Path, **values: Any) -> Path:
    path = folder(root) / "config.json"
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))
    return root


def without_head(root: Path) -> Path:
    transformers.LlamaModel(transformers.LlamaConfig(vocab_size=300, **SHAPE)).save_pretrained(folder(root))
    return root


def encoder(root: Path) -> Path:
    transformers.BertConfig(**(SHAPE | {"vocab_size": 300})).save_pretrained(root)
    return root


Make = Callable[[Path], dict[str, Any]]


def of(make: Callable[..., Path], tune: str | None = "all", **options: Any) -> Make:
    """The options of a study on what `make` makes."""
    return lambda place: {"model": str(make(place)), "tune": tune} | options


def bare(place: Path) -> Path:
    return folder(place, weights=False)


def config_of(make: Callable[[Path], Path]) -> Callable[[Path], Path]:
    return lambda place: make(place) / "config.json"


def with_values(**values: Any) -> Callable[[Path], Path]:
    return lambda place: edited(place, **values)


def not_json(place: Path) -> Path:
    (folder(place) / "config.json").write_text("{")
    return place


def sparse(place: Path) -> Path:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder(place))
    sparsify(model, Causal() & Window(before=3)).save_pretrained(place)
    return place


def damaged(place: Path) -> Path:
    (folder(place) / "model.safetensors").write_bytes(b"none")
    return place


def no_config(place: Path) -> Path:
    (folder(place) / "config.json").unlink()
    return place


def no_offsets(place: Path) -> Path:
    (folder(place) / "tokenizer.json").unlink()
    transformers.ByT5Tokenizer().save_pretrained(place)
    return place


TWO_HEADS = (contender_from_text("two: PerHead(Causal(), Causal())"),)
REFUSED: dict[str, tuple[Make, str]] = {
    "no folder": (
        of(lambda p: p / "no"),
        r"--model .*no: there is no such folder. Name a folder on this disk with config",
    ),
    "no word": (
        of(folder, None),
        r"holds trained weights: say what of them to tune, --tune all or attention or lora; or",
    ),
    "no weights": (of(bare), r"has no weights \(\*.safetensors\), so there is nothing to tune; leave --tune out"),
    "config": (
        of(config_of(folder)),
        "--tune all tunes a checkpoint: --model is its folder, with weights and tokenizer",
    ),
    "shape": (lambda p: {"model": "small", "tune": "lora"}, "--tune lora tunes a checkpoint: .* got 'small'"),
    "kind": (of(folder, "heads"), "--tune must be one of all, attention, lora; got 'heads'"),
    "bytes": (of(folder, tokenizer="bytes"), "--tokenizer bytes: a checkpoint is tuned with the tokenizer that it was"),
    "tokenizer": (
        lambda p: {"tokenizer": "model"},
        "--tokenizer model is that of a checkpoint, but --model is 'tiny'",
    ),
    "metric": (
        lambda p: {"metric": "mine.py:words"},
        "--metric is called with a model and a tokenizer of transformers",
    ),
    "text": (of(folder, metric="words"), "--metric is FILE.py:FUNCTION or package.module:FUNCTION; got 'words'"),
    "length": (
        of(folder, seq_len=200),
        "--seq-len 200 is more than the 128 positions of --model .* give at most so many",
    ),
    "json": (of(not_json), "config.json is not JSON: "),
    "type": (of(with_values(model_type=None)), "config.json has no model_type, so it is no model's configuration"),
    "separator": (
        of(with_values(bos_token_id=None, eos_token_id=None)),
        "names no bos_token_id or eos_token_id, one of",
    ),
    "ids": (of(with_values(vocab_size=260)), "its tokenizer has ids up to .*, but the model has 260; they are not of"),
    "size": (of(with_values(vocab_size=None)), "config.json has no vocab_size"),
    "head": (
        of(without_head),
        r"no weights for 1 tensors of LlamaForCausalLM \(lm_head.weight\); it would be tuned from",
    ),
    "t5": (of(with_values(model_type="t5")), "and t5 is none that transformers' AutoModelForCausalLM knows"),
    "encoder": (of(config_of(encoder), None), r"BertLMHeadModel lets tokens see later ones \(is_decoder is not set\)"),
    "heads": (of(folder, contenders=TWO_HEADS), "PerHead of 2 heads, but the model has 4 query heads"),
    "sparse": (
        of(config_of(sparse), None),
        r"carries the plan of a sparse model, .* after openwork.hf.densify\(model\)",
    ),
    "name": (
        lambda p: {"model": "llama", "tune": "all"},
        r"a folder with a Hugging Face checkpoint \(./NAME where it is",
    ),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_tuned_is_refused_in_words(options: Make, message: str, tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(OpenworkError, match=message):
        run(tiny(**{"tokenizer": ""} | options(tmp_path / "model")))
    # weights are looked at when the first run loads them
    assert (tmp_path / "out").exists() == ("no weights for" in message or "Safetensor" in message)


def test_weights_that_change_while_a_study_is_at_work_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    place = folder(tmp_path / "model")
    config = tiny(model=str(place), tune="all", tokenizer="", steps=1)
    run(config)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=300, **SHAPE)).save_pretrained(place)
    with pytest.raises(StudyError, match=r"--model \(the file of .*model has changed\)"):
        run(config)


def test_what_a_model_of_transformers_raises_is_one_line(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = folder(tmp_path / "model", weights=False)
    whole = transformers.models.llama.modeling_llama.LlamaMLP.forward

    def fail(module: object, hidden: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            raise RuntimeError("no such shape\nat all")
        return whole(module, hidden)

    monkeypatch.setattr("transformers.models.llama.modeling_llama.LlamaMLP.forward", fail)
    with pytest.raises(StudyError, match=r"config.json: transformers raised RuntimeError: no such shape\.$"):
        run(tiny(model=str(place / "config.json")))


def test_what_a_metric_draws_changes_nothing_and_is_the_same_again(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import torch\ndef draw(model, tokenizer):\n    return float(torch.rand(()))\n")
    source = function_source(f"{tmp_path}/mine.py:draw", "--metric")
    assert source is not None
    metric, before = Metric(source, source.load(), None), torch.get_rng_state()
    drawn = [metric(StudyModel(torch.nn.Identity()), seed)["draw"] for seed in (3, 3, 4)]
    assert drawn[0] == drawn[1] != drawn[2] and torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("missing", "tune", "message"),
    [
        ("transformers", "all", r"a Hugging Face model needs transformers: pip install 'openwork\[hf\]'"),
        ("peft", "lora", r"--tune lora needs peft: pip install 'openwork\[hf\]'"),
    ],
)
def test_a_library_that_is_missing_is_named(
    missing: str, tune: str, message: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(model=str(folder(tmp_path / "model")), tune=tune, tokenizer="")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(StudyError, match=message):
        run(config)


def test_a_model_that_cannot_be_written_is_one_line(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(model=str(folder(tmp_path / "model")), tune="all", tokenizer="", steps=1)

    def full(*ignored: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("openwork.study.saved.transformers_tokenizer", full)
    with pytest.raises(StudyError, match=r"cannot write the model to .*model: No space left on device\."):
        run(config)
