"""Patterns: what may talk to what. Pure values without lengths, in NumPy at most."""

from openwork.patterns import deepspeed, zoo
from openwork.patterns.annotations import Annotations
from openwork.patterns.axis import Axis
from openwork.patterns.base import And, Not, Or, Pattern, PerHead
from openwork.patterns.causal import Causal, Dense
from openwork.patterns.chunk import Chunk
from openwork.patterns.custom import Custom
from openwork.patterns.declarations import Declarations
from openwork.patterns.dilated import Dilated
from openwork.patterns.first import First
from openwork.patterns.flags import Keys, Queries
from openwork.patterns.grid import Grid
from openwork.patterns.labels import Earlier, Same
from openwork.patterns.links import Linked
from openwork.patterns.parse import parse_pattern
from openwork.patterns.powers import PowersOfTwo
from openwork.patterns.random_blocks import RandomBlocks
from openwork.patterns.register import register_pattern
from openwork.patterns.strided import Strided
from openwork.patterns.summary import Summary
from openwork.patterns.window import Window

__all__ = [
    "And",
    "Annotations",
    "Axis",
    "Causal",
    "Chunk",
    "Custom",
    "Declarations",
    "Dense",
    "Dilated",
    "Earlier",
    "First",
    "Grid",
    "Keys",
    "Linked",
    "Not",
    "Or",
    "Pattern",
    "PerHead",
    "PowersOfTwo",
    "Queries",
    "RandomBlocks",
    "Same",
    "Strided",
    "Summary",
    "Window",
    "deepspeed",
    "parse_pattern",
    "register_pattern",
    "zoo",
]
