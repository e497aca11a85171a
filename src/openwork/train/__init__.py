"""Training from dense to sparse: schedules from optimizer step to plan, and (in `optimizer`) optimizers."""

from typing import TYPE_CHECKING, Any

from openwork.train import schedules
from openwork.train.parse import parse_schedule
from openwork.train.schedules import DenseThenSparse, RelaxOnPlateau, Schedule, Shrink

if TYPE_CHECKING:
    from openwork.train.callback import PlanCallback

__all__ = [
    "DenseThenSparse",
    "PlanCallback",
    "RelaxOnPlateau",
    "Schedule",
    "Shrink",
    "parse_schedule",
    "schedules",
]


def __getattr__(name: str) -> Any:
    # it loads torch and transformers, which schedules need not
    if name != "PlanCallback":
        raise AttributeError(f"module 'openwork.train' has no attribute {name!r}")
    try:
        from openwork.train.callback import PlanCallback
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        from openwork.errors import PlanError

        raise PlanError("PlanCallback needs transformers: pip install 'openwork[hf]'.") from None
    return PlanCallback
