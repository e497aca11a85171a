"""The rules of the operation that are about bits, NaN, refusals and transforms, for every backend."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from openwork.errors import BackendError
from openwork.layout.data import BlockLayout
from openwork.ops import sparse_attention
from openwork.testing.contract import CASES, Case, case_inputs, results
from openwork.testing.inputs import awkward_masks, make_inputs
from openwork.testing.layouts import shuffled_layout
from openwork.testing.poison import poisoned_memory

BY_NAME = {case.name: case for case in CASES}
RULE_CASES = [
    BY_NAME[name]
    for name in (
        "padded-63x63",
        "columns-100x100",
        "window-40x100",
        "scattered-100x40",
        "empty-63x63",
        "shuffled-padded-63x63",
        "shuffled-rows-40x100",
        "per-sequence-head",
        "shuffled-per-head",
        "everything-window",
        "everything-shuffled",
        "compiled-strided",
        "compiled-per-head-everything",
        "compiled-padded",
        "causal-63x63-output-only",
        "causal-top-left-wide",
    )
]
EXTREME = 3.0e38
cases = pytest.mark.parametrize("case", RULE_CASES, ids=str)


def same_bits(found, expected):
    assert found.keys() == expected.keys()
    return [name for name in found if not torch.equal(bits(found[name]), bits(expected[name]))]


def bits(tensor):
    # -0.0 and 0.0 are one number
    return torch.where(tensor == 0, torch.zeros_like(tensor), tensor).contiguous().view(torch.int32)


def seen_by(case):
    """Keys that some query of some head of the key head sees, and queries that see none: [B, Hk, K], [B, H, Q]."""
    dense = np.broadcast_to(case.layout.to_dense(), (case.batch, case.q_heads, case.layout.q_len, case.layout.kv_len))
    grouped = dense.reshape(case.batch, case.kv_heads, -1, case.layout.kv_len)
    return torch.from_numpy(grouped.any(axis=2)), torch.from_numpy(~dense.any(axis=3))


@cases
def test_unseen_keys_and_empty_queries_may_hold_nan(case, backend, refused_is_skipped):
    inputs = case_inputs(case, torch.float32)
    seen, empty = seen_by(case)
    clean = refused_is_skipped(results, case, inputs, backend)
    for poison in (float("nan"), float("inf")):
        dirty = replace(
            inputs,
            query=torch.where(empty[..., None], poison, inputs.query),
            key=torch.where(seen[..., None], inputs.key, poison),
            value=torch.where(seen[..., None], inputs.value, poison),
        )
        assert same_bits(results(case, dirty, backend), clean) == []


@cases
def test_an_empty_row_has_output_zero_and_no_gradient(case, backend, refused_is_skipped):
    found = refused_is_skipped(results, case, case_inputs(case, torch.float32), backend)
    seen, empty = seen_by(case)
    assert (found["output"][empty] == 0).all()
    assert (found["lse"][empty] == -torch.inf).all()
    assert (found["gradient of query"][empty] == 0).all()
    assert (found["gradient of key"][~seen] == 0).all()
    assert (found["gradient of value"][~seen] == 0).all()
    assert all(tensor.isfinite().all() for name, tensor in found.items() if name != "lse")


@cases
@pytest.mark.parametrize("size", ["moderate", "extreme"])
def test_a_forbidden_key_changes_no_bit(case, size, backend, refused_is_skipped):
    """Keys that the first half of the queries may not see change; those queries' results and gradients do not."""
    inputs = case_inputs(case, torch.float32)
    dense = np.broadcast_to(case.layout.to_dense(), (case.batch, case.q_heads, case.layout.q_len, case.layout.kv_len))
    generator = np.random.default_rng(5)
    changed = torch.from_numpy(generator.random((case.batch, case.kv_heads, case.layout.kv_len)) < 0.1)
    group = case.q_heads // case.kv_heads
    blind = ~torch.from_numpy((dense & changed.repeat_interleave(group, 1).numpy()[:, :, None]).any(axis=3))
    clean = refused_is_skipped(results, case, inputs, backend)
    new = torch.full((), EXTREME) if size == "extreme" else torch.randn(case.head_dim) * 50
    new_value = torch.full((), EXTREME) if size == "extreme" else torch.randn(case.v_head_dim) * 50
    other = replace(
        inputs,
        key=torch.where(changed[..., None], new, inputs.key),
        value=torch.where(changed[..., None], new_value, inputs.value),
    )
    found = results(case, other, backend)
    for name in ("output", "lse", "gradient of query"):
        assert torch.equal(bits(found[name][blind]), bits(clean[name][blind])), name
    if size == "moderate":
        assert not torch.equal(found["output"], clean["output"]) or blind.all()


def test_a_query_that_overflows_touches_no_key_that_it_may_not_see(backend, refused_is_skipped):
    """The scores of one document's queries are infinite; what belongs to the other one keeps its bits."""
    documents = np.repeat([0, 1, 0, 1], 10)
    own = documents[:, None] == documents[None, :]
    case = Case("", lambda: BlockLayout.from_mask(own, block_size=(16, 16)), q_heads=4, kv_heads=2, sink=True)
    inputs = case_inputs(case, torch.float32)
    clean = refused_is_skipped(results, case, inputs, backend)
    second = torch.from_numpy(documents == 1)
    key = torch.where(second[:, None], inputs.key, torch.tensor([EXTREME, -EXTREME]).repeat(case.head_dim // 2))
    found = results(case, replace(inputs, key=key), backend)
    assert not found["lse"][:, :, ~second].isfinite().all()
    for name in ("output", "lse", "gradient of query", "gradient of key", "gradient of value"):
        assert torch.equal(bits(found[name][:, :, second]), bits(clean[name][:, :, second])), name


@cases
def test_scratch_memory_is_never_read(case, backend, refused_is_skipped):
    inputs = case_inputs(case, torch.float32)
    clean = refused_is_skipped(results, case, inputs, backend)
    # one thread, as all tests here: the memory of others is not poisoned
    with poisoned_memory():
        found = results(case, inputs, backend)
    assert same_bits(found, clean) == []


@cases
def test_same_inputs_give_the_same_bits_for_any_number_of_threads(case, backend, refused_is_skipped):
    inputs = case_inputs(case, torch.float32)
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            found.append(refused_is_skipped(results, case, inputs, backend))
    finally:
        torch.set_num_threads(threads)
    assert same_bits(found[1], found[2]) == []
    if backend == "gather":
        assert same_bits(found[0], found[1]) == []


def test_permuting_the_batch_permutes_the_results(backend, refused_is_skipped):
    mask = awkward_masks(40, 40)["columns"]
    case = Case("", lambda: shuffled_layout(mask), batch=3, q_heads=4, kv_heads=2, sink=True)
    inputs = case_inputs(case, torch.float32)
    order = torch.tensor([2, 0, 1])
    permuted = replace(inputs, **{name: tensor[order] for name, tensor in vars(inputs).items()})
    found = refused_is_skipped(results, case, permuted, backend)
    expected = results(case, inputs, backend)
    for name in ("output", "lse", "gradient of query", "gradient of key", "gradient of value"):
        torch.testing.assert_close(found[name], expected[name][order])


def test_packed_documents_equal_separate_runs(backend, refused_is_skipped):
    lengths = [17, 30, 16]
    inputs = make_inputs(q_len=sum(lengths), q_heads=2)
    label = np.repeat(np.arange(3), lengths)
    packed_mask = (label[:, None] == label[None, :]) & np.tri(sum(lengths), dtype=bool)
    layout = BlockLayout.from_mask(packed_mask, block_size=(16, 16))
    packed = refused_is_skipped(sparse_attention, inputs.query, inputs.key, inputs.value, layout, backend=backend)
    start = 0
    for length in lengths:
        rows = slice(start, start + length)
        alone = sparse_attention(
            *(x[:, :, rows] for x in (inputs.query, inputs.key, inputs.value)),
            torch.ones(length, length, dtype=torch.bool).tril(),
            backend=backend,
        )
        torch.testing.assert_close(packed.output[:, :, rows], alone.output)
        torch.testing.assert_close(packed.lse[:, :, rows], alone.lse)
        start += length


def test_inputs_need_not_be_contiguous(backend, refused_is_skipped):
    case = BY_NAME["everything-shuffled"] if backend != "sdpa" else BY_NAME["causal-63x63-output-only"]
    inputs = case_inputs(case, torch.float32)
    strided = replace(
        inputs,
        query=inputs.query.transpose(1, 2).contiguous().transpose(1, 2),
        key=inputs.key.mT.contiguous().mT,
        value=inputs.value.repeat(1, 1, 1, 2)[..., : inputs.value.shape[-1]],
        output_weight=inputs.output_weight.flip(-1).contiguous().flip(-1).transpose(1, 2).contiguous().transpose(1, 2),
    )
    found = refused_is_skipped(results, case, strided, backend)
    for name, tensor in results(case, inputs, backend).items():
        torch.testing.assert_close(found[name], tensor)


def test_expanded_gradients_and_inputs_that_need_none(backend, refused_is_skipped):
    inputs = make_inputs(q_len=40)
    key = inputs.key.clone().requires_grad_()
    layout = BlockLayout.from_mask(awkward_masks(40, 40)["causal"], block_size=(16, 16))
    result = refused_is_skipped(sparse_attention, inputs.query, key, inputs.value, layout, backend=backend)
    result.output.sum().backward()
    again = inputs.key.clone().requires_grad_()
    sparse_attention(inputs.query, again, inputs.value, layout, backend="reference").output.sum().backward()
    torch.testing.assert_close(key.grad, again.grad)


def test_func_grad_works(backend, refused_is_skipped):
    inputs = make_inputs(q_len=40)
    layout = BlockLayout.from_mask(awkward_masks(40, 40)["causal"], block_size=(16, 16))

    def loss(query, key, value, backend):
        return sparse_attention(query, key, value, layout, backend=backend).output.square().sum()

    arguments = inputs.query, inputs.key, inputs.value
    found = refused_is_skipped(torch.func.grad(loss, argnums=(0, 1, 2)), *arguments, backend)
    for one, other in zip(found, torch.func.grad(loss, argnums=(0, 1, 2))(*arguments, "reference"), strict=True):
        torch.testing.assert_close(one, other)


def test_func_grad_takes_a_boolean_tensor_for_a_layout(backend):
    inputs = make_inputs(q_len=20)
    mask = torch.ones(20, 20, dtype=torch.bool).tril()

    def loss(query, mask):
        return sparse_attention(query, inputs.key, inputs.value, mask, backend=backend).output.square().sum()

    query = inputs.query.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(query, mask), query)
    closed_over = torch.func.grad(lambda query: loss(query, mask))(inputs.query)
    torch.testing.assert_close(closed_over, expected)
    torch.testing.assert_close(torch.func.grad(loss)(inputs.query, mask), expected)


def test_double_backward_works_or_names_a_backend_that_can(backend, refused_is_skipped):
    inputs = make_inputs(q_len=20, dtype=torch.float64)
    layout = BlockLayout.from_mask(awkward_masks(20, 20)["causal"], block_size=(16, 16))
    query = inputs.query.requires_grad_()
    result = refused_is_skipped(sparse_attention, query, inputs.key, inputs.value, layout, backend=backend)
    (first,) = torch.autograd.grad(result.output.square().sum(), query, create_graph=True)
    if backend == "reference":
        assert torch.autograd.gradcheck(lambda q: _first_gradient(q, inputs, layout), (query,))
        return
    with pytest.raises(BackendError, match="name backend='reference'"):
        torch.autograd.grad(first.sum(), query)


def _first_gradient(query, inputs, layout):
    result = sparse_attention(query, inputs.key, inputs.value, layout, backend="reference")
    (first,) = torch.autograd.grad(result.output.square().sum() + result.lse.sum(), query, create_graph=True)
    return first


def test_double_backward_under_func_names_a_backend_that_can(backend):
    inputs = make_inputs(q_len=20)
    layout = BlockLayout.from_mask(awkward_masks(20, 20)["causal"], block_size=(16, 16))

    def loss(query):
        return sparse_attention(query, inputs.key, inputs.value, layout, backend=backend).output.square().sum()

    def outer(query):
        return torch.func.grad(loss)(query).square().sum()

    if backend == "reference":
        assert torch.func.grad(outer)(inputs.query).isfinite().all()
        return
    with pytest.raises(BackendError, match="name backend='reference'"):
        torch.func.grad(outer)(inputs.query)


def test_the_gradient_of_lse_is_a_softmax_or_refused(backend):
    inputs = make_inputs(q_len=20)
    layout = BlockLayout.from_mask(awkward_masks(20, 20)["causal"], block_size=(16, 16))
    query = inputs.query.requires_grad_()
    result = sparse_attention(query, inputs.key, inputs.value, layout, backend=backend)
    if backend == "sdpa":
        with pytest.raises(BackendError, match="name backend='gather'"):
            result.lse.sum().backward()
        return
    result.lse.sum().backward()
    reference = inputs.query.detach().requires_grad_()
    sparse_attention(reference, inputs.key, inputs.value, layout, backend="reference").lse.sum().backward()
    torch.testing.assert_close(query.grad, reference.grad)


def test_gradient_check_of_every_option(backend, refused_is_skipped):
    case = Case(
        "", lambda: shuffled_layout(awkward_masks(9, 11)["scattered"], block_size=(4, 4)), q_heads=2, kv_heads=1
    )
    inputs = make_inputs(q_len=9, kv_len=11, q_heads=2, kv_heads=1, head_dim=3, dtype=torch.float64)
    sink = torch.tensor([0.3, -0.5], dtype=torch.float64)
    slopes = torch.tensor([0.1, 0.4], dtype=torch.float64)
    leaves = tuple(x.requires_grad_() for x in (inputs.query, inputs.key, inputs.value, sink, slopes))

    def run(query, key, value, sink_logits, alibi_slopes):
        result = sparse_attention(
            query, key, value, case.layout, softcap=1.3, sink_logits=sink_logits, alibi_slopes=alibi_slopes,
            dropout_p=0.3, dropout_seed=11, backend=backend,
        )  # fmt: skip
        return result.output, torch.where(result.lse.isfinite(), result.lse, 0.0)

    refused_is_skipped(run, *leaves)
    assert torch.autograd.gradcheck(run, leaves)
