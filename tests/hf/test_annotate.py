"""Patterns that follow the text: in forward, in generate, under checkpointing, from ids and from raw text."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from annotated import NAMED, PLAN, TEXT, sevens

import openwork as ow
from openwork.annotate import byte_offsets, markdown_headings
from openwork.hf import annotating, densify, sparsify
from openwork.hf.annotate import text_of

CLOSE = {"rtol": 0.0, "atol": 2e-6}


def allowed(ids: torch.Tensor) -> torch.Tensor:
    """Bool `[batch, 1, q, k]`: the definition."""
    length, notes = ids.shape[1], sevens({"input_ids": ids})
    bound = ow.bind(PLAN.default, q_len=length, kv_len=length, annotations=notes)
    return torch.from_numpy(bound.to_dense()).expand(len(ids), -1, -1, -1)


def test_a_function_of_the_batch_is_followed(llama: Any, headed: torch.Tensor) -> None:
    expected = llama(headed, attention_mask=allowed(headed)).logits
    other = headed.flip(0)
    sparse = sparsify(llama, PLAN, annotate=sevens)
    torch.testing.assert_close(sparse(headed).logits, expected, **CLOSE)
    torch.testing.assert_close(sparse(input_ids=other).logits, expected.flip(0), **CLOSE)
    torch.testing.assert_close(sparse.model(headed).last_hidden_state @ llama.lm_head.weight.T, expected, **CLOSE)
    for copied in (copy.deepcopy(sparse), pickle.loads(pickle.dumps(sparse))):
        torch.testing.assert_close(copied(headed).logits, expected, **CLOSE)


def test_padding_moves_no_fact(llama: Any, headed: torch.Tensor) -> None:
    sparse = sparsify(llama, PLAN, annotate=sevens)
    valid = torch.ones_like(headed)
    valid[0, :2] = 0
    together = sparse(headed, attention_mask=valid).logits
    torch.testing.assert_close(together[0, 2:], sparse(headed[:1, 2:]).logits[0], **CLOSE)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cache_implementation": "static"},
        {"num_beams": 3},
        {"num_beams": 3, "cache_implementation": "static"},
        {"prefill_chunk_size": 7},
        {"prefill_chunk_size": 7, "cache_implementation": "static"},
        {"prompt_lookup_num_tokens": 3},
    ],
    ids=str,
)
def test_new_tokens_are_annotated_as_they_come(llama: Any, headed: torch.Tensor, options: dict[str, Any]) -> None:
    # every other token is a heading, so that new ones are, too
    def annotate(batch: Mapping[str, Any]) -> list[ow.Annotations]:
        return [ow.Annotations(len(row), flags={"heading": (row % 2 == 1).numpy()}) for row in batch["input_ids"]]

    sparse = sparsify(llama, PLAN, annotate=annotate)
    if "prompt_lookup_num_tokens" in options:
        headed = headed[:1]
    length: dict[str, Any] = {"max_new_tokens": 14, "min_new_tokens": 14, "do_sample": False}
    beams = {name: value for name, value in options.items() if name == "num_beams"}
    expected = sparse.generate(headed, use_cache=False, **length, **beams)
    assert len(set((expected[:, 40:] % 2).flatten().tolist())) == 2
    assert torch.equal(sparse.generate(headed, **length, **options), expected)


def test_a_cache_by_hand_keeps_the_ids(llama: Any, headed: torch.Tensor) -> None:
    from transformers import DynamicCache

    sparse = sparsify(llama, PLAN, annotate=sevens)
    expected = sparse(headed).logits
    first = sparse(headed[:, :20], use_cache=True)
    middle = sparse(headed[:, 20:31], past_key_values=first.past_key_values)
    last = sparse(headed[:, 31:32], past_key_values=middle.past_key_values)
    torch.testing.assert_close(torch.cat([first.logits, middle.logits, last.logits], 1), expected[:, :32], **CLOSE)
    given = DynamicCache(config=llama.config)
    sparse(headed[:, :20], past_key_values=given)
    torch.testing.assert_close(sparse(headed[:, 20:21], past_key_values=given).logits, expected[:, 20:21], **CLOSE)


@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed:FutureWarning")
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_layers_keep_their_calls_facts(llama: Any, headed: torch.Tensor, reentrant: bool) -> None:
    sparse = sparsify(llama, PLAN, annotate=sevens).train()

    def gradient() -> torch.Tensor:
        sparse.zero_grad()
        # two calls before one backward pass, as preference losses have
        loss = sparse(headed[:1], labels=headed[:1]).loss - 0.5 * sparse(headed[1:], labels=headed[1:]).loss
        loss.backward()
        return torch.cat([parameter.grad.flatten() for parameter in sparse.model.layers.parameters()])

    expected = gradient()
    sparse.gradient_checkpointing_enable({"use_reentrant": reentrant})
    if reentrant:
        sparse.enable_input_require_grads()
    torch.testing.assert_close(gradient(), expected, rtol=0, atol=1e-6)


def test_the_annotator_that_a_plan_names_reads_the_decoded_text(reader: Any, tokenizer: Any) -> None:
    rows = tokenizer([TEXT, TEXT[8:]], padding=True, padding_side="left", return_tensors="pt")
    notes = [markdown_headings(text, byte_offsets(text)) for text in (TEXT, TEXT[8:])]
    for which in (tokenizer, ("markdown", tokenizer), (markdown_headings, tokenizer)):
        sparse = sparsify(reader, NAMED if which is tokenizer else PLAN, annotate=which)
        together = sparse(**rows).logits
        for row, text, facts in zip((0, 1), (TEXT, TEXT[8:]), notes, strict=True):
            length = len(text)
            mask = ow.bind(PLAN.default, q_len=length, kv_len=length, annotations=facts).to_dense()
            alone = densify(copy.deepcopy(sparse))(
                rows["input_ids"][row : row + 1, -length:], attention_mask=torch.from_numpy(mask)
            )
            torch.testing.assert_close(together[row, -length:], alone.logits[0], **CLOSE)


def test_packed_documents_are_texts_of_their_own(reader: Any, tokenizer: Any) -> None:
    sparse = sparsify(reader, NAMED, annotate=tokenizer)
    one, two = (tokenizer(text, return_tensors="pt")["input_ids"] for text in ("no break", "# head\nand tail of it"))
    positions = torch.cat([torch.arange(one.shape[1]), torch.arange(two.shape[1])])[None]
    packed = sparse(torch.cat([one, two], 1), position_ids=positions, use_cache=False).logits
    torch.testing.assert_close(packed[:, one.shape[1] :], sparse(two).logits, **CLOSE)


def test_text_of_ids_grows_as_the_ids_do(tokenizer: Any) -> None:
    text = "# \u00dcber \u20ac und \U0001f600\nText"
    ids = [1, *tokenizer(text)["input_ids"], 2]
    whole, spans = text_of(tokenizer, ids)
    assert whole == text
    assert spans[0].tolist() == spans[-1].tolist() == [0, 0]
    for cut in range(len(ids) + 1):
        part, cut_spans = text_of(tokenizer, ids[:cut])
        assert whole.startswith(part) and np.array_equal(cut_spans, spans[:cut])


def test_raw_text_reaches_the_annotator(reader: Any, tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    seen = []

    def annotate(batch: Mapping[str, Any]) -> list[ow.Annotations]:
        seen.append((batch["text"], [spans.tolist() for spans in batch["offsets"]]))
        return [
            ow.Annotations(len(row), flags={"heading": np.zeros(len(row), dtype=bool)}) for row in batch["input_ids"]
        ]

    from transformers import DataCollatorWithPadding

    collator = annotating(DataCollatorWithPadding(tokenizer, padding=True), tokenizer)
    examples = [{**tokenizer(text), "text": text} for text in ("# A", "# long B")]
    batch = pickle.loads(pickle.dumps(collator))(examples)
    empty = sparsify(reader, PLAN, annotate=annotate)
    empty(**batch)
    assert len(seen) == 1
    empty(**batch)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "openwork.hf"]
    assert "no token of the first call has any of the facts that the plan reads ('heading')" in line
    assert seen[0][0] == ["# A", "# long B"]
    assert seen[0][1][0] == [[0, 1], [1, 2], [2, 3], *[[0, 0]] * 5]
    named = sparsify(reader, NAMED, annotate=tokenizer)
    from_text = named(**batch).logits
    plain = named(**{name: batch[name] for name in ("input_ids", "attention_mask")}).logits
    torch.testing.assert_close(from_text, plain, **CLOSE)
    # the model that is dense again takes the same batches
    assert densify(named)(input_ids=batch["input_ids"]).logits.shape == plain.shape


@pytest.mark.parametrize("raw", [False, True], ids=["ids alone", "raw text"])
def test_a_trainer_trains_under_the_annotated_plan(reader: Any, tokenizer: Any, tmp_path: Any, raw: bool) -> None:
    from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

    texts = [TEXT, "# Longer\n\n" + "word " * 9, "no heading at all", "## Two\ntext"]
    rows = [{"input_ids": tokenizer(text)["input_ids"], "text": text} for text in texts]
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    sparse = sparsify(reader, NAMED, annotate=tokenizer)
    with torch.no_grad():
        batches = [collator([{"input_ids": row["input_ids"]} for row in rows[at : at + 2]]) for at in (0, 2)]
        expected = [sparse(**batch).loss for batch in batches]
        dense = [densify(copy.deepcopy(sparse))(**batch).loss for batch in batches]
    assert (torch.stack(expected) - torch.stack(dense)).abs().min() > 1e-5
    options: dict[str, Any] = {"max_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 0.0}
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        use_cpu=True,
        report_to="none",
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=not raw,
        **options,
    )

    losses = []

    class InOrder(Trainer):
        def compute_loss(self, *given: Any, **named: Any) -> Any:
            loss = super().compute_loss(*given, **named)
            losses.append(loss.detach())
            return loss

        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(rows)

    if raw:
        given, used = rows, annotating(collator, tokenizer)
    else:
        given, used = [{"input_ids": row["input_ids"]} for row in rows], collator
    trainer = InOrder(sparse, arguments, train_dataset=given, data_collator=used)
    trainer.train()
    torch.testing.assert_close(torch.stack(losses), torch.stack(expected), rtol=0, atol=1e-6)


def test_encoders_and_encoder_decoders_are_annotated_each_by_its_own_ids(ids: torch.Tensor, sizes: Any) -> None:
    from transformers import BartConfig, BartForConditionalGeneration

    names = ("encoder_layers", "decoder_layers", "encoder_attention_heads", "decoder_attention_heads")
    special = {name: value for name, value in sizes.items() if name.endswith("token_id") or name == "vocab_size"}
    torch.manual_seed(0)
    config = BartConfig(
        d_model=32,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        decoder_start_token_id=2,
        **dict.fromkeys(names, 2),
        **special,
    )
    bart = BartForConditionalGeneration(config).eval()

    def odd(batch: Mapping[str, Any]) -> list[ow.Annotations]:
        return [ow.Annotations(len(row), flags={"heading": (row % 7 == 1).numpy()}) for row in batch["input_ids"]]

    def allowed(pattern: ow.Pattern, ids: torch.Tensor) -> torch.Tensor:
        length, notes = ids.shape[1], odd({"input_ids": ids})
        return torch.from_numpy(ow.bind(pattern, q_len=length, kv_len=length, annotations=notes).to_dense())

    plan = ow.Plan(
        default=PLAN.default, encoder=ow.Window(before=3, after=3) | ow.Keys("heading") | ow.Queries("heading")
    )
    # of one length, and with other facts
    answer = ids.flip(1)
    read = bart.model.encoder(ids, attention_mask=allowed(plan.encoder.default, ids))
    expected = bart(
        encoder_outputs=read, decoder_input_ids=answer, decoder_attention_mask=allowed(plan.default, answer)
    ).logits
    sparse = sparsify(bart, plan, annotate=odd)
    torch.testing.assert_close(sparse(ids, decoder_input_ids=answer).logits, expected, **CLOSE)
    options: dict[str, Any] = {"max_new_tokens": 9, "do_sample": False, "num_beams": 2}
    assert torch.equal(sparse.generate(ids, **options), sparse.generate(ids, use_cache=False, **options))


def test_ids_of_one_cache_are_not_taken_for_anothers(llama: Any, headed: torch.Tensor) -> None:
    sparse = sparsify(llama, PLAN, annotate=sevens)
    first = headed[:1, :20]
    other = torch.where(first == 7, 8, first)
    kept = sparse(other, use_cache=True).past_key_values
    written = sparse.generate(first, max_new_tokens=2, min_new_tokens=2, do_sample=False)
    # the same lengths and the same last token as the last step of generate
    result = sparse(written[:, 20:21], past_key_values=kept).logits
    expected = sparse(torch.cat([other, written[:, 20:21]], dim=1)).logits[:, -1:]
    torch.testing.assert_close(result, expected, **CLOSE)


def test_layers_share_what_is_made_of_one_batch(
    llama: Any, headed: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from openwork.nn import layouts

    asked, compiled = [], []
    compile_layout = layouts.compile_layout

    def counted(*args: Any, **kwargs: Any) -> Any:
        compiled.append(args)
        return compile_layout(*args, **kwargs)

    def annotate(batch: Mapping[str, Any]) -> list[ow.Annotations]:
        asked.append(batch)
        return sevens(batch)

    monkeypatch.setattr(layouts, "compile_layout", counted)
    sparse = sparsify(llama, PLAN, annotate=annotate)
    sparse(headed)
    assert (len(asked), len(compiled)) == (1, 1)
    # another batch with the same facts needs no new layout
    sparse(torch.where(headed == 7, 7, 9))
    assert (len(asked), len(compiled)) == (2, 1)
