"""Masks of JAX, Flax and Trax; against JAX and Flax themselves where they are installed."""

from __future__ import annotations

import importlib.util
import re

import numpy as np
import pytest
import torch

import openwork as ow
from openwork import interop
from openwork.errors import LayoutError

from .conftest import LENGTH, NAMES, computed, inputs_for, layout, same

needs_flax = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("jax", "flax"))), reason="jax and flax are in the interop extra (0.7 GB)"
)


def as_jax(tensor: torch.Tensor):
    import jax.numpy as jnp

    return jnp.asarray(tensor.numpy())


@needs_flax
@pytest.mark.parametrize("name", NAMES)
def test_jax_computes_the_layout_under_its_mask(name: str) -> None:
    import jax

    ours, inputs = layout(name), inputs_for(layout(name))
    # JAX has the length before the heads
    q, k, v = (as_jax(x.transpose(1, 2).contiguous()) for x in (inputs.query, inputs.key, inputs.value))
    theirs = jax.nn.dot_product_attention(q, k, v, mask=interop.to_flax(ours))
    torch.testing.assert_close(computed(ours), torch.from_numpy(np.array(theirs)).transpose(1, 2))
    assert same(interop.from_flax(as_jax(torch.from_numpy(interop.to_flax(ours)))), ours)


@needs_flax
@pytest.mark.parametrize("name", ["heads", "facts", "sequences"])
def test_flax_computes_the_layout_under_its_mask(name: str) -> None:
    import flax.linen as nn
    import jax

    ours, inputs = layout(name), inputs_for(layout(name))
    q, k, v = (as_jax(x.transpose(1, 2).contiguous()) for x in (inputs.query, inputs.key, inputs.value))
    theirs = nn.dot_product_attention(q, k, v, mask=jax.numpy.asarray(interop.to_flax(ours)))
    torch.testing.assert_close(computed(ours), torch.from_numpy(np.array(theirs)).transpose(1, 2))


@needs_flax
def test_flax_own_masks_are_read() -> None:
    import flax.linen as nn
    import jax.numpy as jnp

    tokens = jnp.asarray(np.arange(2 * LENGTH).reshape(2, LENGTH) % 10 + 1)
    causal = nn.make_causal_mask(tokens)
    assert causal.dtype == jnp.float32
    assert same(interop.from_flax(causal), ow.compile_layout(ow.Causal(), q_len=LENGTH, kv_len=LENGTH))
    documents = np.stack([np.arange(LENGTH) // 40, np.arange(LENGTH) // 64])
    segments = nn.make_attention_mask(documents, documents, jnp.equal)
    assert same(interop.from_flax(nn.combine_masks(causal, segments, dtype=bool)), layout("sequences"))


@needs_flax
def test_jax_gives_the_mean_of_forbidden_values_to_a_query_that_sees_nothing() -> None:
    import jax

    # why `to_flax` refuses such a layout
    ours, inputs = layout("empty rows"), inputs_for(layout("empty rows"))
    q, k, v = (as_jax(x.transpose(1, 2).contiguous()) for x in (inputs.query, inputs.key, inputs.value))
    mask = interop.to_flax(ours, empty_rows="keep")
    theirs = torch.from_numpy(np.array(jax.nn.dot_product_attention(q, k, v, mask=mask))).transpose(1, 2)
    torch.testing.assert_close(theirs[:, :, 3], inputs.value.mean(dim=2))
    assert not computed(ours)[:, :, 3].any()


@pytest.mark.parametrize("dtype", [bool, np.float32, np.int32, np.uint8])
def test_ones_mean_attend_in_every_dtype(dtype: type) -> None:
    for name in NAMES:
        assert same(interop.from_flax(interop.to_flax(layout(name)).astype(dtype)), layout(name))


def test_a_mask_of_keys_is_for_all_queries() -> None:
    # Trax: [batch, 1, 1, length]; Flax: more leading sizes
    keys = np.arange(LENGTH) < np.array([LENGTH, 100])[:, None]
    read = interop.from_flax(keys[:, None, None, :], q_len=LENGTH)
    assert (read.to_dense() == np.broadcast_to(keys[:, None, None], (2, 1, LENGTH, LENGTH))).all()
    assert interop.from_flax(np.ones((2, 3, 1, 5, 5))).index.shape == (6, 1)


def test_what_is_no_mask_is_refused_in_words() -> None:
    message = re.escape("holds 1 where a pair attends and 0 where not; got float32 values from -1e+09 to 0")
    with pytest.raises(LayoutError, match=message):
        interop.from_flax(np.array([[0, -1e9], [0, 0]], dtype=np.float32))
    with pytest.raises(LayoutError, match=re.escape("the mask has shape [3, 5], which is not for q_len=4")):
        interop.from_flax(np.ones((3, 5)), q_len=4)
    with pytest.raises(LayoutError, match="JAX and Flax the mean of the forbidden values"):
        interop.to_flax(layout("empty rows"))
