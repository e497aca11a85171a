"""Plans that read facts, and what makes them, for the tests of annotated models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import openwork as ow

PLAN = ow.Plan(default=ow.Causal() & (ow.Window(before=3) | ow.Keys("heading")))
NAMED = ow.Plan(default=PLAN.default, annotator="markdown")
TEXT = "# One\n\nsome text, and\nmore of it\n\n## Two\n\nthe end of it\n"


def sevens(batch: Mapping[str, Any]) -> list[ow.Annotations]:
    """Token 7 is a heading."""
    return [ow.Annotations(len(row), flags={"heading": (row == 7).numpy()}) for row in batch["input_ids"]]
