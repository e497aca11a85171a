"""Lookups planted in real code: definitions, and calls further down that have to repeat a number from them."""

from __future__ import annotations

import json
import keyword
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from openwork.annotate import python_source
from openwork.check import TextLink
from openwork.errors import DataError
from openwork.patterns import Annotations
from openwork.patterns.annotations import IntArray
from openwork.study.tokenizer import TextTokenizer

__all__ = ["Planted", "names_of", "numbers_of", "plant"]

_FEWEST_NAMES, _FEWEST_NUMBERS = 32, 5
_SHORTEST_NAME = 4
_LONGEST_LINE = 40
_LOOKUP_TOKENS = 16
"""Tokens of a definition and its use, at most."""
_SPARE_LINES = 30
"""Lines of code below the last lookup, to fill up with."""
_TRIES = 20
"""Excerpts that are tried for each text."""
_NEAR_GROUP = 2
"""Near definitions that stand together, followed by their uses: which one is the nearer does not tell the name."""


@dataclass(frozen=True, eq=False)
class Planted:
    """One text with lookups in it.

    Attributes:
        text: Real code with planted lines.
        ids: int64 [length], its first tokens.
        annotations: Definitions and uses that the annotator finds, of those tokens.
        lookups: For each lookup the token that asks (`==`, where the number is predicted) and the number's token in the
            definition.
        answers: int64 [num_lookups], the id of each number.
        far: bool [num_lookups], whether the definition was planted far above.
    """

    text: str
    ids: IntArray
    annotations: Annotations
    lookups: tuple[TextLink, ...]
    answers: IntArray
    far: tuple[bool, ...]


def names_of(tokenizer_json: str) -> tuple[str, ...]:
    """Lower-case words that are one token after a space: what planted definitions are called.

    Args:
        tokenizer_json: The content of a byte-level BPE's `tokenizer.json`.

    Raises:
        DataError: The vocabulary has too few such words.
    """
    words = (word for word in _words(tokenizer_json) if word.isalpha() and word.islower())
    names = sorted(word for word in words if len(word) >= _SHORTEST_NAME and not keyword.iskeyword(word))
    if len(names) < _FEWEST_NAMES:
        raise DataError(
            f"the tokenizer has {len(names)} words of one token to name definitions with; {_FEWEST_NAMES} are needed."
        )
    return tuple(names)


def numbers_of(tokenizer_json: str) -> tuple[str, ...]:
    """Digits that are one token after a space: what planted definitions return. Guessing finds one of so many.

    Args:
        tokenizer_json: As in `names_of`.

    Raises:
        DataError: The vocabulary has too few.
    """
    numbers = sorted(word for word in _words(tokenizer_json) if len(word) == 1 and word.isdigit())
    if len(numbers) < _FEWEST_NUMBERS:
        raise DataError(f"the tokenizer has {len(numbers)} digits of one token; {_FEWEST_NUMBERS} are needed.")
    return tuple(numbers)


def _words(tokenizer_json: str) -> list[str]:
    vocabulary = json.loads(tokenizer_json)["model"]["vocab"]
    return [token[1:] for token in vocabulary if token.startswith("\u0120") and token[1:].isascii()]


def plant(
    files: Sequence[str],
    tokenizer: TextTokenizer,
    names: Sequence[str],
    choices: Sequence[str],
    *,
    count: int,
    length: int,
    num_far: int,
    num_near: int,
    seed: int,
) -> list[Planted]:
    """Texts of exactly `length` tokens: excerpts of the files with lookups of two kinds.

    `num_far` definitions stand at the top and are used at the end; of `num_near`, two and two stand together and are
    used right below, in any order. A definition reads `def name(): return 7`, its use `assert name() == 7`: whoever
    predicts the number must have learnt of the definition of that very name.

    Args:
        files: Texts of source files.
        tokenizer: Makes tokens.
        names: What definitions are called; each is one token.
        choices: What they return.
        count: Number of texts.
        length: Tokens of each.
        num_far: Lookups of each text with the definition far above.
        num_near: Lookups of each text with the definition just above; an even number.
        seed: Decides everything that is drawn.

    Raises:
        DataError: The files hold no excerpt that is long enough.
    """
    draw = random.Random(seed)
    sources = [_Source.of(text, tokenizer) for text in files]
    sources = [source for source in sources if sum(source.sizes) >= length]
    if not sources:
        raise DataError(f"no file has {length} tokens in short lines of code to plant lookups in.")
    made: list[Planted] = []
    for _ in range(_TRIES * count):
        if len(made) == count:
            return made
        numbers = {name: draw.choice(list(choices)) for name in draw.sample(list(names), num_far + num_near)}
        planted = _plant_one(draw, draw.choice(sources), tokenizer, numbers, num_far, length)
        if planted is not None:
            made.append(planted)
    raise DataError(f"of {_TRIES * count} excerpts only {len(made)} could hold the lookups in {length} tokens.")


@dataclass(frozen=True)
class _Source:
    """Short lines of one file that define nothing and are whole by themselves, with the tokens of each."""

    lines: tuple[str, ...]
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, text: str, tokenizer: TextTokenizer) -> _Source:
        words = ("def ", "class ", "async ", "@", "import ", "from ")
        lines, quoted = [], False
        for line in text.split("\n"):
            quotes = line.count(3 * '"') + line.count(3 * "'")
            inside, quoted = quoted, quoted != (quotes % 2 == 1)
            whole = not inside and not quotes and not line.endswith("\\")
            balanced = all(line.count(left) == line.count(right) for left, right in ("()", "[]", "{}"))
            if whole and balanced and 0 < len(line.strip()) and len(line) <= _LONGEST_LINE:
                if not line.lstrip().startswith(words):
                    lines.append(line)
        return cls(tuple(lines), tuple(len(ids) for ids in tokenizer.encode([f"{line}\n" for line in lines])))


def _plant_one(
    draw: random.Random,
    source: _Source,
    tokenizer: TextTokenizer,
    numbers: dict[str, str],
    num_far: int,
    length: int,
) -> Planted | None:
    """Real code with the lookups among it; below the last one it is filled up with more code."""
    far, near = list(numbers)[:num_far], list(numbers)[num_far:]
    start = draw.randrange(len(source.lines))
    lines = [*source.lines[start:], *source.lines[:start]]
    sizes = [*source.sizes[start:], *source.sizes[:start]]
    room = length - _LOOKUP_TOKENS * len(numbers)
    size = int(np.searchsorted(np.cumsum(sizes), room))
    if size < len(near) // _NEAR_GROUP:
        return None
    body, rest = lines[:size], lines[size : size + _SPARE_LINES]
    for place in sorted(draw.sample(range(size), len(near) // _NEAR_GROUP), reverse=True):
        group, near = near[:_NEAR_GROUP], near[_NEAR_GROUP:]
        body[place:place] = [
            *(_definition(name, numbers[name]) for name in draw.sample(group, len(group))),
            *(_use(name, numbers[name]) for name in draw.sample(group, len(group))),
        ]
    head = [_definition(name, numbers[name]) for name in draw.sample(far, num_far)]
    tail = [_use(name, numbers[name]) for name in draw.sample(far, num_far)]
    return _read("\n".join([*head, *body, *tail, *rest, ""]), tokenizer, numbers, set(far), length)


def _definition(name: str, number: str) -> str:
    return f"def {name}(): return {number}"


def _use(name: str, number: str) -> str:
    return f"assert {name}() == {number}"


def _read(text: str, tokenizer: TextTokenizer, numbers: dict[str, str], far: set[str], length: int) -> Planted | None:
    offsets = tokenizer.offsets(text)
    if len(offsets) < length:
        return None
    ids = tokenizer.encode([text])[0].astype(np.int64)
    starts = {int(first): index for index, first in reversed(list(enumerate(offsets[:, 0])))}
    lookups, answers = [], []
    for name, number in numbers.items():
        defined, used = text.find(f"{_definition(name, number)}\n"), text.find(f"{_use(name, number)}\n")
        # a token begins with the space before it
        key = starts.get(defined + len(f"def {name}(): return"))
        answer = starts.get(used + len(f"assert {name}() =="))
        if min(defined, used) < 0 or key is None or answer is None or answer >= length or ids[key] != ids[answer]:
            return None
        lines = (text.count("\n", 0, used) + 1, text.count("\n", 0, defined) + 1)
        lookups.append(TextLink("lookup", answer - 1, (key, key + 1), *lines, name))
        answers.append(int(ids[answer]))
    notes = python_source(text, offsets)
    brackets = {link.query - 1 for link in lookups}
    if not brackets <= set(notes.links["use"][:, 0].tolist()):
        # a line among the code that is not over makes a planted use no use
        return None
    return Planted(
        text,
        ids[:length],
        Annotations(
            length=length,
            flags={name: values[:length] for name, values in notes.flags.items()},
            links={name: np.clip(rows, 0, length) for name, rows in notes.links.items()},
        ),
        tuple(lookups),
        np.asarray(answers),
        tuple(name in far for name in numbers),
    )
