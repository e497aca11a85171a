"""Whether a cache that a caller hands over can be of this model."""

from __future__ import annotations

from typing import Any

from openwork.errors import ArgumentError

__all__ = ["check_cache"]


def check_cache(config: Any, cache: Any) -> None:
    """Refuses a filled cache that has another number of layers, key heads or channels than the model.

    Models whose layers share or compress keys are not judged.

    Raises:
        ArgumentError: The cache is another model's.
    """
    layers = getattr(getattr(cache, "self_attention_cache", cache), "layers", None)
    if not layers or any(hasattr(config, name) for name in ("num_kv_shared_layers", "kv_lora_rank")):
        return
    filled = [keys for layer in layers if (keys := getattr(layer, "keys", None)) is not None and keys.numel()]
    expected = getattr(config, "num_hidden_layers", None)
    if not filled or len(filled) != len(layers) or not isinstance(expected, int):
        return
    if len(layers) != expected:
        raise ArgumentError(
            f"past_key_values has {len(layers)} layers, but the model has {expected}: it is another model's cache. "
            "Start with past_key_values=None."
        )
    heads = getattr(config, "num_key_value_heads", None) or getattr(config, "num_attention_heads", None)
    channels = getattr(config, "head_dim", None)
    shape = filled[0].shape
    if (isinstance(heads, int) and shape[1] != heads) or (isinstance(channels, int) and shape[3] != channels):
        wanted = f"{heads} key heads" + (f" with {channels}" if channels else "")
        raise ArgumentError(
            f"past_key_values holds keys of {shape[1]} heads with {shape[3]} channels, but the model has {wanted}: it "
            "is another model's cache. Start with past_key_values=None."
        )
