"""`bind`: a pattern on given lengths, positions and annotations. The definition that every other form agrees with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from openwork.errors import LayoutError, PatternError
from openwork.layout.positions import Binding, resolve
from openwork.layout.tokens import sides_of
from openwork.patterns.annotations import BoolArray
from openwork.patterns.base import Pattern, PerHead

__all__ = ["Bound", "bind"]


@dataclass(frozen=True, eq=False)
class Bound:
    """A pattern bound to data: it speaks of indices, the rows of the tensors.

    Attributes:
        pattern: The pattern.
        binding: Lengths, positions and annotations.
        row: The sequence that `allows` speaks of; `None` where they do not differ or none was chosen.
    """

    pattern: Pattern
    binding: Binding
    row: int | None = None

    @property
    def batch(self) -> int:
        """Sequences that differ; 1 is shared by all."""
        return len(self.binding.rows)

    def head(self, head: int) -> Bound:
        """The bound pattern of query head `head`."""
        return Bound(self.pattern.head(head), self.binding, self.row)

    def sequence(self, row: int) -> Bound:
        """The bound pattern of sequence `row` of the batch."""
        if not 0 <= row < self.batch:
            raise LayoutError(f"sequence {row} does not exist: the pattern is bound to {self.batch}.")
        return Bound(self.pattern, self.binding, row)

    def allows(self, q_idx: Any, kv_idx: Any) -> Any:
        """Whether query row `q_idx` may attend to key row `kv_idx` (ints, NumPy or torch; broadcasts).

        Raises:
            LayoutError: A row is outside the lengths.
            PatternError: The pattern is a `PerHead`, or several sequences differ and none was chosen.
        """
        if self.batch > 1 and self.row is None:
            raise PatternError(f"the pattern is bound to {self.batch} sequences: ask bound.sequence(b).allows(...).")
        rows = []
        for name, values, length in (("q_idx", q_idx, self.binding.q_len), ("kv_idx", kv_idx, self.binding.kv_len)):
            array = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
            if array.size and not (0 <= array.min() and array.max() < length):
                bad = array.min() if array.min() < 0 else array.max()
                raise LayoutError(f"{name}={bad} is outside 0 to {length - 1}.")
            rows.append(array.astype(np.int64))
        allowed = self._allows(*np.broadcast_arrays(*rows))
        tensor = next((values for values in (q_idx, kv_idx) if hasattr(values, "new_tensor")), None)
        if tensor is not None:
            return tensor.new_tensor(allowed, dtype=None).bool()
        return bool(allowed) if np.ndim(allowed) == 0 else allowed

    def _allows(self, q_idx: Any, kv_idx: Any) -> BoolArray:
        q_side, k_side = sides_of(self.binding.sequences[self.binding.rows[self.row or 0]])
        q, k = q_side.view(q_idx), k_side.view(kv_idx)
        return np.asarray(self.pattern.pairs(q, k) & (q.position >= 0) & (k.position >= 0))

    def to_dense(self) -> BoolArray:
        """Bool `[batch or 1, q_heads or 1, q_len, kv_len]`: every pair asked, the oracle of every other form."""
        heads = len(self.pattern.patterns) if isinstance(self.pattern, PerHead) else 1
        q_idx, kv_idx = np.arange(self.binding.q_len)[:, None], np.arange(self.binding.kv_len)[None]
        shape = (self.binding.q_len, self.binding.kv_len)
        return np.stack(
            [
                np.stack(
                    [
                        np.broadcast_to(Bound(self.pattern.head(h), self.binding, b)._allows(q_idx, kv_idx), shape)
                        for h in range(heads)
                    ]
                )
                for b in range(self.batch)
            ]
        )


def bind(pattern: Pattern, **arguments: Any) -> Bound:
    """A pattern bound to data: `bound.allows(q_idx, kv_idx)` is the definition of what is allowed.

    Args:
        pattern: The pattern.
        arguments: `q_len`, `kv_len`, `q_start`, `q_positions`, `kv_positions`, `annotations` and `q_annotations`, as
            `compile_layout` takes them.

    Raises:
        LayoutError: Lengths or positions contradict each other.
        AnnotationError: The pattern reads an annotation that is missing or of another length.

    Examples:
        >>> import openwork as ow
        >>> bound = ow.bind(ow.Causal(), q_len=2, kv_len=5)
        >>> [bound.allows(0, key) for key in range(5)]
        [True, True, True, True, False]
    """
    if not isinstance(pattern, Pattern):
        raise PatternError(
            f"bind takes a pattern; got {pattern!r}. A boolean tensor is a layout: BlockLayout.from_mask."
        )
    return Bound(pattern, resolve(pattern, **arguments))
