"""Studies on a GPU."""

from __future__ import annotations

import pytest
import torch

from openwork.study import StudyConfig, contender_from_text, run

pytestmark = pytest.mark.gpu
PLANS = (
    contender_from_text("window: Causal() & Window(before=15)"),
    contender_from_text("facts: Causal() & (Window(before=7) | Keys('definition') | Linked('use'))"),
)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_study_learns_what_it_learns_on_the_cpu(tiny, tmp_path, dtype):
    def study(device: str, **options) -> StudyConfig:
        out = tmp_path / device
        return tiny(device=device, dtype=dtype, contenders=PLANS, steps=12, isolate=True, out=out, **options)

    there, here = run(study("cuda")), run(study("cpu"))
    assert there.environment["device"] == torch.cuda.get_device_name()
    rounding = 1e-3 if dtype == "float32" else 3e-2
    for own, wanted in zip(there.records, here.records, strict=True):
        assert own.losses == pytest.approx(wanted.losses, rel=rounding)
        assert own.losses[-1] < own.losses[0]
    assert all(row.peak_bytes for row in there.rows)
