"""Names that a configuration may use, without torch."""

__all__ = ["OPTIMIZERS"]

OPTIMIZERS = ("muon", "adamw")
"""Kinds of optimizer by name."""
