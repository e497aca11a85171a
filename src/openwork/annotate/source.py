"""Source code: where things are defined, and where they are used; one interface for every language."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from openwork.annotate.base import TextAnnotator
from openwork.annotate.characters import CharacterFacts, CharacterLink, to_tokens
from openwork.errors import AnnotationError
from openwork.patterns.annotations import Annotations, IntArray

__all__ = ["Definition", "SourceFacts", "SourceLanguage", "Use", "source_code"]


@dataclass(frozen=True)
class Definition:
    """The first line of a definition, as half-open spans of characters.

    Args:
        name: What is defined.
        first: Where the definition starts, after the indentation.
        known: From here on the text says that this line defines something; the flag starts here.
        stop: Where the line ends, the line ending left out; `known` or further where only a later line shows that
            something is defined (the brace of a C function on a line of its own), for there the flag stands.
    """

    name: str
    first: int
    known: int
    stop: int


@dataclass(frozen=True)
class Use:
    """A name that means a definition, as the text up to `known` says.

    Args:
        first: First character of the name.
        name_stop: End of the name.
        known: Number of leading characters by which the name is over, is known for a use, and means `definition`.
        stop: End of its arguments, if it is called (very large while they are open); if not, end of the name.
        definition: Index of the definition.
    """

    first: int
    name_stop: int
    known: int
    stop: int
    definition: int


@dataclass(frozen=True)
class SourceFacts:
    """What a language's reader finds in a text: definitions and uses, in reading order."""

    definitions: tuple[Definition, ...]
    uses: tuple[Use, ...]


class SourceLanguage(Protocol):
    """What a language has to offer to join: a name, its file endings, and a reader.

    The reader takes text that may stop anywhere and never raises. Its facts must not be revised: what is `known` by
    a character of a text is found in the text that ends with that character.
    `openwork.testing.assert_causal_annotator(source_code(language), ...)` checks that.
    """

    @property
    def name(self) -> str:
        """The annotator is called so."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """File endings, with the dot."""

    def read(self, text: str) -> SourceFacts:
        """Definitions and uses in `text`."""


@dataclass(frozen=True)
class _SourceAnnotation:
    language: SourceLanguage

    def __call__(self, text: str, offsets: IntArray) -> Annotations:
        facts = self.language.read(text)
        targets = facts.definitions
        return to_tokens(
            CharacterFacts(
                flags={"definition": [(target.known, target.stop) for target in targets]},
                links={
                    "use": [
                        CharacterLink(use.known, use.stop, targets[use.definition].first, targets[use.definition].stop)
                        for use in facts.uses
                    ]
                },
            ),
            text,
            offsets,
        )


def source_code(language: SourceLanguage) -> TextAnnotator:
    """The annotator of a programming language: flag `definition`, links `use`.

    The flag is on the first line of each definition, from the character after its keyword on. A use is linked from
    the token that shows the name to be over and in use (its opening bracket, if it is called) through its arguments,
    to the first line of its definition, where that line came earlier.

    Raises:
        AnnotationError: `language` lacks a name, suffixes or a reader.
    """
    for needed in ("name", "suffixes", "read"):
        if not hasattr(language, needed):
            raise AnnotationError(
                f"{language!r} is no source language: it has no {needed!r}. See openwork.annotate.SourceLanguage."
            )
    return TextAnnotator(language.name, _SourceAnnotation(language), causal=True)
