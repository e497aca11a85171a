"""Models that users write themselves, small, and how they are compared with themselves under a mask."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn

import openwork as ow
from openwork.testing import assert_no_worse_than

LENGTH, DIM, HEADS = 40, 16, 4
LOCAL = ow.Window(before=5, after=3) | ow.First(keys=2)
CAUSAL = ow.Causal() & ow.Window(before=5)


def dense_of(rule) -> torch.Tensor:
    return torch.from_numpy(ow.bind(rule, q_len=LENGTH, kv_len=LENGTH).to_dense())[0, 0]


def masked(rule) -> torch.Tensor:
    """The mask as `nn.MultiheadAttention` reads it."""
    return ~dense_of(rule)


def hidden(batch: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, LENGTH, DIM, generator=torch.Generator().manual_seed(seed))


def compare(ours: nn.Module, theirs: nn.Module, call_ours, call_theirs, where: torch.Tensor | None = None) -> None:
    """Outputs and gradients of all parameters; `where` chooses the rows of the output that count."""
    found = {}
    exact = copy.deepcopy(theirs).double()
    weight = torch.randn(1000, DIM, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    runs = (("ours", ours, call_ours), ("theirs", theirs, call_theirs), ("exact", exact, call_theirs))
    for name, module, call in runs:
        dtype = torch.float64 if name == "exact" else torch.float32
        output = call(module, dtype)
        output = output.reshape(-1, DIM) if where is None else output[where]
        loss = (output * weight[: len(output)].to(dtype)).sum()
        gradients = torch.autograd.grad(loss, list(module.parameters()))
        names = [name for name, _ in module.named_parameters()]
        found[name] = {"output": output, **dict(zip(names, gradients, strict=True))}
    for name, ours_value in found["ours"].items():
        assert_no_worse_than(ours_value, found["theirs"][name], found["exact"][name], name=name, magnitude=1.0)


def encoder(**options) -> nn.TransformerEncoder:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(DIM, HEADS, 32, dropout=0.0, batch_first=True, **options)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=not options.get("norm_first", False))


class SelfAttention(nn.Module):
    """As nanoGPT writes it."""

    def __init__(self, causal: bool = True) -> None:
        super().__init__()
        self.c_attn, self.c_proj = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)
        self.n_head, self.causal, self.flash = HEADS, causal, True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (y.unflatten(-1, (self.n_head, -1)).transpose(1, 2) for y in self.c_attn(x).chunk(3, dim=-1))
        if self.flash:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=self.causal)
        else:
            y = torch.softmax(q @ k.mT, dim=-1) @ v
        return self.c_proj(y.transpose(1, 2).flatten(2))


class TimmAttention(nn.Module):
    """As timm writes it, with a gate and normalised queries."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.qkv, self.proj = HEADS, nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)
        self.q_norm, self.gate = nn.LayerNorm(DIM // HEADS), nn.Linear(DIM, DIM)

    def forward(self, x: torch.Tensor, attn_mask: torch.Tensor | None = None) -> torch.Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        y = F.scaled_dot_product_attention(self.q_norm(q), k, v, attn_mask=attn_mask)
        return self.proj(y.transpose(1, 2).flatten(2) * self.gate(x).sigmoid())


def mixed() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"own": SelfAttention(), "torch": encoder(), "timm": TimmAttention()})
