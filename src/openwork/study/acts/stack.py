"""What reaches what in a model with short convolutions: ahead of each layer's pattern a small window."""

from __future__ import annotations

from collections.abc import Sequence

from openwork.check import TextLink, trace_links
from openwork.patterns import Annotations, Causal, Window
from openwork.plan import Plan

__all__ = ["links_through"]


def links_through(
    plan: Plan,
    links: Sequence[TextLink],
    length: int,
    *,
    num_layers: int,
    conv_width: int,
    annotations: Annotations | None,
) -> list[int | None]:
    """Layers that each link takes in a model whose convolution of `conv_width` tokens stands before each attention.

    Args:
        plan: What each layer uses.
        links: The links.
        length: Number of tokens.
        num_layers: Layers of the model.
        conv_width: Tokens that the convolution mixes, itself counted; 2 or more.
        annotations: Facts about the tokens.

    Returns:
        For each link the layers until its keys have reached the query; `None` where all layers are not enough.

    Examples:
        >>> link = TextLink("lookup", 9, (3, 4), 1, 1, "x")
        >>> plan = Plan(default=Causal() & Window(before=2))
        >>> links_through(plan, [link], 10, num_layers=2, conv_width=2, annotations=None)
        [2]
        >>> links_through(plan, [link], 10, num_layers=1, conv_width=2, annotations=None)
        [None]
    """
    mixing = Causal() & Window(before=conv_width - 1)
    layers = {2 * number: mixing for number in range(num_layers)}
    layers |= {2 * number + 1: plan.for_layer(number, num_layers) for number in range(num_layers)}
    stack = Plan(default=mixing, layers=layers)
    traced = trace_links(stack, links, length, layers=2 * num_layers, annotations=annotations)
    return [None if link.hops is None else (link.hops + 1) // 2 for link in traced]
