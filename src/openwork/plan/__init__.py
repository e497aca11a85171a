"""Plans: which pattern every layer of a model uses. Values on patterns alone."""

from openwork.plan.file import read_plan
from openwork.plan.plan import Plan

__all__ = ["Plan", "read_plan"]
