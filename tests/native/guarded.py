"""Memory between two pages that nobody may touch: one element too far ends the process. Run as a program.

`python guarded.py ISA SIDE` runs the passes with every tensor, and the layout's words, against the guard at their
`end` or their `start`; `python guarded.py ISA overrun` reads one query too many, to show that it would be seen;
`heap` reads it from memory that only a sanitizer guards.
"""

from __future__ import annotations

import ctypes
import mmap
import sys

import numpy as np
import torch

import openwork as ow
from openwork.layout.data import BlockLayout
from openwork.ops.backends import cpu_operators
from openwork.ops.backends.cpu_lower import lower
from openwork.ops.backends.cpu_native import kernels
from openwork.testing.inputs import awkward_masks
from openwork.testing.layouts import shuffled_layout

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
LIBC.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
PAGE = mmap.PAGESIZE


def guarded(shape: tuple[int, ...], dtype: torch.dtype, side: str) -> torch.Tensor:
    """A tensor whose first or last byte lies against a page without access; never freed."""
    count = int(np.prod(shape)) * dtype.itemsize
    room = -(-count // PAGE) * PAGE
    start = LIBC.mmap(None, room + 2 * PAGE, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANON, -1, 0)
    assert start not in (None, ctypes.c_void_p(-1).value)
    for page in (start, start + PAGE + room):
        assert LIBC.mprotect(page, PAGE, 0) == 0
    address = start + PAGE + (room - count if side == "end" else 0)
    memory = (ctypes.c_char * count).from_address(address)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


def copied(x: torch.Tensor, side: str) -> torch.Tensor:
    return guarded(tuple(x.shape), x.dtype, side).copy_(x)


def layouts() -> dict[str, BlockLayout]:
    masks = awkward_masks(70, 131)
    found = {name: BlockLayout.from_mask(masks[name]) for name in ("dense", "window", "scattered", "padded", "empty")}
    found["shuffled"] = shuffled_layout(masks["columns"])
    pattern = ow.Causal() & (ow.Window(before=9) | ow.Strided(16))
    found["parts"] = ow.compile_layout(pattern, q_len=70, kv_len=131)
    return found


def run(isa: str, side: str, layout: BlockLayout, dtype: torch.dtype, head_dim: int, v_head_dim: int) -> None:
    """Both passes, gradients of everything."""
    heads, kv_heads, q_len, kv_len = 2, 1, layout.q_len, layout.kv_len
    shapes = [(1, heads, q_len, head_dim), (1, kv_heads, kv_len, head_dim), (1, kv_heads, kv_len, v_head_dim)]
    inputs = [copied(torch.randn(shape).to(dtype), side) for shape in shapes]
    inputs += [copied(torch.randn(heads), side), copied(torch.rand(1, heads), side)]
    words = copied(lower(layout), side)
    options = {"scale": 0.3, "softcap": 2.0, "dropout_p": 0.2, "seed": 3}
    wide_shape, lse_shape = (1, heads, q_len, v_head_dim), (1, heads, q_len)
    lse = guarded(lse_shape, torch.float32, side)
    wide = guarded(wide_shape, torch.float32, side)
    outputs = [wide, lse, None] if dtype == torch.float32 else [guarded(wide_shape, dtype, side), lse, wide]
    variant = isa + "+poison"
    cpu_operators._run("forward", variant, [*inputs, *outputs], words, options)
    incoming = [copied(torch.randn(wide_shape).to(dtype), side), copied(torch.randn(lse_shape), side), wide, lse]
    grads = [guarded(tuple(x.shape), x.dtype, side) for x in inputs[:3]]
    grads += [guarded((1, heads), torch.float32, side) for _ in range(2)]
    cpu_operators._run("backward", variant, [*inputs, *incoming, *grads], words, options)
    assert all(bool(x.isfinite().all()) for x in (wide, *grads))


def overrun(isa: str, on_heap: bool) -> None:
    """Reads one query too many."""
    key = torch.randn(1, 1, 70, 8)
    query = key.clone() if on_heap else guarded((1, 1, 70, 8), torch.float32, "end")
    pointer, *rest = cpu_operators.tensor_words(query)
    beyond = pointer + 8 * query.element_size(), *rest
    others = [
        cpu_operators.tensor_words(x)
        for x in (key, key, None, None, torch.empty_like(key), torch.empty(1, 1, 70), None)
    ]
    words = lower(BlockLayout.from_mask(np.ones((70, 70), dtype=bool)))
    options = kernels().Options(scale=1.0, softcap=0.0, dropout_p=0.0, seed=0, threads=1, poisoned=False)
    kernels().forward(isa, [beyond, *others], (words.data_ptr(), words.numel()), options)


def main() -> None:
    isa, side = sys.argv[1:]
    if side in ("overrun", "heap"):
        return overrun(isa, on_heap=side == "heap")
    torch.manual_seed(0)
    torch.set_num_threads(2)
    for layout in layouts().values():
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            for head_dim, v_head_dim in [(1, 3), (16, 16), (33, 17), (64, 64)]:
                run(isa, side, layout, dtype, head_dim, v_head_dim)
    return None


if __name__ == "__main__":
    main()
