"""Act 2: what is planted, what the mask predicts, and that training is measured on it."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

import openwork as ow
from openwork.errors import ArgumentError, DataError
from openwork.study.acts.lookups import Planted, names_of, numbers_of, plant
from openwork.study.acts.reach import PLANS, ReachConfig, ReachResult, measure_reach

from .conftest import Code

SIZES = {"length": 256, "num_far": 4, "num_near": 4}
TINY = ReachConfig(texts=32, test_texts=16, steps=3, eval_every=2, batch_size=16, dim=16)


@pytest.fixture(scope="module")
def planted(code: Code) -> list[Planted]:
    choices = numbers_of(code.tokenizer_json)
    return plant(code.files, code.tokenizer, names_of(code.tokenizer_json), choices, count=12, seed=3, **SIZES)


def test_each_lookup_asks_for_the_number_of_the_definition_of_its_name(planted: list[Planted], code: Code) -> None:
    for text in planted:
        offsets = code.tokenizer.offsets(text.text)
        assert len(text.ids) == 256 and len(text.lookups) == 8 and sum(text.far) == 4
        for link, answer in zip(text.lookups, text.answers, strict=True):
            defined = re.search(rf"^def {link.name}\(\): return (\d)$", text.text, re.MULTILINE)
            used = re.search(rf"^assert {link.name}\(\) == (\d)$", text.text, re.MULTILINE)
            assert defined is not None and used is not None and defined[1] == used[1]
            # the answer is the token after the one that asks, the key is the number in the definition
            assert text.text[slice(*offsets[link.query + 1])].strip() == used[1]
            assert offsets[link.query + 1][1] == used.end(1)
            assert offsets[link.keys[0]][1] == defined.end(1)
            assert text.ids[link.query + 1] == text.ids[link.keys[0]] == answer


def test_the_annotator_finds_every_planted_definition_and_use(planted: list[Planted]) -> None:
    for text in planted:
        for link in text.lookups:
            assert text.annotations.flags["definition"][link.keys[0]]
            spans = text.annotations.links["use"]
            here = spans[(spans[:, 0] <= link.query - 1) & (link.query - 1 < spans[:, 1])]
            assert any(first <= link.keys[0] < stop for *_, first, stop in here)


def test_near_definitions_are_within_a_window_and_far_ones_beyond_what_layers_carry(planted: list[Planted]) -> None:
    for text in planted:
        for link, far in zip(text.lookups, text.far, strict=True):
            distance = link.query - link.keys[0]
            assert (distance > 2 * (31 + 3)) if far else (distance <= 31)


def test_the_same_seed_plants_the_same_texts_and_another_others(planted: list[Planted], code: Code) -> None:
    arguments = (code.files, code.tokenizer, names_of(code.tokenizer_json), numbers_of(code.tokenizer_json))
    again = plant(*arguments, count=12, seed=3, **SIZES)
    assert [text.text for text in again] == [text.text for text in planted]
    others = plant(*arguments, count=12, seed=4, **SIZES)
    assert not {text.text for text in others} & {text.text for text in planted}


def test_text_without_code_is_refused(code: Code) -> None:
    with pytest.raises(DataError, match="no file has 256 tokens in short lines of code"):
        plant(["x = 1\n"], code.tokenizer, names_of(code.tokenizer_json), ["1"], count=1, seed=0, **SIZES)


def test_a_vocabulary_without_words_is_refused() -> None:
    with pytest.raises(DataError, match="has 0 words of one token"):
        names_of(json.dumps({"model": {"vocab": {"a": 0}}}))
    with pytest.raises(DataError, match="has 0 digits of one token"):
        numbers_of(json.dumps({"model": {"vocab": {"a": 0}}}))


@pytest.fixture(scope="module")
def result(code: Code) -> ReachResult:
    return measure_reach(code.files, code.tokenizer, code.tokenizer_json, TINY)


def test_the_prediction_is_that_of_boolean_matrices(result: ReachResult, code: Code) -> None:
    choices = numbers_of(code.tokenizer_json)
    test = plant(code.files, code.tokenizer, names_of(code.tokenizer_json), choices, count=16, seed=1, **SIZES)
    for row in result.rows:
        found = []
        for text in test:
            arguments = {"q_len": 256, "kv_len": 256}
            attention = ow.bind(ow.parse_pattern(row.pattern), annotations=text.annotations, **arguments).to_dense()
            mixing = ow.bind(ow.parse_pattern("Causal() & Window(before=3)"), **arguments).to_dense()
            known = np.eye(256, dtype=np.int64)
            for _ in range(2):
                for step in (mixing[0, 0], attention[0, 0]):
                    known = ((step | np.eye(256, dtype=bool)).astype(np.int64) @ known > 0).astype(np.int64)
            found += [known[link.query, link.keys[0]] for link in text.lookups]
        assert row.reached == pytest.approx(np.mean(found))
        share = row.reached + (1 - row.reached) / len(choices)
        assert row.predicted == pytest.approx(share)
    assert [round(row.reached, 2) for row in result.rows] == [1.0, 0.5, 1.0]


def test_the_accuracy_is_measured_at_every_stage_and_at_the_end(result: ReachResult) -> None:
    assert [row.name for row in result.rows] == list(PLANS)
    assert result.num_lookups == 16 * 8
    for row in result.rows:
        assert [step for step, _ in row.curve] == [2, 3]
        assert row.accuracy == pytest.approx((row.accuracy_far + row.accuracy_near) / 2)
        assert 0 <= row.accuracy <= 1


def test_the_result_survives_json(result: ReachResult) -> None:
    assert ReachResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_texts": 0}, "ReachConfig test_texts must be 1 or more; got 0"),
        ({"num_near": 3}, "ReachConfig num_near counts in pairs; got 3"),
        ({"conv_width": 1}, "ReachConfig conv_width counts the token itself, so 2 or more; got 1"),
    ],
)
def test_sizes_that_mean_nothing_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        replace(TINY, **change)


def test_every_text_is_judged_and_threads_are_as_before(code: Code) -> None:
    before = torch.get_num_threads()
    result = measure_reach(code.files, code.tokenizer, code.tokenizer_json, replace(TINY, steps=1, test_texts=9))
    assert result.num_lookups == 9 * 8
    assert torch.get_num_threads() == before
    shares = {row.accuracy * 72 for row in result.rows}
    assert all(share == pytest.approx(round(share)) for share in shares)


def test_other_seeds_give_other_texts(result: ReachResult, code: Code) -> None:
    other = measure_reach(code.files, code.tokenizer, code.tokenizer_json, replace(TINY, steps=1, seed=7))
    assert other.example != result.example


@pytest.mark.slow
def test_dense_attention_learns_what_it_reaches_and_a_window_no_more_than_it_reaches(code: Code) -> None:
    config = ReachConfig(texts=256, test_texts=32, steps=110, eval_every=110)
    rows = {row.name: row for row in measure_reach(code.files, code.tokenizer, code.tokenizer_json, config).rows}
    assert rows["dense"].accuracy > 0.9
    assert rows["window + definitions"].accuracy > 0.9
    assert rows["window"].accuracy == pytest.approx(rows["window"].predicted, abs=0.06)
