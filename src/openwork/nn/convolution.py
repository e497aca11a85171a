"""`ShortConvolution`: each token takes a little from the few tokens right before it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openwork.errors import PlanError

__all__ = ["ShortConvolution"]


class ShortConvolution(nn.Module):
    """Adds to each token a weighted sum of itself and the `width - 1` tokens before it, each channel for itself.

    `output[t, c] = hidden[t, c] + sum over s < width of weight[c, s] * hidden[t - s, c]`. The weights start at zero,
    so a fresh module gives its input back. As in Canon layers (Allen-Zhu 2025, "Physics of Language Models: Part
    4.1"), a residual causal depthwise convolution; Primer (So et al. 2021) has it after the projections instead.

    **It carries information between neighbours whatever the pattern says**: through it a token learns of `width - 1`
    earlier tokens in each layer, a `Window(before=width - 1)` beside the layer's own pattern. Whoever says what can
    reach what in a model that has one must count it. Only tokens at consecutive positions are neighbours: padding
    takes and gives nothing, and where positions restart nothing comes over.

    Args:
        channels: Channels of input and output.
        width: Tokens that each token takes from, itself counted.

    Raises:
        PlanError: There is no channel, or `width` is less than 2.

    Examples:
        >>> layer = ShortConvolution(1, width=2)
        >>> _ = torch.nn.init.constant_(layer.weight, 0.5)
        >>> layer(torch.tensor([[[4.0], [8.0], [2.0]]])).flatten().tolist()
        [6.0, 14.0, 7.0]
        >>> layer(torch.tensor([[[4.0], [8.0], [2.0]]]), positions=torch.tensor([0, 0, 1])).flatten().tolist()
        [6.0, 12.0, 7.0]
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        if channels < 1 or width < 2:
            raise PlanError(
                f"ShortConvolution needs channels of 1 or more and a width of 2 or more, itself counted; got "
                f"channels={channels}, width={width}."
            )
        self.width = width
        self.weight = nn.Parameter(torch.zeros(channels, width))

    def forward(self, hidden: Tensor, positions: Any = None) -> Tensor:
        """The input with what its neighbours add.

        Args:
            hidden: [batch, seq_len, channels].
            positions: int [seq_len], or [batch or 1, seq_len]; -1 is padding. By default 0, 1, 2, ...

        Returns:
            [batch, seq_len, channels].
        """
        if positions is None:
            padded = F.pad(hidden.transpose(1, 2), (self.width - 1, 0))
            mixed = F.conv1d(padded, self.weight.flip(-1)[:, None], groups=hidden.shape[-1])
            return hidden + mixed.transpose(1, 2)
        places = torch.as_tensor(positions, device=hidden.device)
        places = places.reshape(-1, places.shape[-1])
        there = (places >= 0)[..., None]
        # whatever padding holds, NaN included, reaches nobody
        known = hidden.masked_fill(~there, 0.0)
        output = hidden + known * self.weight[:, 0]
        for back in range(1, min(self.width, hidden.shape[1])):
            neighbours = (places[:, back:] - places[:, :-back] == back) & (places[:, :-back] >= 0)
            earlier = known[:, :-back].masked_fill(~neighbours[..., None], 0.0)
            output = output + F.pad(earlier * self.weight[:, back], (0, 0, back, 0))
        return output

    def extra_repr(self) -> str:
        """What `print(model)` adds."""
        return f"channels={self.weight.shape[0]}, width={self.width}"
