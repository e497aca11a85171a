"""Models of Hugging Face transformers: `sparsify` makes one compute only what a plan allows, `densify` undoes it.

Importing this registers the attention implementation `openwork` with transformers.
"""

from openwork.hf.register import register
from openwork.hf.sparsify import densify, sparsify

__all__ = ["densify", "sparsify"]

register()
