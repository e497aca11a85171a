"""Layouts: which blocks of query-key pairs to run, compiled from patterns. NumPy only."""

from openwork.layout.bind import Bound, bind
from openwork.layout.compile import compile_layout
from openwork.layout.data import BlockLayout, Part, Plane
from openwork.layout.decoder import Decoder, decoder
from openwork.layout.draw import draw
from openwork.layout.positions import documents_from_positions

__all__ = [
    "BlockLayout",
    "Bound",
    "Decoder",
    "Part",
    "Plane",
    "bind",
    "compile_layout",
    "decoder",
    "documents_from_positions",
    "draw",
]
