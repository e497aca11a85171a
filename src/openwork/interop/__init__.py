"""Everyone else's masks: each direction named after the convention that it reads or writes.

What is read becomes a `BlockLayout`, which every operation and module here takes. What is written is made from one.
"""

from openwork.interop.flax import from_flax, to_flax
from openwork.interop.flex import from_block_mask, from_mask_mod, to_block_mask, to_mask_mod
from openwork.interop.huggingface import from_hf, from_mask_function, to_hf, to_mask_function
from openwork.interop.masks import (
    from_additive,
    from_fairseq,
    from_multihead_attention,
    to_additive,
    to_boolean,
    to_fairseq,
    to_multihead_attention,
)
from openwork.interop.xformers import from_xformers

__all__ = [
    "from_additive",
    "from_block_mask",
    "from_fairseq",
    "from_flax",
    "from_hf",
    "from_mask_function",
    "from_mask_mod",
    "from_multihead_attention",
    "from_xformers",
    "to_additive",
    "to_block_mask",
    "to_boolean",
    "to_fairseq",
    "to_flax",
    "to_hf",
    "to_mask_function",
    "to_mask_mod",
    "to_multihead_attention",
]
