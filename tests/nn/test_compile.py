"""Home-grown models under `torch.compile`: layouts and the operation beside the graph, no graph for each length."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from openwork.nn import SparseAttention, replace_attention

from .homegrown import DIM, LOCAL, SelfAttention, hidden, mixed


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # dynamo looks at it while it traces
@pytest.mark.slow
@pytest.mark.parametrize("name", ["own", "torch", "timm", "built"])
def test_a_compiled_model_computes_the_same_at_any_length(name: str) -> None:
    torch.manual_seed(0)
    model = SparseAttention(DIM, q_heads=4, pattern=LOCAL) if name == "built" else mixed()[name]
    replace_attention(model, LOCAL, kind=SelfAttention)
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter)
    graphs = []
    for length in (40, 30, 20, 25, 35):
        found = []
        for module in (compiled, model):
            x = hidden()[:, :length].requires_grad_()
            output = module(x)
            found.append((output, *torch.autograd.grad(output.square().sum(), x)))
        for ours, theirs in zip(*found, strict=True):
            torch.testing.assert_close(ours, theirs)
        graphs.append(counter.frame_count)
    assert graphs[1:] == [graphs[1]] * 4
