"""A saved sparse model comes back sparse, or raises; never dense in silence."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import openwork as ow
from openwork.errors import PlanError
from openwork.hf import densify, sparsify

PLAN = ow.Plan(default=ow.Causal() & ow.Window(before=5), layers={1: ow.Causal()})


def test_the_plan_travels_in_config_json(llama: Any, ids: torch.Tensor, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    expected = sparsify(llama, PLAN)(ids).logits
    llama.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["attn_implementation"] == "openwork"
    assert ow.Plan.from_json(json.dumps(written["openwork_plan"])) == PLAN
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert loaded.plan == PLAN
    assert torch.equal(loaded(ids).logits, expected)
    again, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert again.plan == PLAN and not info["missing_keys"]


def test_a_densified_model_is_saved_as_any_other(llama: Any, ids: torch.Tensor, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    dense = llama(ids).logits
    densify(sparsify(llama, PLAN)).save_pretrained(tmp_path)
    assert "openwork" not in (tmp_path / "config.json").read_text()
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path).eval()(ids).logits, dense)


@pytest.mark.slow
def test_without_the_import_a_load_raises(llama: Any, tmp_path: Path) -> None:
    sparsify(llama, PLAN).save_pretrained(tmp_path)
    script = f"from transformers import AutoModelForCausalLM as A; A.from_pretrained({str(tmp_path)!r})"
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True)
    assert run.returncode != 0 and 'attn_implementation="openwork"' in run.stderr
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"import openwork.hf; {script}"], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


def test_loaded_dense_by_name_it_says_so(
    llama: Any, ids: torch.Tensor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import AutoModelForCausalLM

    dense = llama(ids).logits
    sparsify(llama, PLAN).save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="sdpa").eval()
    assert torch.equal(loaded(ids).logits, dense)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "openwork.hf"]
    assert "was loaded with attn_implementation='sdpa' and runs dense" in line


def test_a_plan_that_cannot_be_read_back_leaves_a_model_that_does_not_run(
    llama: Any, ids: torch.Tensor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import AutoModelForCausalLM

    mask = torch.ones(40, 40, dtype=torch.bool).tril()
    expected = sparsify(llama, mask)(ids).logits
    llama.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert any("the plan of this checkpoint cannot be read" in record.getMessage() for record in caplog.records)
    with pytest.raises(PlanError, match="has no plan"):
        loaded(ids)
    assert torch.equal(sparsify(loaded, mask)(ids).logits, expected)


def test_a_model_with_a_vision_part_follows_the_plan_in_its_text_part(
    ids: torch.Tensor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import AutoModel, CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaModel

    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
    )
    text = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, pad_token_id=0
    )
    options: dict[str, Any] = {"image_token_index": 63, "vision_feature_layer": -1}
    model = LlavaModel(LlavaConfig(vision_config=vision, text_config=text, **options)).eval()
    images = torch.randn(1, 3, 16, 16)
    row = ids[:1].masked_fill(ids[:1] == 63, 5)
    row[0, 3:7] = 63
    allowed = torch.from_numpy(ow.bind(ow.Causal() & ow.Window(before=5), q_len=40, kv_len=40).to_dense())
    embedded = model(input_ids=row, pixel_values=images, output_hidden_states=True).hidden_states[0]
    expected = model.language_model(inputs_embeds=embedded, attention_mask=allowed).last_hidden_state
    sparse = sparsify(model, ow.Causal() & ow.Window(before=5))
    result = sparse(input_ids=row, pixel_values=images).last_hidden_state
    torch.testing.assert_close(result, expected, rtol=0, atol=2e-6)
    sparse.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(input_ids=row, pixel_values=images).last_hidden_state, result)
    assert loaded.vision_tower.config._attn_implementation == "sdpa"
    assert not [record for record in caplog.records if "dense again" in record.getMessage()]

    def odd(batch: Any) -> list[ow.Annotations]:
        return [ow.Annotations(len(ids), flags={"odd": (ids % 2 == 1).numpy()}) for ids in batch["input_ids"]]

    # the text part is handed embeddings; the ids are those of the model around it
    follows = sparsify(model, ow.Causal() & (ow.Window(before=5) | ow.Keys("odd")), annotate=odd)
    marked = ow.bind(follows.plan.default, q_len=40, kv_len=40, annotations=odd({"input_ids": row})).to_dense()
    expected = densify(copy.deepcopy(model)).language_model(
        inputs_embeds=embedded, attention_mask=torch.from_numpy(marked)
    )
    result = follows(input_ids=row, pixel_values=images).last_hidden_state
    torch.testing.assert_close(result, expected.last_hidden_state, rtol=0, atol=2e-6)


def test_a_checkpoint_that_was_saved_sparse_can_be_made_dense(llama: Any, ids: torch.Tensor, tmp_path: Path) -> None:
    expected = llama(ids).logits
    sparsify(llama, ow.Window(before=2)).save_pretrained(tmp_path)
    loaded = densify(type(llama).from_pretrained(tmp_path))
    assert loaded.config._attn_implementation == "sdpa"
    torch.testing.assert_close(loaded(ids).logits, expected)


@pytest.mark.slow
def test_a_part_that_was_made_sparse_alone_comes_back_sparse_or_not_at_all(tmp_path: Path) -> None:
    from transformers import AutoModel, CLIPConfig, CLIPModel

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": 64, "max_position_embeddings": 20}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config={**sizes, "image_size": 32, "patch_size": 8})).eval()
    images = torch.randn(1, 3, 32, 32)
    dense = model.get_image_features(images)
    dense = getattr(dense, "pooler_output", dense)
    plan = ow.Plan(default=ow.Grid(shape=(4, 4), kernel=3, offset=1) | ow.First(keys=1) | ow.First(queries=1))
    sparsify(model.vision_model, plan)
    expected = model.get_image_features(images)
    expected = getattr(expected, "pooler_output", expected)
    assert (expected - dense).abs().max() > 1e-6
    model.save_pretrained(tmp_path)
    assert not hasattr(model.config, "attn_implementation")
    script = f"from transformers import AutoModel as A; A.from_pretrained({str(tmp_path)!r})"
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True)
    assert run.returncode != 0 and 'attn_implementation="openwork"' in run.stderr
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert loaded.vision_model.plan == plan
    result = loaded.get_image_features(images)
    assert torch.equal(getattr(result, "pooler_output", result), expected)
    assert loaded.text_model.config._attn_implementation == "sdpa"
    densify(model.vision_model)
    model.save_pretrained(tmp_path / "dense")
    assert "openwork" not in (tmp_path / "dense" / "config.json").read_text()
