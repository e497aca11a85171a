"""Every backend means the same: values and all gradients against the float64 reference."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from openwork.testing.contract import CASES, case_inputs, results
from openwork.testing.tolerance import assert_no_worse_than

LOW = [case for case in CASES if "63x63" in case.name or "-grouped" in case.name or "everything" in case.name]


@cache
def expected(case, dtype):
    """The float64 reference on the numbers that `dtype` holds, and the reference in `dtype` itself."""
    inputs = case_inputs(case, dtype)
    return results(case, inputs.to(torch.float64), "reference"), results(case, inputs, "reference")


def check(case, backend, dtype, run):
    exact, reference = expected(case, dtype)
    found = run(results, case, case_inputs(case, dtype), backend)
    assert found.keys() == exact.keys()
    for name, tensor in found.items():
        # what is merged rounds once more; float64 is its own oracle; torch's flash attention takes exp to 20 bits
        # where the inputs are half precision
        ulps = 128 if dtype == torch.float64 or (name == "lse" and dtype != torch.float32) else 4
        assert_no_worse_than(
            tensor, reference[name], exact[name], name=f"{case.name}: {name}", ulps=ulps, magnitude=1.0
        )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients_in_float32(case, backend, refused_is_skipped):
    check(case, backend, torch.float32, refused_is_skipped)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("case", LOW, ids=str)
def test_values_and_gradients_in_half_precision(case, dtype, backend, refused_is_skipped):
    check(case, backend, dtype, refused_is_skipped)


@pytest.mark.parametrize("case", LOW, ids=str)
def test_values_and_gradients_in_float64(case, backend, refused_is_skipped):
    check(case, backend, torch.float64, refused_is_skipped)
