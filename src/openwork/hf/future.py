"""Whether a pattern lets any query see a later key: what a plan for an encoder is asked."""

from __future__ import annotations

from itertools import product

import numpy as np

from openwork.patterns import Pattern, PerHead
from openwork.patterns.base import leaves, substitute

__all__ = ["sees_later_keys"]

_QUERIES, _FURTHEST = 64, 2048
_MOST_FACTS = 6
"""Facts whose every combination is tried; a pattern that reads more is taken to see later keys."""


def sees_later_keys(pattern: Pattern) -> bool:
    """Whether some of the first 64 queries may see one of the 2,048 keys after it, whatever the annotations say.

    Examples:
        >>> from openwork.patterns import Causal, Keys, Window
        >>> sees_later_keys(Window(before=3)), sees_later_keys(Window(before=3) | Keys("heading"))
        (False, True)
    """
    heads = pattern.patterns if isinstance(pattern, PerHead) else (pattern,)
    return any(_sees(head) for head in dict.fromkeys(heads))


def _sees(pattern: Pattern) -> bool:
    facts = [leaf for leaf in dict.fromkeys(leaves(pattern)) if leaf.needs]
    if len(facts) > _MOST_FACTS:
        return True
    queries = np.arange(_QUERIES)[:, None]
    keys = queries + np.arange(1, _FURTHEST + 1)[None]
    for values in product((True, False), repeat=len(facts)):
        reduced = substitute(pattern, dict(zip(facts, values, strict=True)))
        if reduced is True or (isinstance(reduced, Pattern) and np.any(reduced.allows(queries, keys))):
            return True
    return False
