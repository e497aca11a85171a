"""A micro-run on a model of the package's own: three ways that compute what they say, and figures that add up."""

from __future__ import annotations

import json

import pytest
import torch

import openwork as ow
from openwork.errors import BackendError, PlanError, StudyError
from openwork.nn import SparseAttention
from openwork.ops.backends.cpu_native import absence
from openwork.study.bench import BenchConfig, BenchResult, run_bench
from openwork.study.bench import run as run_module
from openwork.study.bench.config import DENSE, EAGER, MASK, SPARSE, parse_numbers
from openwork.study.bench.figures import BACKWARD, attention_flops, gradient_bytes, kept_bytes, other_flops
from openwork.study.bench.gradients import check_gradients
from openwork.study.bench.source import bench_model
from openwork.study.bench.words import verdict
from openwork.study.contender import Contender, contender_from_text

WINDOW = "window: Causal() & Window(before=15)"


def config(**changes) -> BenchConfig:
    given = {"model": "tiny", "contenders": (contender_from_text(WINDOW),), "seq_lens": (192,), "steps": 3}
    return BenchConfig(**{**given, **changes})


@pytest.fixture(scope="module")
def measured() -> BenchResult:
    plans = (contender_from_text(WINDOW), contender_from_text("Chunk(32)"))
    return run_bench(config(contenders=plans, batch_sizes=(1, 2)))


def test_every_way_is_measured_at_every_batch_size(measured) -> None:
    assert measured.runs == ((192, 1), (192, 2))
    for seq_len, batch_size in measured.runs:
        rows = [row for row in measured.rows if (row.seq_len, row.batch_size) == (seq_len, batch_size)]
        ways = [(row.plan, row.way) for row in rows]
        assert ways == [("", DENSE), *((plan, way) for plan in ("window", "Chunk(32)") for way in (MASK, SPARSE))]
        for row in rows:
            assert len(row.samples_s) == len(row.processor_s) == 3 and min(row.samples_s) > 0
            assert row.times.low <= row.seconds <= row.times.high
    # two heads: too few, at this length, for one sequence
    assert measured.row(DENSE, "", 192, 1).backend == "sdpa"
    assert measured.row(DENSE, "", 192, 2).backend == ("cpu" if absence() is None else "sdpa")
    assert measured.row(SPARSE, "window", 192, 1).backend in ("cpu", "gather")


def test_flops_follow_from_the_pairs(measured) -> None:
    layers, heads, head_dim, length = 2, 2, 32, 192
    per_pair = 4 * head_dim * heads * layers * (1 + BACKWARD)
    pairs = sum(min(q, 15) + 1 for q in range(length))
    causal = length * (length + 1) // 2
    for batch in (1, 2):
        sparse, mask, dense = (measured.row(way, "window", length, batch) for way in (SPARSE, MASK, DENSE))
        assert sparse.useful_flops == mask.useful_flops == batch * per_pair * pairs
        assert dense.useful_flops == batch * per_pair * causal
        # a mask skips nothing
        assert mask.executed_flops == batch * per_pair * length * length
        assert sparse.useful_flops < sparse.executed_flops < mask.executed_flops
        assert measured.attention_ideal(sparse) == pytest.approx(causal / pairs)
        assert measured.step_ideal(sparse) == (dense.useful_flops + dense.other_flops) / sparse.flops
        assert measured.eager_bytes[f"{length} x {batch}"] == 4 * length * length * heads * layers * batch


def test_a_plan_that_is_not_causal_is_made_so(measured) -> None:
    row = measured.row(SPARSE, "Chunk(32)", 192, 1)
    assert row.useful_flops == 4 * 32 * 2 * 2 * (1 + BACKWARD) * 6 * (32 * 33 // 2)


def test_the_rest_of_the_model_counts_three_products_a_step() -> None:
    model = bench_model(config())
    assert other_flops(model, 2, 10, forward_only=True) == 2 * model.matrix_numbers * 20
    assert other_flops(model, 2, 10, forward_only=False) == 6 * model.matrix_numbers * 20


def test_speedup_compares_round_by_round(measured) -> None:
    row, dense = measured.row(SPARSE, "window", 192, 1), measured.row(DENSE, "", 192, 1)
    ratios = sorted(theirs / own for theirs, own in zip(dense.samples_s, row.samples_s, strict=True))
    assert measured.speedup(row).median == pytest.approx(ratios[1], abs=1e-6)
    assert measured.speedup(row).num_samples == 3


def test_gradients_are_checked_and_named(measured) -> None:
    for check in measured.checks:
        assert check.passed and check.finite and check.equal
        assert 0 < check.error < 1e-5 and 0 < check.own_error < 1e-5 and check.parameter
        assert check.largest_difference is not None and 0 < check.largest_difference < 1e-5
    assert measured.passed


def test_the_result_survives_json(measured) -> None:
    written = json.loads(json.dumps(measured.to_dict()))
    assert written["openwork_bench"] == 1 and written["passed"] is True
    assert written["rows"][2]["over_dense"]["num_samples"] == 3 and written["rows"][0]["over_dense"] is None
    assert BenchResult.from_dict(written) == measured


def test_the_three_ways_compute_what_they_say() -> None:
    model = bench_model(config())
    with torch.no_grad():
        for layer in model.module.modules():
            if isinstance(layer, SparseAttention):
                # the study's decoder starts every block as the identity
                torch.nn.init.normal_(layer.out_proj.weight, std=0.2)
    plan, inputs = ow.Plan(default=ow.Window(before=7)), model.inputs(2, 50, seed=0)
    dense, mask, sparse = model.dense(50), model.masked(plan, 50), model.sparse(plan, 50, "auto")
    own = model.module(inputs["tokens"], [ow.compile_layout(ow.Causal(), q_len=50, kv_len=50)] * 2)
    windowed = model.module(inputs["tokens"], [ow.compile_layout(ow.Causal() & plan.default, q_len=50, kv_len=50)] * 2)
    torch.testing.assert_close(dense.forward(inputs), own)
    torch.testing.assert_close(mask.forward(inputs), windowed)
    torch.testing.assert_close(sparse.forward(inputs), windowed)
    assert (own - windowed).abs().max() > 1e-3
    assert all(a is b for a, b in zip(mask.module.parameters(), model.module.parameters(), strict=True))


def test_wrong_gradients_are_seen(monkeypatch) -> None:
    model = bench_model(config())
    plan = ow.Plan(default=ow.Window(before=7))
    right = type(model).sparse

    def wrong(self, plan, seq_len, backend):
        return right(self, ow.Plan(default=ow.Window(before=6)), seq_len, backend)

    monkeypatch.setattr(type(model), "sparse", wrong)
    for layer in model.module.modules():
        if isinstance(layer, SparseAttention):
            torch.nn.init.normal_(layer.out_proj.weight, std=0.2)
    check = check_gradients(model, plan, name="w", seq_len=64, backend="auto", seed=0)
    assert check.finite and not check.equal and not check.passed
    assert check.error > 10 * check.own_error


def test_gradients_that_are_no_numbers_are_seen(monkeypatch) -> None:
    def broken(self, query, key, value, layout):
        return query * float("nan")

    model = bench_model(config())
    right = type(model).sparse

    def sparse(self, plan, seq_len, backend):
        way = right(self, plan, seq_len, backend)
        for layer in way.module.modules():
            if isinstance(layer, SparseAttention):
                layer.attend = lambda query, key, value, layout: query * float("nan")
        return way

    monkeypatch.setattr(type(model), "sparse", sparse)
    result = run_bench(config(steps=1))
    assert not result.checks[0].finite and not result.checks[0].largest_finite and not result.passed
    assert "gradients are NOT finite. Do not train with it." in "\n".join(verdict(result))


def test_kept_bytes_count_each_storage_once() -> None:
    weight = torch.nn.Parameter(torch.ones(100, 100))
    module = torch.nn.ParameterList([weight])
    inputs = {"x": torch.ones(10, 100)}

    def compute(inputs):
        hidden = inputs["x"] @ weight
        # exp keeps its output; the product keeps both factors, which are that output
        return (hidden.exp() * hidden.exp().detach()).sum()

    kept = kept_bytes(compute, module, inputs)
    assert kept == 2 * 4000 + 4000


def test_theory_stands_beside_memory(measured) -> None:
    model = bench_model(config())
    one, two = measured.row(DENSE, "", 192, 1), measured.row(DENSE, "", 192, 2)
    kept = two.theory_bytes - one.theory_bytes
    assert one.theory_bytes == pytest.approx(gradient_bytes(model) + kept, rel=1e-6)
    mask = measured.row(MASK, "window", 192, 1)
    assert mask.held_bytes == 192 * 192 and mask.theory_bytes == one.theory_bytes + mask.held_bytes
    # a forward pass keeps the logits, one number for each token and id
    assert kept > 192 * 4096 * 4


def test_a_way_that_cannot_fit_is_left_out_with_the_reason(monkeypatch) -> None:
    monkeypatch.setattr(run_module, "free_memory", lambda device: 1000)
    result = run_bench(config(steps=1))
    assert all(row.skipped and not row.samples_s for row in result.rows)
    text = "\n".join(verdict(result))
    assert "window at 192 tokens, batch 1: not measured; the sparse step needs about 0.0 GB" in text


def test_a_way_needs_more_than_its_theory_to_fit(monkeypatch, measured) -> None:
    theory = measured.row(DENSE, "", 192, 1).theory_bytes
    for over, fits in ((1.2, False), (1.6, True)):
        monkeypatch.setattr(run_module, "free_memory", lambda device, over=over: int(over * theory))
        row = run_bench(config(steps=1, batch_sizes=(1,))).row(DENSE, "", 192, 1)
        assert (row.skipped == "") is fits


def test_rounds_end_with_the_time() -> None:
    told = []
    result = run_bench(config(steps=50, seconds=0.0), lambda done, total, what: told.append((done, total, what)))
    assert {len(row.samples_s) for row in result.rows} == {1}
    assert told[-1][:2] == (1 + 3 * 51, 1 + 3 * 51) and told[-1][2] == "done"
    assert [done for done, *_ in told] == sorted(done for done, *_ in told)


def test_a_forward_pass_alone_checks_no_gradient() -> None:
    result = run_bench(config(steps=1, forward_only=True))
    assert result.checks == () and result.forward_only and result.passed
    row = result.row(SPARSE, "window", 192, 1)
    # query, key, value and output: 2, 1, 1 and 2 heads of 32
    assert result.row(DENSE, "", 192, 1).theory_bytes == 4 * 192 * 6 * 32
    assert row.useful_flops == 4 * 32 * 2 * 2 * sum(min(q, 15) + 1 for q in range(192))


def test_eager_attention_is_measured_when_asked_for(measured) -> None:
    result = run_bench(config(eager=True))
    eager, mask = result.row(EAGER, "window", 192, 1), result.row(MASK, "window", 192, 1)
    assert [row.way for row in result.rows] == [DENSE, MASK, EAGER, SPARSE]
    assert len(eager.samples_s) == 3 and eager.backend == "reference"
    assert eager.theory_bytes == mask.theory_bytes + result.eager_bytes["192 x 1"]
    assert eager.executed_flops == mask.executed_flops and eager.held_bytes == mask.held_bytes
    assert "With attention that keeps its scores, " in verdict(result)[0]
    assert EAGER not in {row.way for row in measured.rows}


def test_a_named_backend_runs_or_raises() -> None:
    assert run_bench(config(steps=1, backend="reference")).row(SPARSE, "window", 192, 1).backend == "reference"
    with pytest.raises(BackendError, match="backend 'sdpa' cannot run"):
        run_bench(config(steps=1, backend="sdpa"))


def test_attention_flops_of_the_dense_way_are_its_own(measured) -> None:
    model = bench_model(config())
    told = attention_flops(model, model.dense(192), 1, forward_only=False)
    assert told.useful == told.executed == measured.row(DENSE, "", 192, 1).useful_flops


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contenders": ()}, 'nothing to compare with dense attention; name a plan: --pattern "Causal'),
        ({"contenders": (contender_from_text(WINDOW),) * 2}, "two plans are called 'window'; give one another name"),
        ({"seq_lens": (0,)}, "--seq-len must be 1 or more; got 0."),
        ({"batch_sizes": (1, 0)}, "--batch-size must be 1 or more; got 0."),
        ({"steps": 0}, "--steps must be 1 or more; got 0."),
        ({"seconds": -1.0}, "--seconds must be 0 or more; got -1.0."),
        ({"new_tokens": 1}, "--generate must be 2 or more: the first token is timed apart from the rest; got 1."),
        ({"dtype": "float64"}, "--dtype must be one of float32, bfloat16; got 'float64'."),
    ],
)
def test_values_out_of_range_are_refused(changes, message) -> None:
    with pytest.raises(StudyError) as error:
        config(**changes)
    assert message in str(error.value)


@pytest.mark.parametrize("text", ["1,,2", "1;2", "-1", "two", ""])
def test_numbers_with_commas_are_numbers(text) -> None:
    with pytest.raises(StudyError) as error:
        parse_numbers("--batch-size", text)
    assert f"--batch-size takes whole numbers with commas between them, such as 1,2,8; got {text!r}." in str(
        error.value
    )
    assert parse_numbers("--seq-len", "8_192,16,8192") == (8192, 16)


def test_what_a_run_cannot_do_is_refused(tmp_path) -> None:
    with pytest.raises(StudyError, match="--generate: the study's tiny decoder cannot continue a prompt"):
        run_bench(config(new_tokens=4))
    with pytest.raises(StudyError, match="'marked' reads the flag 'heading', but a micro-run is on random tokens"):
        run_bench(config(contenders=(contender_from_text("marked: Keys('heading')"),)))
    with pytest.raises(PlanError, match="the plan names layer 7, but the model has 2 layers"):
        plan = ow.Plan(default=ow.Causal(), layers={7: ow.Causal()})
        run_bench(config(contenders=(Contender(name="p", plan=plan),)))
    with pytest.raises(StudyError, match="'m' is a mask file; openwork bench takes patterns and plans"):
        run_bench(config(contenders=(Contender(name="m", mask=tmp_path / "m.npy"),)))
