"""Models of Hugging Face transformers: `sparsify` makes one compute only what a plan allows, `densify` undoes it.

Importing this registers the attention implementation `openwork` with transformers, and lets `from_pretrained` give a
saved sparse model its plan again.
"""

from openwork.hf.annotate import annotating
from openwork.hf.config import install_loader
from openwork.hf.register import register
from openwork.hf.report import SparseLayer, layers_of
from openwork.hf.sparsify import densify, plug_loaded, sparsify

__all__ = ["SparseLayer", "annotating", "densify", "layers_of", "sparsify"]

register()
install_loader(plug_loaded)
