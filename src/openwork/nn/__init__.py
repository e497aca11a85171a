"""Modules for home-grown models: sparse attention, a small decoder, plans in models of the user's own."""

from openwork.nn.attention import SparseAttention
from openwork.nn.cache import AttentionCache
from openwork.nn.convolution import ShortConvolution
from openwork.nn.decoder import Decoder, DecoderConfig
from openwork.nn.layouts import LayoutCache, prepare_layouts
from openwork.nn.multihead import SparseMultiheadAttention
from openwork.nn.plans import model_plan, set_plan
from openwork.nn.replace import replace_attention, restore_attention
from openwork.nn.rotary import rotary_table

__all__ = [
    "AttentionCache",
    "Decoder",
    "DecoderConfig",
    "LayoutCache",
    "ShortConvolution",
    "SparseAttention",
    "SparseMultiheadAttention",
    "model_plan",
    "prepare_layouts",
    "replace_attention",
    "restore_attention",
    "rotary_table",
    "set_plan",
]
