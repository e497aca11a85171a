"""Measuring: time with its spread, peak memory, and quality in units that tokenizers cannot change."""

from openwork.measure.memory import PeakMemory, device_memory, training_bytes
from openwork.measure.quality import bits_per_byte, gzip_bits_per_byte, perplexity
from openwork.measure.timing import Spread, spread

__all__ = [
    "PeakMemory",
    "Spread",
    "bits_per_byte",
    "device_memory",
    "gzip_bits_per_byte",
    "perplexity",
    "spread",
    "training_bytes",
]
