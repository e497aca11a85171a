"""Annotated plans: what is refused, and in which words."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from annotated import NAMED, PLAN, TEXT, sevens

import openwork as ow
from openwork.annotate import annotator, markdown_headings
from openwork.errors import AnnotationError
from openwork.hf import annotating, sparsify


def test_a_cache_that_another_model_filled_is_refused(llama: Any, headed: torch.Tensor) -> None:
    dense = copy.deepcopy(llama)(headed[:, :20], use_cache=True)
    sparse = sparsify(llama, PLAN, annotate=sevens)
    with pytest.raises(
        AnnotationError, match=r"reads 'heading', but the ids .* continues a cache that it did not fill"
    ):
        sparse(headed[:, 20:21], past_key_values=dense.past_key_values)
    with pytest.raises(AnnotationError, match="the model was called with embeddings"):
        sparse(inputs_embeds=torch.zeros(1, 9, 32))


def test_a_collator_needs_text_and_spans(tokenizer: Any) -> None:
    with pytest.raises(
        AnnotationError, match=r"raw text of each example under 'text'; got \['input_ids'\].*remove_unused"
    ):
        annotating(dict)([{"input_ids": [3]}])
    with pytest.raises(AnnotationError, match=r"offset_mapping in each example .*annotating\(collator, tokenizer\)"):
        annotating(dict)([{"input_ids": [3], "text": "a"}])
    short = annotating(lambda rows: {"input_ids": torch.zeros(1, 2)}, tokenizer)
    with pytest.raises(AnnotationError, match="example 0 has spans for 3 tokens, but 2 in the batch"):
        short([{"text": "abc"}])


def test_a_plan_that_reads_facts_needs_an_annotator_at_once(llama: Any, headed: torch.Tensor) -> None:
    dense = llama(headed).logits
    with pytest.raises(
        AnnotationError, match=r"reads 'heading', and nothing makes it: .*annotate=\('markdown', tokeni"
    ):
        sparsify(llama, PLAN)
    with pytest.raises(AnnotationError, match=r"reads 'heading' by the annotator 'markdown'.*annotate=tokenizer"):
        sparsify(llama, NAMED)
    assert torch.equal(llama(headed).logits, dense)
    sparsify(llama, ow.Causal())
    with pytest.raises(AnnotationError, match="nothing makes it"):
        llama.set_plan(PLAN)


def test_annotators_that_do_not_fit_are_refused(llama: Any, tokenizer: Any) -> None:
    class Slow:
        is_fast = False

        def convert_ids_to_tokens(self) -> None: ...

    with pytest.raises(AnnotationError, match=r"Slow has no offsets: .*fast tokenizer"):
        sparsify(llama, NAMED, annotate=Slow())
    with pytest.raises(AnnotationError, match="annotate is a tokenizer, but the plan names no annotator"):
        sparsify(llama, PLAN, annotate=tokenizer)
    with pytest.raises(AnnotationError, match="'markdown' reads text, and a model has token ids"):
        sparsify(llama, PLAN, annotate="markdown")
    with pytest.raises(AnnotationError, match=r"a tokenizer, or \(annotator, tokenizer\); got int"):
        sparsify(llama, PLAN, annotate=3)
    future = annotator(markdown_headings, name="future", causal=False)
    with pytest.raises(AnnotationError, match="'future' is not causal"):
        sparsify(llama, PLAN, annotate=(future, tokenizer))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            lambda ids: [ow.Annotations(3, flags={"heading": [True, False, False]})] * 2,
            "described 3 tokens, .* read 40",
        ),
        (lambda ids: sevens({"input_ids": ids}) * 2, "described 4 rows of a batch of 2"),
        (lambda ids: "heading", "must return openwork.Annotations, one for each row of the batch; got str"),
    ],
)
def test_wrong_answers_of_an_annotator_raise(llama: Any, headed: torch.Tensor, answer: Any, message: str) -> None:
    sparse = sparsify(llama, PLAN, annotate=lambda batch: answer(batch["input_ids"]))
    with pytest.raises(AnnotationError, match=message):
        sparse(headed)


def test_a_loaded_annotated_model_asks_for_its_annotator(reader: Any, tokenizer: Any, tmp_path: Any) -> None:
    from transformers import AutoModelForCausalLM

    rows = tokenizer([TEXT], return_tensors="pt")
    expected = sparsify(reader, NAMED, annotate=tokenizer)(**rows).logits
    reader.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with pytest.raises(AnnotationError, match=r"loaded model reads facts .*sparsify\(model, model\.plan, annotate="):
        loaded(**rows)
    assert torch.equal(sparsify(loaded, loaded.plan, annotate=tokenizer)(**rows).logits, expected)
