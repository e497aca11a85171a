"""The list of patterns: the names that pattern text may use. A new pattern is added here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from openwork.patterns import deepspeed
from openwork.patterns.axis import Axis
from openwork.patterns.base import Pattern, PerHead
from openwork.patterns.causal import Causal, Dense
from openwork.patterns.chunk import Chunk
from openwork.patterns.custom import Custom
from openwork.patterns.dilated import Dilated
from openwork.patterns.first import First
from openwork.patterns.flags import Keys, Queries
from openwork.patterns.grid import Grid
from openwork.patterns.labels import Earlier, Same
from openwork.patterns.links import Linked
from openwork.patterns.powers import PowersOfTwo
from openwork.patterns.random_blocks import RandomBlocks
from openwork.patterns.strided import Strided
from openwork.patterns.summary import Summary
from openwork.patterns.window import Window

__all__ = ["IMPORTERS", "LEAVES", "PATTERNS"]

LEAVES: tuple[type[Pattern], ...] = (
    Dense,
    Causal,
    Window,
    Dilated,
    Strided,
    Summary,
    Chunk,
    First,
    PowersOfTwo,
    RandomBlocks,
    Grid,
    Axis,
    Keys,
    Queries,
    Same,
    Earlier,
    Linked,
    Custom,
)
"""Every pattern that is not composed of others."""

PATTERNS: Mapping[str, type[Pattern]] = {leaf.__name__: leaf for leaf in (*LEAVES, PerHead)}
"""What `parse_pattern` knows, by name."""

IMPORTERS: Mapping[str, Callable[..., Any]] = {
    "PerHead.of": PerHead.of,
    **{
        f"{leaf.__name__}.{name}": getattr(leaf, name)
        for leaf in LEAVES
        for name in sorted(vars(leaf))
        if name.startswith("from_")
    },
    **{f"deepspeed.{name}": getattr(deepspeed, name) for name in deepspeed.__all__},
}
"""Other ways to make a pattern: by table, or in the words of another library."""
