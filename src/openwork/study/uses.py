"""Which held-out tokens belong to uses of names, and whether the definition lies inside the narrowest window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from openwork.annotate import Annotator
from openwork.errors import AnnotationError
from openwork.patterns import Dilated, Not, Pattern, Window
from openwork.study.config import StudyConfig
from openwork.study.contender import Contender
from openwork.study.corpus import Document, read_text
from openwork.study.notes import annotator_of
from openwork.study.tokenizer import TextTokenizer
from openwork.study.tokens import TokenStream

__all__ = ["UseTokens", "find_uses", "narrowest_window", "use_window"]

_LINK = "use"
_NAME, _AFTER = 1, 2
_SHARE_OF_SEQUENCE = 8


def narrowest_window(contenders: Sequence[Contender]) -> int | None:
    """Keys before the query that the narrowest window of these plans' layers and heads reaches; `None` without one.

    Windows inside a complement are no windows.

    >>> from openwork.study.contender import contender_from_text
    >>> narrowest_window([contender_from_text("Causal() & (Window(before=255) | Keys('definition'))")])
    255
    """
    plans = [contender.plan for contender in contenders if contender.plan is not None]
    patterns = [pattern for plan in plans for pattern in plan.part("decoder").patterns]
    found = [leaf.before for pattern in patterns for leaf in _leaves(pattern) if isinstance(leaf, Window | Dilated)]
    return min((before for before in found if before is not None), default=None)


def use_window(config: StudyConfig) -> int:
    """The window that divides uses: the narrowest of the compared plans, else an eighth of a sequence, in tokens."""
    narrowest = narrowest_window(config.contenders)
    return max(1, config.seq_len // _SHARE_OF_SEQUENCE) if narrowest is None else narrowest


def _leaves(pattern: Pattern) -> Iterator[Pattern]:
    if isinstance(pattern, Not):
        return
    parts = getattr(pattern, "patterns", None)
    if parts is None:
        yield pattern
        return
    for part in parts:
        yield from _leaves(part)


class UseTokens:
    """Sorts predicted tokens by the use that they belong to; the same for every plan, whatever it reads.

    A use is a link `use` of the data's annotator: from the token by which a name is over and known for a use, through
    its arguments, to the first line of its definition. Its **name** is the tokens of the name and the one that shows it
    to be over; **after** it come the tokens that the link's queries predict: the arguments and one more token. Of
    several uses around a token the one that began last counts, and a name counts before what follows another.

    A definition is **inside** where the query that predicts the token is at most `window` keys behind the end of the
    definition's first line, else **outside**. A use whose definition lies before the sequence counts for nothing: no
    plan can see it.

    Args:
        stream: The held-out tokens.
        root: Directory of the documents.
        tokenizer: What made the tokens.
        window: Keys before a query that count as inside.
        stop: Tokens of the stream to look at.
        annotator: Name of the annotator of all documents; `None` for that of each file's kind.
    """

    def __init__(
        self,
        stream: TokenStream,
        root: Path,
        tokenizer: TextTokenizer,
        *,
        window: int,
        stop: int,
        annotator: str | None = None,
    ) -> None:
        self.window = window
        self._kind = np.zeros(stop, dtype=np.int8)
        self._definition_stop = np.zeros(stop, dtype=np.int64)
        speakers: dict[str, bool] = {}
        rows = [np.zeros((0, 4), dtype=np.int64)]
        for number, _, _ in stream.pieces(0, stop):
            document = stream.documents[number]
            speaker = annotator_of(document, annotator)
            if speaker is not None and speakers.setdefault(speaker.name, _gives_uses(speaker)):
                rows.append(_uses(speaker, document, root, tokenizer) + int(stream.firsts[number]) + 1)
        self.available = any(speakers.values())
        """Whether an annotator of this data gives uses at all."""
        self._mark(np.concatenate(rows))

    def _mark(self, rows: npt.NDArray[np.int64]) -> None:
        """Marks the tokens of uses given as name's first token, first query, end of queries, end of definition."""
        rows = rows[np.lexsort((rows[:, 3], rows[:, 1]))]
        for _, first, stop, definition_stop in rows.tolist():
            self._kind[first + 1 : stop + 1] = _AFTER
            self._definition_stop[first + 1 : stop + 1] = definition_stop
        for name, first, _, definition_stop in rows.tolist():
            self._kind[name : first + 1] = _NAME
            self._definition_stop[name : first + 1] = definition_stop

    def classes(self, first: int, seq_len: int) -> npt.NDArray[np.int8]:
        """The class of each target of the sequence that begins at token `first`: int8 [seq_len] into `USE_CLASSES`."""
        targets = np.arange(first + 1, first + seq_len + 1)
        kind, stop = self._kind[targets], self._definition_stop[targets]
        outside = (targets - stop > self.window).astype(np.int8)
        return np.where((kind > 0) & (stop > first), 2 * kind - 1 + outside, 0).astype(np.int8)


def _gives_uses(annotator: Annotator) -> bool:
    return _LINK in annotator("", np.zeros((0, 2), dtype=np.int64)).links


def _uses(annotator: Annotator, document: Document, root: Path, tokenizer: TextTokenizer) -> npt.NDArray[np.int64]:
    """Each use of a document as tokens: first of the name, first query, end of queries, end of the definition."""
    text = read_text(root, document)
    offsets = tokenizer.offsets(text)
    links = annotator(text, offsets).links[_LINK]
    names = np.array([_name_first(text, offsets, int(first)) for first in links[:, 0]], dtype=np.int64)
    # the token after a document's last one is a separator, which is no part of any use
    stops = np.minimum(links[:, 1], len(offsets) - 1)
    return np.stack([names, links[:, 0], stops, links[:, 3]], axis=1)


def _name_first(text: str, offsets: npt.NDArray[np.int64], over: int) -> int:
    """The first token of the name that token `over` shows to be over."""
    first = over
    content = text[offsets[over, 0] : offsets[over, 1]]
    if _is_name(content.lstrip()[:1]) and content[:1].isspace():
        return over  # one token holds a space, the name and what ends it
    while first > 0:
        content = text[offsets[first - 1, 0] : offsets[first - 1, 1]]
        if not content or not _is_name(content.lstrip()):
            break
        first -= 1
        if content[0].isspace():
            break
    return first


def _is_name(text: str) -> bool:
    return bool(text) and all(character.isalnum() or character == "_" for character in text)


def find_uses(config: StudyConfig, stream: TokenStream, root: Path, tokenizer: TextTokenizer) -> UseTokens | None:
    """The uses in the held-out text that a study measures; `None` where nothing finds uses in this data."""
    named = [contender.plan.annotator for contender in config.contenders if contender.plan is not None]
    stop = config.num_eval_sequences(stream.num_sequences(config.seq_len)) * config.seq_len + 1
    annotator = next((name for name in named if name is not None), None)
    try:
        uses = UseTokens(stream, root, tokenizer, window=use_window(config), stop=stop, annotator=annotator)
    except AnnotationError:
        # a tokenizer whose offsets no annotator can read: its plans say so, and this figure is not there
        return None
    return uses if uses.available else None
