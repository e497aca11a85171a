"""Our own kernels for the CPU: blocks of any layout, forward and backward, in float32."""

from __future__ import annotations

import torch
from torch import Tensor

from openwork.ops.backends.call import Call
from openwork.ops.backends.cpu_lower import lower
from openwork.ops.backends.cpu_native import absence, chosen_isa

__all__ = ["CpuBackend", "attend", "reasons_of_tensors"]

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
        return reasons_of_tensors(call.query, call.key, call.value)

    def run(self, call: Call) -> tuple[Tensor, Tensor]:
        """Output and lse."""
        variant = (self.isa or chosen_isa()) + ("+poison" if self.poisoned else "")
        tensors = call.query, call.key, call.value, call.sink_logits, call.alibi_slopes
        numbers = call.scale, call.softcap or 0.0, call.dropout_p, call.dropout_seed
        return attend(tensors, lower(call.layout), numbers, variant, compiled=torch.compiler.is_compiling())


def reasons_of_tensors(query: Tensor, key: Tensor, value: Tensor) -> list[str]:
    """Why the kernels cannot run these, on any layout."""
    reasons = []
    if query.device.type != "cpu":
        reasons.append(f"runs on cpu, got {query.device.type}")
    if query.dtype not in _DTYPES:
        reasons.append(f"computes in float32 from float32, bfloat16 or float16, got {query.dtype}")
    for name, size in (("head_dim", query.shape[-1]), ("v_head_dim", value.shape[-1])):
        if not 1 <= size <= _MAX_HEAD_DIM:
            reasons.append(f"needs a {name} from 1 to {_MAX_HEAD_DIM}, got {size}")
    if 0 in query.shape or 0 in key.shape:
        reasons.append("needs at least one sequence, head, query and key")
    return reasons


def attend(
    tensors: tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None],
    words: Tensor,
    numbers: tuple[float, float, float, int],
    variant: str,
    *,
    compiled: bool = False,
) -> tuple[Tensor, Tensor]:
    """Output and lse.

    Args:
        tensors: Query, key, value, sink_logits and alibi_slopes.
        words: The lowered layout.
        numbers: scale, softcap (0 for none), dropout_p and dropout_seed.
        variant: See `cpu_operators`.
        compiled: Whether this is traced: the operator then stands in the graph, with its own derivative.
    """
    from openwork.ops.backends.cpu_operators import attention

    inputs = *tensors[:3], *(None if x is None else x.float() for x in tensors[3:])
    differentiable = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
    # an operator's integer is signed; the kernels take its bits
    seed = numbers[3] - 2**64 if numbers[3] >= 2**63 else numbers[3]
    output, lse, _ = attention(
        *inputs, words, *numbers[:3], seed, differentiable, variant, by_function=differentiable and not compiled
    )
    return output, lse
