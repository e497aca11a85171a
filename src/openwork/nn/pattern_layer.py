"""What every attention layer has that takes a pattern, whoever wrote it."""

from __future__ import annotations

from typing import Any, ClassVar

from openwork.errors import PlanError
from openwork.layout import BlockLayout
from openwork.patterns import Pattern, PerHead

__all__ = ["PatternLayer", "Rule", "check_rules", "num_q_heads_of"]

Rule = Pattern | BlockLayout
"""What a layer uses: a pattern, or the layout of a boolean tensor, which is for one length."""

_HEAD_NAMES = ("q_heads", "num_heads", "n_head", "n_heads", "num_attention_heads", "heads")


class PatternLayer:
    """A module that `set_plan` gives a pattern; beside `nn.Module` among its bases.

    Attributes:
        pattern: Which pairs may interact from the next call on.
        decode_pattern: What a single token sees that is given upon a cache, where the plan names it.
        takes_annotations: Whether a call can bring the facts that a pattern reads.
    """

    pattern: Rule
    decode_pattern: Rule | None = None
    takes_annotations: ClassVar[bool] = False

    def check_pattern(self, pattern: Rule, decode: Rule | None = None) -> None:
        """Raises a `PlanError` where `set_pattern` would."""
        check_rules((pattern, decode), type(self).__name__, num_q_heads_of(self), self.takes_annotations)

    def set_pattern(self, pattern: Rule, decode: Rule | None = None) -> None:
        """Uses another pattern from the next call on; parameters are untouched.

        Args:
            pattern: What queries see.
            decode: What a single token sees that is given upon a cache; `None` for the same.

        Raises:
            PlanError: It is for another number of heads, or reads annotations that a call cannot bring. Then nothing
                was changed.
        """
        self.check_pattern(pattern, decode)
        self.pattern, self.decode_pattern = pattern, decode

    def pattern_for(self, q_len: int, kv_len: int) -> Rule:
        """The pattern of a call: `decode_pattern`, where there is one, of a single token upon a cache."""
        return self.decode_pattern if q_len == 1 < kv_len and self.decode_pattern is not None else self.pattern


def num_q_heads_of(module: Any) -> int | None:
    """Number of query heads of an attention module, where an attribute of a usual name says it."""
    counts = (getattr(module, name, None) for name in _HEAD_NAMES)
    return next((count for count in counts if isinstance(count, int)), None)


def check_rules(rules: tuple[Rule | None, ...], where: str, heads: int | None, takes_annotations: bool) -> None:
    """Raises a `PlanError` where a rule does not fit a layer.

    Args:
        rules: Patterns or layouts.
        where: What the message calls the layer.
        heads: Its number of query heads, where it is known.
        takes_annotations: Whether a call can bring the facts that a pattern reads.
    """
    for rule in rules:
        if isinstance(rule, PerHead) and heads not in (None, len(rule.patterns)):
            raise PlanError(
                f"a PerHead of {len(rule.patterns)} heads does not fit a layer of {heads} query heads; "
                "give one pattern for each."
            )
        if isinstance(rule, BlockLayout) and heads is not None and rule.heads not in (1, heads):
            raise PlanError(f"the mask is for {rule.heads} heads, but {where} has {heads}.")
        if isinstance(rule, Pattern) and rule.needs and not takes_annotations:
            raise PlanError(
                f"{rule!r} reads annotations, and {where} has no argument that brings them. Call "
                "openwork.nn.functional.scaled_dot_product_attention with a layout that is compiled with them, or "
                "build the layer with openwork.nn.SparseAttention."
            )
