"""Which sequences each optimizer step sees: a function of the seed and the step alone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from openwork.patterns import Annotations
from openwork.patterns.chance import hash32
from openwork.study.notes import SequenceNotes
from openwork.study.tokens import TokenStream

__all__ = ["Batch", "Batches"]


class Batch(NamedTuple):
    """Sequences of one step.

    Attributes:
        tokens: int64 [batch, seq_len].
        targets: int64 [batch, seq_len], the token that follows each.
        annotations: Facts about each sequence's tokens; `None` where the plan reads none.
    """

    tokens: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]
    annotations: list[Annotations] | None

    def split(self, parts: int) -> list[Batch]:
        """The sequences in so many equal parts, in order; `parts` must divide their number."""
        size = len(self.tokens) // parts
        cuts = [slice(first, first + size) for first in range(0, len(self.tokens), size)]
        notes = self.annotations
        return [Batch(self.tokens[cut], self.targets[cut], None if notes is None else notes[cut]) for cut in cuts]


class Batches:
    """The training sequences in the order in which the steps take them.

    Every sequence of the stream comes once in an epoch; the order of epoch `e` sorts them by `hash(seed, e, number)`
    (DESIGN.md, Meaning 9), so it is the same on every machine and for every plan, and any step can be asked for
    without the ones before it.

    Args:
        stream: The training tokens.
        seq_len: Tokens of each sequence.
        batch_size: Sequences in a step.
        seed: Decides the order.
        notes: Makes the annotations; `None` where the plan reads none.
    """

    def __init__(
        self, stream: TokenStream, *, seq_len: int, batch_size: int, seed: int, notes: SequenceNotes | None = None
    ) -> None:
        self._stream, self._seq_len, self._batch_size, self._seed = stream, seq_len, batch_size, seed
        self._notes = notes
        self._epoch, self._order = -1, np.zeros(0, dtype=np.int64)

    def training(self, step: int) -> Batch:
        """The sequences of optimizer step `step`, counted from 0."""
        per_epoch = self._stream.num_sequences(self._seq_len)
        numbers = []
        for place in range(step * self._batch_size, (step + 1) * self._batch_size):
            epoch, index = divmod(place, per_epoch)
            if epoch != self._epoch:
                keys = hash32(self._seed, epoch, np.arange(per_epoch))
                self._epoch, self._order = epoch, np.argsort(keys, kind="stable")
            numbers.append(int(self._order[index]))
        return self.sequences(numbers)

    def sequences(self, numbers: list[int]) -> Batch:
        """The sequences of these numbers, with their annotations."""
        both = np.stack([self._stream.sequence(number, self._seq_len) for number in numbers]).astype(np.int64)
        annotations = None
        if self._notes is not None:
            places = [number * self._seq_len for number in numbers]
            annotations = [self._notes.window(place, place + self._seq_len) for place in places]
        return Batch(both[:, :-1], both[:, 1:], annotations)
