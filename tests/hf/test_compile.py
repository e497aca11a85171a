"""A compiled sparse model: the same numbers, few graphs whatever the lengths, and nothing of size q x kv."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
import torch

import openwork as ow
from openwork.hf import sparsify

# dynamo itself looks at .grad of what enters a graph after a break
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")

LOCAL = ow.Causal() & (ow.Window(before=5) | ow.First(keys=2))
CLOSE = {"rtol": 0.0, "atol": 2e-6}


@pytest.fixture
def counter() -> Any:
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    yield CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()


@pytest.mark.slow
def test_lengths_do_not_compile_anew_without_end(llama: Any, ids: torch.Tensor, counter: Any) -> None:
    sparse = sparsify(llama, LOCAL)
    compiled = torch.compile(sparse, backend=counter)
    for length in (40, 41):
        row = ids.repeat(1, 2)[:, :length]
        torch.testing.assert_close(compiled(row, use_cache=False).logits, sparse(row).logits, **CLOSE)
    graphs = counter.frame_count
    for length in (33, 57, 64, 79):
        row = ids.repeat(1, 2)[:, :length]
        torch.testing.assert_close(compiled(row, use_cache=False).logits, sparse(row).logits, **CLOSE)
    assert counter.frame_count == graphs


@pytest.mark.slow
def test_gradients_and_facts_under_compilation(llama: Any, ids: torch.Tensor, counter: Any) -> None:
    def odd(batch: Mapping[str, Any]) -> list[ow.Annotations]:
        return [ow.Annotations(len(row), flags={"heading": (row % 9 == 1).numpy()}) for row in batch["input_ids"]]

    plan = ow.Plan(default=ow.Causal() & (ow.Window(before=5) | ow.Keys("heading")))
    sparse = sparsify(llama, plan, annotate=odd)
    compiled = torch.compile(sparse, backend=counter)
    valid = torch.ones_like(ids)
    valid[0, :5] = 0
    for row in (ids, ids.flip(0)):
        gradients = []
        for model in (sparse, compiled):
            sparse.zero_grad()
            model(row, attention_mask=valid, labels=row, use_cache=False).loss.backward()
            gradients.append([parameter.grad.clone() for parameter in sparse.parameters()])
        torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=1e-6)
    # a live plan is honoured by the graphs that are there
    sparse.set_plan(ow.Causal() & ow.Window(before=1))
    torch.testing.assert_close(compiled(ids, use_cache=False).logits, sparse(ids).logits, **CLOSE)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # of what inductor imports
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor compiles C++ with g++, which is not here")
def test_inductor_generates_code_that_computes_the_same(llama: Any, ids: torch.Tensor) -> None:
    sparse = sparsify(llama, LOCAL)
    torch._dynamo.reset()
    compiled = torch.compile(sparse)
    for length in (40, 33):
        row = ids[:, :length]
        results = []
        for model in (sparse, compiled):
            sparse.zero_grad()
            made = model(row, labels=row, use_cache=False)
            made.loss.backward()
            results.append([made.logits.detach(), *(parameter.grad.clone() for parameter in sparse.parameters())])
        torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()


PEAK = """
import json, resource, sys, torch
from transformers import LlamaConfig, LlamaModel
import openwork as ow
from openwork.hf import sparsify
torch.set_num_threads(1)
sizes = dict(vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=1)
model = sparsify(LlamaModel(LlamaConfig(**sizes, max_position_embeddings=32768)), ow.Causal() & ow.Window(before=63))
model = torch.compile(model, backend="aot_eager")
def mib():
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
def step(length):
    model(torch.zeros(1, length, dtype=torch.long), use_cache=False).last_hidden_state.sum().backward()
step(512)
step(1024)
before = mib()
step(32768)
print(json.dumps(mib() - before))
"""


@pytest.mark.slow
def test_nothing_of_size_q_x_kv_is_built_at_32768_tokens() -> None:
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", PEAK], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    # one boolean for each pair would be 1,024 MiB
    assert json.loads(run.stdout.splitlines()[-1]) < 512
