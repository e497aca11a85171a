"""Measuring: time with its spread, peak memory, quality that tokenizers cannot change, estimated energy, intervals."""

from openwork.measure.energy import WORLD_GCO2_PER_KWH, Power, co2e_g, energy_wh, stated_power
from openwork.measure.interval import Interval, paired_interval, separate_interval, t_quantile
from openwork.measure.memory import PeakMemory, device_memory, free_memory, release_free_memory, training_bytes
from openwork.measure.quality import bits_per_byte, gzip_bits_per_byte, perplexity
from openwork.measure.timing import Spread, spread

__all__ = [
    "WORLD_GCO2_PER_KWH",
    "Interval",
    "PeakMemory",
    "Power",
    "Spread",
    "bits_per_byte",
    "co2e_g",
    "device_memory",
    "energy_wh",
    "free_memory",
    "gzip_bits_per_byte",
    "paired_interval",
    "perplexity",
    "release_free_memory",
    "separate_interval",
    "spread",
    "stated_power",
    "t_quantile",
    "training_bytes",
]
