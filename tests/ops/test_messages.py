"""Every message of the operation, on its text."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from openwork.errors import ArgumentError, BackendError, LayoutError
from openwork.layout.data import BlockLayout
from openwork.ops import sparse_attention
from openwork.ops.backends.cpu_native import absence
from openwork.ops.registry import backend_names
from openwork.patterns import Window
from openwork.testing.inputs import make_inputs

MASK = np.tri(8, dtype=bool)


def attend(query=None, key=None, value=None, layout=None, **options):
    inputs = make_inputs(q_len=8, q_heads=2)
    pick = lambda given, default: default if given is None else given  # noqa: E731
    return sparse_attention(
        pick(query, inputs.query),
        pick(key, inputs.key),
        pick(value, inputs.value),
        pick(layout, BlockLayout.from_mask(MASK)),
        **options,
    )


def zeros(*shape, dtype=torch.float32):
    return torch.zeros(*shape, dtype=dtype)


ARGUMENTS = [
    ({"query": [1.0]}, "query must be a torch tensor; got list."),
    ({"query": zeros(2, 8, 8)}, "query must be [batch, q_heads, q_len, head_dim]; got shape [2, 8, 8]."),
    ({"value": zeros(2, 8, 8)}, "value must be [batch, kv_heads, kv_len, head_dim]; got shape [2, 8, 8]."),
    ({"value": zeros(1, 2, 8, 0)}, "value has shape [1, 2, 8, 0]; its last size must be 1 or more."),
    (
        {"key": zeros(1, 2, 8, 8, dtype=torch.float64)},
        "key is torch.float64 on cpu, query is torch.float32 on cpu; query, key and "
        "value need one dtype and one device.",
    ),
    ({"key": zeros(2, 2, 8, 8)}, "key has batch=2, query has batch=1."),
    ({"key": zeros(1, 2, 8, 6)}, "key has head_dim=6, query has head_dim=8."),
    ({"value": zeros(1, 2, 9, 8)}, "value has kv_heads=2, kv_len=9, key has kv_heads=2, kv_len=8."),
    (
        {"query": zeros(1, 8, 8, 8), "key": zeros(1, 3, 8, 8), "value": zeros(1, 3, 8, 8)},
        "key has kv_heads=3, which does not divide q_heads=8; use 1, 2, 4 or 8.",
    ),
    (
        {"query": zeros(1, 1, 8, 8)},
        "key has kv_heads=2, which does not divide q_heads=1; use 1.",
    ),
    ({"scale": float("nan")}, "scale must be a finite number; got nan."),
    ({"scale": "0.5"}, "scale must be a finite number; got '0.5'."),
    ({"softcap": 0.0}, "softcap must be more than 0, or None for no cap; got 0.0."),
    ({"softcap": True}, "softcap must be a finite number; got True."),
    ({"dropout_p": 1.0}, "dropout_p must be 0 or more and less than 1; got 1.0."),
    ({"dropout_p": -0.1}, "dropout_p must be 0 or more and less than 1; got -0.1."),
    ({"dropout_seed": -1}, "dropout_seed must be an integer from 0 to 2^64 - 1; got -1."),
    ({"dropout_seed": 2**64}, "dropout_seed must be an integer from 0 to 2^64 - 1; got 18446744073709551616."),
    ({"dropout_seed": 1.5}, "dropout_seed must be an integer from 0 to 2^64 - 1; got 1.5."),
    ({"sink_logits": 1.0}, "sink_logits must be a floating-point tensor; got float."),
    (
        {"sink_logits": torch.zeros(2, dtype=torch.int64)},
        "sink_logits must be a floating-point tensor; got torch.int64.",
    ),
    ({"sink_logits": zeros(3)}, "sink_logits must be [q_heads=2]; got shape [3]."),
    ({"sink_logits": torch.zeros(2, device="meta")}, "sink_logits is on meta, query is on cpu."),
    ({"alibi_slopes": zeros(3)}, "alibi_slopes must be [q_heads=2] or [batch=1, q_heads=2]; got shape [3]."),
    ({"backend": "flash"}, "backend='flash' is not one of auto, sdpa, "),
]


@pytest.mark.parametrize(
    ("given", "message"), ARGUMENTS, ids=lambda value: value[:30] if isinstance(value, str) else ""
)
def test_argument_messages(given, message):
    with pytest.raises(ArgumentError) as error:
        attend(**given)
    assert message in str(error.value)


LAYOUTS = [
    (
        Window(before=2),
        f"layout is a pattern, {Window(before=2)!r}; compile it with compile_layout(pattern, q_len=8, kv_len=8).",
    ),
    (torch.ones(8, 8, dtype=torch.bool, device="meta"), "a boolean tensor on meta, which holds no values; give one on"),
    ("causal", "layout must be a BlockLayout or a boolean tensor; got str."),
    (
        BlockLayout.from_mask(np.tri(16, dtype=bool)),
        "layout was compiled for q_len=16, kv_len=16, but query has q_len=8 and key has kv_len=8. "
        "Make it again from a mask of these lengths.",
    ),
    (BlockLayout.from_mask(np.stack([MASK] * 3)), "layout is for q_heads=3, but query has q_heads=2."),
    (BlockLayout.from_mask(np.stack([MASK] * 3)[:, None]), "layout is for batch=3 sequences, but query has batch=1."),
    (
        BlockLayout.from_mask(MASK).with_positions([np.arange(8)] * 2, [np.arange(8)]),
        "layout has q_positions for 2 sequences, but query has batch=1.",
    ),
]


@pytest.mark.parametrize(("layout", "message"), LAYOUTS, ids=lambda value: value[:30] if isinstance(value, str) else "")
def test_layout_messages(layout, message):
    with pytest.raises(LayoutError) as error:
        attend(layout=layout)
    assert message in str(error.value)


def test_a_compiled_layout_for_other_lengths_says_how_to_recompile():
    from dataclasses import replace

    layout = replace(BlockLayout.from_mask(MASK), pattern=Window(before=2))
    with pytest.raises(LayoutError) as error:
        attend(query=zeros(1, 2, 16, 8), key=zeros(1, 2, 16, 8), value=zeros(1, 2, 16, 8), layout=layout)
    assert str(error.value) == (
        "layout was compiled for q_len=8, kv_len=8, but query has q_len=16 and key has kv_len=16. "
        "Recompile it with compile_layout(layout.pattern, q_len=16, kv_len=16)."
    )


def test_a_mask_that_is_not_boolean_is_refused():
    with pytest.raises(LayoutError, match="from_mask takes booleans, True = attend; got float32"):
        attend(layout=torch.zeros(8, 8))


def test_one_error_lists_the_reasons_of_every_backend():
    integers = torch.zeros(1, 1, 8, 4, dtype=torch.int32)
    with pytest.raises(BackendError) as error:
        attend(query=integers, key=integers, value=integers)
    text = str(error.value)
    assert text.startswith("no backend can run query=[1, 1, 8, 4] torch.int32 on cpu:\n  sdpa: ")
    assert "\n  gather: needs float32, bfloat16, float16 or float64, got torch.int32" in text
    assert text.endswith("\n  reference: needs a floating-point dtype, got torch.int32")


def test_a_named_backend_that_refuses_names_the_others():
    with pytest.raises(BackendError) as error:
        attend(layout=BlockLayout.from_mask(np.eye(8, dtype=bool)), backend="sdpa", softcap=2.0, dropout_p=0.5)
    able = [name for name in backend_names() if name != "sdpa" and (name != "cpu" or absence() is None)]
    assert str(error.value) == (
        "backend 'sdpa' cannot run query=[1, 2, 8, 8] torch.float32 on cpu: has no softcap; does not drop pairs by the "
        "stated hash; the layout is neither dense nor causal from query 0 and key 0. "
        f"Can run it: {', '.join(able)}."
    )


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"sink_logits": torch.zeros(2)}, "has no sink_logits"),
        ({"alibi_slopes": torch.zeros(2)}, "has no alibi_slopes"),
        ({"scale": -1.0}, "needs a scale above 0, got -1.0"),
        ({"value": zeros(1, 2, 8, 4)}, "needs v_head_dim equal to head_dim, got 4 and 8"),
    ],
)
def test_reasons_of_sdpa(options, reason):
    with pytest.raises(BackendError, match=reason):
        attend(backend="sdpa", **options)


def test_a_dtype_without_a_kernel():
    narrow = torch.zeros(1, 2, 8, 8, dtype=torch.float8_e5m2)
    with pytest.raises(BackendError, match=r"takes float32, float64, bfloat16, float16 on cpu, got torch.float8_e5m2"):
        attend(query=narrow, key=narrow, value=narrow, backend="sdpa")
