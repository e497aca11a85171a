"""`AttentionCache`: the keys and values that one layer has made, and which of them the next token sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openwork.errors import ArgumentError
from openwork.layout import BlockLayout
from openwork.layout.decoder import Decoder, decoder
from openwork.nn.layouts import Facts, LayoutCache
from openwork.patterns import Pattern
from openwork.patterns.annotations import IntArray

__all__ = ["AttentionCache"]

_LEAST = 256


class AttentionCache:
    """What one `SparseAttention` layer remembers of the tokens that it has read; each layer has its own.

    Give it to every call of the layer: the first one reads the prompt, in one piece or several, the next ones a token
    each. Only the keys that a token sees are read for it. Keys that no later token can see are kept all the same.

    Examples:
        >>> from openwork.nn import SparseAttention
        >>> from openwork.patterns import Causal, Window
        >>> layer, cache = SparseAttention(32, q_heads=4, pattern=Causal() & Window(before=7)), AttentionCache()
        >>> hidden = torch.randn(1, 20, 32)
        >>> with torch.no_grad():
        ...     prompt = layer(hidden[:, :19], cache=cache)
        ...     step = layer(hidden[:, 19:], cache=cache)
        ...     whole = layer(hidden)
        >>> len(cache), torch.allclose(step, whole[:, 19:], atol=1e-5)
        (20, True)
    """

    def __init__(self) -> None:
        self._keys: Tensor | None = None
        self._values: Tensor | None = None
        self._length = 0
        self._positions: IntArray | None = None
        self._layouts = LayoutCache(4)
        self._decoder: Decoder | None = None

    def __len__(self) -> int:
        return self._length

    def append(self, key: Tensor, value: Tensor, positions: IntArray) -> tuple[Tensor, Tensor]:
        """Takes keys and values of the next tokens and gives those of all.

        Args:
            key: `[batch, kv_heads, n, head_dim]`.
            value: Likewise.
            positions: int64 `[batch or 1, n]`; -1 is padding.

        Returns:
            Keys and values `[batch, kv_heads, length, head_dim]`.

        Raises:
            ArgumentError: They are for another batch than the tokens before.
        """
        if self._keys is not None and self._keys.shape[0] != key.shape[0]:
            raise ArgumentError(
                f"the cache holds batch={self._keys.shape[0]} sequences, but got batch={key.shape[0]}; a new "
                "prompt needs a new AttentionCache."
            )
        stop = self._length + key.shape[2]
        self._keys = _written(self._keys, key, self._length)
        self._values = _written(self._values, value, self._length)
        self._length = stop
        if self._positions is None:
            self._positions = positions
        else:
            rows = max(len(self._positions), len(positions))
            parts = (np.broadcast_to(part, (rows, part.shape[1])) for part in (self._positions, positions))
            self._positions = np.concatenate(list(parts), axis=1)
        return self._keys[:, :, :stop], self._values[:, :, :stop]

    def layout(self, pattern: Pattern, n: int, facts: Facts | None) -> BlockLayout:
        """The pairs of the last `n` tokens, as queries, and all tokens, as keys.

        Args:
            pattern: The layer's.
            n: Tokens that were appended last.
            facts: About all tokens, where the pattern reads any.
        """
        return self._layouts.layout(
            pattern, q_len=n, kv_len=self._length, annotations=facts, kv_positions=self._given_positions()
        )

    def visible(self, pattern: Pattern, facts: Facts | None) -> list[list[IntArray]]:
        """The keys that the last token sees, for each sequence and head.

        Args:
            pattern: The layer's.
            facts: About all tokens, where the pattern reads any.
        """
        assert self._positions is not None
        follows = self._decoder is not None and self._decoder.pattern == pattern
        batch = max(len(self._positions), 1 if facts is None or not isinstance(facts, Sequence) else len(facts))
        if self._decoder is None or not follows or self._decoder.lengths != [self._length - 1] * batch:
            self._decoder = decoder(pattern, batch=batch)
        since = self._decoder.lengths[0]
        rows = np.broadcast_to(self._positions, (batch, self._length))[:, since:]
        self._decoder.append(self._length - since, facts if pattern.needs else None, positions=rows)
        return self._decoder.visible()

    def select(self, rows: Any) -> None:
        """Keeps some sequences of the batch, in a new order; a row may be named more than once (beams).

        Args:
            rows: int `[new batch]`.
        """
        chosen = torch.as_tensor(rows)
        if self._keys is not None and self._values is not None:
            self._keys, self._values = (x[chosen.to(x.device)] for x in (self._keys, self._values))
        if self._positions is not None and len(self._positions) > 1:
            self._positions = self._positions[chosen.cpu().numpy()]
        self._decoder = None

    def _given_positions(self) -> IntArray | None:
        plain = self._positions is None or (self._positions == np.arange(self._length)).all()
        return None if plain else self._positions


def _written(held: Tensor | None, new: Tensor, start: int) -> Tensor:
    """`held` with `new` from `start` on: in place where there is room, unless a gradient has to go through."""
    if new.requires_grad or (held is not None and held.requires_grad):
        return new if held is None else torch.cat((held[:, :, :start], new), dim=2)
    stop = start + new.shape[2]
    if held is None or held.shape[2] < stop:
        room = max(_LEAST, 2 * stop)
        grown = new.new_empty(*new.shape[:2], room, new.shape[3])
        if held is not None:
            grown[:, :, :start] = held[:, :, :start]
        held = grown
    held[:, :, start:stop] = new
    return held
