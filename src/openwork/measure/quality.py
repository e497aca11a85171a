"""Quality of a language model in units that do not depend on the tokenizer."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable

from openwork.errors import DataError

__all__ = ["bits_per_byte", "gzip_bits_per_byte", "perplexity"]

_GZIP_WINDOW = 31
"""zlib's `wbits` for the largest window with a gzip header."""


def bits_per_byte(nats: float, num_bytes: int) -> float:
    """Bits that a model spends on each byte of text.

    Args:
        nats: Sum of the negative log-likelihoods of all tokens of the text, natural logarithm.
        num_bytes: UTF-8 bytes of that text.

    Raises:
        DataError: There is no byte to divide by.

    Examples:
        >>> bits_per_byte(math.log(256) * 10, 10)
        8.0
    """
    if num_bytes < 1:
        raise DataError(f"bits per byte need at least 1 byte of text; got {num_bytes}.")
    return nats / math.log(2) / num_bytes


def perplexity(nats: float, num_tokens: int) -> float:
    """The exponential of the mean negative log-likelihood of a token; infinite where it overflows.

    Depends on the tokenizer: compare it only between models that share one.

    Examples:
        >>> round(perplexity(math.log(50) * 4, 4), 6)
        50.0
    """
    if num_tokens < 1:
        raise DataError(f"perplexity needs at least 1 token; got {num_tokens}.")
    try:
        return math.exp(nats / num_tokens)
    except OverflowError:
        return math.inf


def gzip_bits_per_byte(chunks: Iterable[bytes]) -> float:
    """Bits per byte that `gzip -9` needs for the chunks joined: what costs no training at all.

    Raises:
        DataError: The chunks hold no byte.

    Examples:
        >>> gzip_bits_per_byte([b"ab" * 5000]) < 0.1
        True
    """
    packer = zlib.compressobj(9, zlib.DEFLATED, _GZIP_WINDOW)
    packed = num_bytes = 0
    for chunk in chunks:
        num_bytes += len(chunk)
        packed += len(packer.compress(chunk))
    packed += len(packer.flush())
    if num_bytes < 1:
        raise DataError("bits per byte need at least 1 byte of text; got 0.")
    return 8 * packed / num_bytes
