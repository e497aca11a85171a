"""Plans: which pattern every layer of a model uses. Values on patterns alone."""

from openwork.plan.plan import Plan

__all__ = ["Plan"]
