"""Our own kernels for the CPU: blocks of any layout, forward and backward, in float32."""

from __future__ import annotations

import torch
from torch import Tensor

from openwork.ops.backends.call import Call
from openwork.ops.backends.cpu_lower import lower
from openwork.ops.backends.cpu_native import absence, chosen_isa

__all__ = ["CpuBackend"]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_MAX_HEAD_DIM = 256


class CpuBackend:
    """Any layout on the CPU, in native code. Low precision is stored as it is and computed in float32.

    Args:
        isa: The instruction set; None takes the widest that the machine has, or what `OPENWORK_CPU_ISA` forces.
        poisoned: Fills scratch memory with NaN before it is used, for tests.
    """

    name = "cpu"

    def __init__(self, isa: str | None = None, poisoned: bool = False) -> None:
        self.isa = isa
        self.poisoned = poisoned

    def refusal_reasons(self, call: Call) -> list[str]:
        """What the kernels do not have.

        Raises:
            BackendError: `OPENWORK_CPU_ISA` names an instruction set that cannot run here.
        """
        missing = absence()
        if missing is not None:
            return [missing]
        if self.isa is None:
            chosen_isa()
        reasons = []
        query, value = call.query, call.value
        if query.device.type != "cpu":
            reasons.append(f"runs on cpu, got {query.device.type}")
        if query.dtype not in _DTYPES:
            reasons.append(f"computes in float32 from float32, bfloat16 or float16, got {query.dtype}")
        for name, size in (("head_dim", query.shape[-1]), ("v_head_dim", value.shape[-1])):
            if not 1 <= size <= _MAX_HEAD_DIM:
                reasons.append(f"needs a {name} from 1 to {_MAX_HEAD_DIM}, got {size}")
        if not (query.numel() and call.key.numel()):
            reasons.append("needs at least one sequence, head, query and key")
        return reasons

    def run(self, call: Call) -> tuple[Tensor, Tensor]:
        """Output and lse."""
        from openwork.ops.backends.cpu_operators import attention_forward

        variant = (self.isa or chosen_isa()) + ("+poison" if self.poisoned else "")
        options = [None if x is None else x.float() for x in (call.sink_logits, call.alibi_slopes)]
        tensors = call.query, call.key, call.value, *options
        keep_wide = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
        seed = call.dropout_seed - 2**64 if call.dropout_seed >= 2**63 else call.dropout_seed
        output, lse, _ = attention_forward(
            *tensors, lower(call.layout), call.scale, call.softcap or 0.0, call.dropout_p, seed, keep_wide, variant
        )
        return output, lse
