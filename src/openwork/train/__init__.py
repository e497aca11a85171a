"""Training from dense to sparse: schedules from optimizer step to plan, and (in `optimizer`) optimizers."""

from openwork.train import schedules
from openwork.train.parse import parse_schedule
from openwork.train.schedules import DenseThenSparse, RelaxOnPlateau, Schedule, Shrink

__all__ = ["DenseThenSparse", "RelaxOnPlateau", "Schedule", "Shrink", "parse_schedule", "schedules"]
