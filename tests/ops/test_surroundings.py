"""The operation among the rest of torch: autocast, checkpointing, compilation, memory, threads, devices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

import openwork as ow
from openwork.errors import BackendError
from openwork.layout.data import BlockLayout
from openwork.ops import decode_attention, sparse_attention
from openwork.ops.backends.threads import run_jobs
from openwork.testing.contract import CASES, case_inputs, results
from openwork.testing.inputs import awkward_masks, make_inputs
from openwork.testing.tolerance import assert_no_worse_than

LAYOUT = BlockLayout.from_mask(awkward_masks(40, 40)["window"], block_size=(16, 16))


@pytest.mark.parametrize("mask", ["window", "causal"])
def test_autocast_changes_nothing(mask, backend, refused_is_skipped):
    inputs = make_inputs(q_len=40)
    arguments = inputs.query, inputs.key, inputs.value, awkward_masks(40, 40)[mask]
    plain = refused_is_skipped(sparse_attention, *map(torch.as_tensor, arguments), backend=backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = sparse_attention(*map(torch.as_tensor, arguments), backend=backend)
    assert torch.equal(cast.output, plain.output)
    assert torch.equal(cast.lse, plain.lse)


def test_autocast_changes_nothing_in_decoding():
    inputs = make_inputs(q_len=1, kv_len=30)
    plain = decode_attention(inputs.query, inputs.key, inputs.value, [[range(20)]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = decode_attention(inputs.query, inputs.key, inputs.value, [[range(20)]])
    assert torch.equal(cast.output, plain.output)


def test_checkpointing_drops_the_same_pairs_again(backend, refused_is_skipped):
    inputs = make_inputs(q_len=40)

    def attend(query):
        options = {"dropout_p": 0.5, "backend": backend}
        return sparse_attention(query, inputs.key, inputs.value, LAYOUT, **options).output

    gradients = []
    for run in (attend, lambda query: checkpoint(attend, query, use_reentrant=False)):
        query = inputs.query.clone().requires_grad_()
        torch.manual_seed(4)
        refused_is_skipped(run, query).square().sum().backward()
        gradients.append(query.grad)
    assert torch.equal(*gradients)


class LargestTensor(TorchDispatchMode):
    """The most elements that any operation returned."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return result


def largest_tensor(pattern, length, backend):
    layout = ow.compile_layout(pattern, q_len=length, kv_len=length)
    inputs = make_inputs(q_len=length, q_heads=1, head_dim=4)
    leaves = [x.requires_grad_() for x in (inputs.query, inputs.key, inputs.value)]
    with LargestTensor() as largest:
        sparse_attention(*leaves, layout, backend=backend).output.sum().backward()
    return largest.elements


@pytest.mark.parametrize(
    "pattern",
    [
        ow.Causal() & ow.Window(before=63),
        ow.Causal() & (ow.Window(before=31) | ow.Strided(64)),
        ow.Window(before=15, after=15) | ow.First(queries=2) | ow.First(keys=2),
        ow.Causal(),
    ],
    ids=repr,
)
def test_no_tensor_grows_faster_than_the_length(pattern):
    """A tensor of q_len x kv_len would grow fourfold; scores of one unit stop growing."""
    at_4096, at_8192 = (largest_tensor(pattern, length, "gather") for length in (4096, 8192))
    assert at_8192 <= 2 * at_4096
    assert at_8192 < 8192 * 8192 / 50


def test_the_probe_for_memory_sees_a_dense_tensor():
    assert largest_tensor(ow.Causal() & ow.Window(before=63), 512, "reference") >= 512 * 512


def test_jobs_keep_their_order_and_leave_the_number_of_threads_alone():
    torch.set_num_threads(3)
    seen = []
    found = list(run_jobs([lambda n=n: (seen.append(torch.get_num_threads()), n)[1] for n in range(20)]))
    assert found == list(range(20))
    assert set(seen) == {1}
    assert torch.get_num_threads() == 3


@pytest.fixture
def three_threads():
    torch.set_num_threads(3)


def test_func_grad_and_inference_mode_reach_the_threads(three_threads, backend, refused_is_skipped):
    inputs = make_inputs(q_len=40, q_heads=4)
    layout = BlockLayout.from_mask(np.stack([awkward_masks(40, 40)["window"]] * 2 + [np.tri(40, dtype=bool)] * 2))

    def attend(query):
        return sparse_attention(query, inputs.key, inputs.value, layout, backend=backend).output

    plain = refused_is_skipped(attend, inputs.query)
    with torch.inference_mode():
        assert torch.equal(attend(inputs.query), plain)
        assert torch.equal(attend(inputs.query.clone()), plain)
    query = inputs.query.clone().requires_grad_()
    (expected,) = torch.autograd.grad(attend(query).square().sum(), query)
    torch.testing.assert_close(torch.func.grad(lambda x: attend(x).square().sum())(inputs.query), expected)


def test_a_job_that_fails_says_so():
    torch.set_num_threads(2)
    with pytest.raises(ZeroDivisionError):
        list(run_jobs([lambda: 1, lambda: 1 // 0]))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of the tracer about its own doings
def test_compiled_code_may_call_it():
    inputs = make_inputs(q_len=40)

    def attend(query):
        return sparse_attention(query * 2.0, inputs.key, inputs.value, LAYOUT).output + 1.0

    query = inputs.query.requires_grad_()
    (expected,) = torch.autograd.grad(attend(query).sum(), query)
    compiled = torch.compile(attend, backend="eager")
    torch.testing.assert_close(compiled(query), attend(query))
    torch.testing.assert_close(torch.autograd.grad(compiled(query).sum(), query)[0], expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mask", ["window", "causal"])
def test_compiled_code_may_be_the_first_to_use_a_layout(mask):
    inputs = make_inputs(q_len=70)
    tensors = [x.requires_grad_() for x in (inputs.query, inputs.key, inputs.value)]
    layout = BlockLayout.from_mask(awkward_masks(70, 70)[mask], block_size=(16, 16))
    compiled = torch.compile(lambda *qkv: sparse_attention(*qkv, layout).output, backend="aot_eager")
    gradients = torch.autograd.grad(compiled(*tensors).square().sum(), tensors)
    exact = sparse_attention(*tensors, layout, backend="reference").output
    for gradient, expected in zip(gradients, torch.autograd.grad(exact.square().sum(), tensors), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mask", ["window", "causal"])
def test_a_device_without_autocast_is_no_obstacle(mask, backend, refused_is_skipped):
    """Tensors on meta have shapes and no numbers: enough to plan memory with."""
    inputs = make_inputs(q_heads=4, kv_heads=2, q_len=40)
    query, key, value = (x.to("meta").requires_grad_() for x in (inputs.query, inputs.key, inputs.value))
    layout = BlockLayout.from_mask(awkward_masks(40, 40)[mask], block_size=(16, 16))
    result = refused_is_skipped(sparse_attention, query, key, value, layout, backend=backend)
    assert (result.output.device.type, result.output.shape, result.lse.shape) == ("meta", query.shape, query.shape[:3])
    gradients = torch.autograd.grad(result.output.sum(), (query, key, value))
    assert [gradient.shape for gradient in gradients] == [query.shape, key.shape, value.shape]


def test_a_backend_that_has_no_kernel_for_a_device_says_which_can_run():
    query = torch.zeros(1, 1, 8, 4, device="meta")
    message = r"'sdpa' cannot run .* on meta: runs on cpu and cuda, got meta\. Can run it: gather, reference\."
    with pytest.raises(BackendError, match=message):
        sparse_attention(query, query, query, BlockLayout.from_mask(np.tri(8, dtype=bool)), backend="sdpa")


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_cuda_means_the_same(case, dtype, backend, refused_is_skipped):
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device here")
    inputs = case_inputs(case, dtype)
    exact = results(case, inputs.to(torch.float64), "reference")
    reference = results(case, inputs, "reference")
    found = refused_is_skipped(results, case, inputs, backend, device="cuda")
    for name, tensor in found.items():
        ulps = 128 if name == "lse" and dtype != torch.float32 else 4
        assert_no_worse_than(
            tensor, reference[name], exact[name], name=f"{case.name}: {name}", ulps=ulps, magnitude=1.0
        )
