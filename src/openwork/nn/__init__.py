"""Modules for home-grown models: sparse attention, a small decoder, and the protocol that switches plans."""

from openwork.nn.attention import SparseAttention
from openwork.nn.convolution import ShortConvolution
from openwork.nn.decoder import Decoder, DecoderConfig
from openwork.nn.layouts import LayoutCache, prepare_layouts
from openwork.nn.plans import model_plan, set_plan
from openwork.nn.rotary import rotary_table

__all__ = [
    "Decoder",
    "DecoderConfig",
    "LayoutCache",
    "ShortConvolution",
    "SparseAttention",
    "model_plan",
    "prepare_layouts",
    "rotary_table",
    "set_plan",
]
