"""Which of two backends that can run a call `"auto"` takes: what was measured of `cpu` beside `sdpa`."""

from __future__ import annotations

import torch

from openwork.ops.backends.call import Call
from openwork.ops.backends.cpu_native import chosen_isa
from openwork.ops.backends.sdpa import dense_or_causal

__all__ = ["passed_over"]

_MEASURED_ISAS = ("avx512", "avx2", "plain")

_CPU_FROM: dict[tuple[torch.dtype, str], tuple[tuple[int, int], ...]] = {
    (torch.float32, "causal"): ((4, 64), (1, 512)),
    (torch.float32, "dense"): ((8, 1024),),
    (torch.float16, "causal"): ((4, 64),),
}
"""(sequences times query heads, tokens) from which on `cpu` was not slower than `sdpa`, without gradients and with.

From `benchmarks/auto_choice.py` on 2026-11-26, one thread, AVX-512 (reports/2026-11-26-auto-choice.md). What is not
here was slower or was not measured: short calls, which cost more than their sums; bfloat16, which torch multiplies in
the processor's own matrix units where it has them; few queries over many keys.
"""


def passed_over(call: Call, able: dict[str, bool]) -> dict[str, str]:
    """Why `"auto"` does not take `sdpa`, or does not take `cpu`, although it could.

    Args:
        call: The call.
        able: For each backend, whether it can run the call.

    Returns:
        The reason of the one that is passed over; empty where not both can run the call.
    """
    if not (able.get("sdpa") and able.get("cpu")):
        return {}
    kind = dense_or_causal(call.layout) or ""
    isa = chosen_isa()
    heads, tokens = call.query.shape[:2].numel(), min(call.layout.q_len, call.layout.kv_len)
    dtype = str(call.query.dtype).removeprefix("torch.")
    what = f"{kind}, {dtype}, {tokens} tokens, {heads} heads"
    rules = _CPU_FROM.get((call.query.dtype, kind), ())
    if isa not in _MEASURED_ISAS:
        return {"cpu": f"not measured beside sdpa with {isa}"}
    if not rules:
        return {"cpu": f"not measured to be as fast as sdpa for {kind} layouts in {dtype}"}
    if any(heads >= fewest and tokens >= shortest for fewest, shortest in rules):
        return {"sdpa": f"measured no faster than cpu ({what})"}
    starts = ", ".join(f"{shortest} tokens with {fewest} heads" for fewest, shortest in rules)
    return {"cpu": f"not measured to be as fast as sdpa ({what}; it was from {starts} on)"}
