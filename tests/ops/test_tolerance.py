"""The tolerance helper and the poison: both must be able to fail."""

from __future__ import annotations

import pytest
import torch

from openwork.testing.poison import poisoned_memory
from openwork.testing.tolerance import assert_no_worse_than


def test_tolerance_can_fail():
    exact = torch.randn(64, dtype=torch.float64)
    low = exact.bfloat16()
    assert_no_worse_than(low, low, exact, name="same")
    with pytest.raises(AssertionError, match="zeros: max error"):
        assert_no_worse_than(torch.zeros_like(low), low, exact, name="zeros")


def test_one_wrong_value_among_many_fails():
    exact = torch.randn(10_000, dtype=torch.float64)
    low = exact.float()
    wrong = low.clone()
    wrong[77] += 1e-4
    with pytest.raises(AssertionError, match="max error"):
        assert_no_worse_than(wrong, low, exact, name="one")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_fails(value):
    exact = torch.randn(8, dtype=torch.float64)
    low = exact.float()
    wrong = low.clone()
    wrong[3] = value
    with pytest.raises(AssertionError, match=r"not finite where they should be.*first at \[3\]"):
        assert_no_worse_than(wrong, low, exact, name="nan")


def test_infinities_must_stand_where_they_should():
    exact = torch.tensor([0.0, -torch.inf], dtype=torch.float64)
    assert_no_worse_than(exact.float(), exact.float(), exact, name="lse")
    with pytest.raises(AssertionError, match="not finite where they should be"):
        assert_no_worse_than(torch.tensor([0.0, torch.inf]), exact.float(), exact, name="lse")


def test_shape_and_dtype_are_compared():
    exact = torch.zeros(3, dtype=torch.float64)
    with pytest.raises(AssertionError, match="shape"):
        assert_no_worse_than(torch.zeros(2), torch.zeros(3), exact, name="x")
    with pytest.raises(AssertionError, match="dtype"):
        assert_no_worse_than(torch.zeros(3).half(), torch.zeros(3), exact, name="x")


def test_poison_reaches_every_way_to_get_memory():
    with poisoned_memory():
        x = torch.zeros(2, 3)
        fresh = [torch.empty(4), torch.empty_like(x), x.new_empty(3), torch.empty_strided((2, 2), (2, 1))]
        assert all(tensor.isnan().all() for tensor in fresh)
        assert torch.empty(2, dtype=torch.int64).max() < 0
