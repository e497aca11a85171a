"""What an annotator is: a function from text and offsets to annotations that says whether it knows the future."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Protocol, runtime_checkable

from openwork.annotate.offsets import check_offsets
from openwork.errors import AnnotationError
from openwork.patterns.annotations import Annotations, IntArray
from openwork.patterns.declarations import Declarations

__all__ = ["Annotator", "AnnotatorFunction", "TextAnnotator", "annotator", "combine", "is_causal", "require_causal"]

AnnotatorFunction = Callable[[str, IntArray], Annotations]
"""What a user writes: the text and int64 offsets `[n, 2]` in, the facts of the `n` tokens out."""


@runtime_checkable
class Annotator(Protocol):
    """A callable that makes annotations and says what can be relied on."""

    @property
    def name(self) -> str:
        """What reports and plans call it."""

    @property
    def causal(self) -> bool:
        """Whether `annotate(text[:t])` equals `annotate(text)[:t]` at every token `t`."""

    @property
    def declares(self) -> Declarations:
        """What its facts do as any text grows."""

    def __call__(self, text: str, offsets: Any) -> Annotations:
        """The facts of the tokens that stand at `offsets` (int `[n, 2]`) of `text`."""


@dataclass(frozen=True)
class TextAnnotator:
    """A function with a name and its promises; its answers are checked on every call.

    Args:
        name: What reports and plans call it.
        function: Text and int64 offsets `[n, 2]` in, the facts of the `n` tokens out.
        causal: Whether the facts of a token follow from the text up to it. `openwork.testing.assert_causal_annotator`
            checks that.
        declares: What the facts do as any text grows.
    """

    name: str
    function: AnnotatorFunction
    causal: bool = False
    declares: Declarations = field(default_factory=Declarations)

    def __call__(self, text: str, offsets: Any) -> Annotations:
        """The facts of the tokens that stand at `offsets` (int `[n, 2]`) of `text`.

        Raises:
            AnnotationError: `offsets` are no spans of `text`, the function returned something else than annotations
                of as many tokens, or the facts break what was declared.
        """
        spans = check_offsets(text, offsets)
        notes = self.function(text, spans)
        if not isinstance(notes, Annotations):
            raise AnnotationError(
                f"annotator {self.name!r} returned {type(notes).__name__}; it must return openwork.Annotations."
            )
        if notes.length != len(spans):
            raise AnnotationError(
                f"annotator {self.name!r} described {notes.length} tokens of a text with {len(spans)}; return "
                "Annotations(length=len(offsets), ...)."
            )
        self.declares.check(notes)
        return notes

    def __repr__(self) -> str:
        return f"<annotator {self.name!r}, {'causal' if self.causal else 'not causal'}>"


def annotator(
    function: Callable[[str, Any], Annotations],
    *,
    name: str | None = None,
    causal: bool | None = None,
    declares: Declarations | None = None,
) -> TextAnnotator:
    """A user's own function as an annotator.

    Args:
        function: Text and int64 offsets `[n, 2]` in, the facts of the `n` tokens out. An annotator keeps what it says
            of itself where the other arguments are left out.
        name: Defaults to the function's name.
        causal: Whether the facts of a token follow from the text up to it; a plain function is taken not to be.
        declares: What the facts do as any text grows; nothing by default.

    Raises:
        AnnotationError: `function` cannot be called, or has no name and none is given.

    Examples:
        >>> from openwork import Annotations
        >>> from openwork.annotate import byte_offsets
        >>> def questions(text, offsets):
        ...     return Annotations(len(offsets), flags={"asks": [text[a:b] == "?" for a, b in offsets]})
        >>> asks = annotator(questions, causal=True)
        >>> asks, asks("eh?", byte_offsets("eh?")).flags["asks"].tolist()
        (<annotator 'questions', causal>, [False, False, True])
    """
    if not callable(function):
        raise AnnotationError(
            f"an annotator is a function (text, offsets) -> Annotations; got {type(function).__name__}."
        )
    known = function if isinstance(function, Annotator) else None
    name = name or (known.name if known else getattr(function, "__name__", None))
    if not name:
        raise AnnotationError(f"{function!r} has no name; pass name= to say what reports call it.")
    if causal is None:
        causal = known.causal if known else False
    if declares is None:
        declares = known.declares if known else Declarations()
    return TextAnnotator(name, function, causal, declares)


def combine(*annotators: Callable[[str, Any], Annotations]) -> TextAnnotator:
    """One annotator with the facts of all: causal if all are, declaring what each declares.

    Raises:
        AnnotationError: Nothing was given; or, when called, two annotators make facts of the same name.

    Examples:
        >>> from openwork.annotate import html_headings, python_source
        >>> combine(html_headings, python_source)
        <annotator 'html + python', causal>
    """
    if not annotators:
        raise AnnotationError("combine needs at least one annotator; got none.")
    members = tuple(annotator(member) for member in annotators)
    return TextAnnotator(
        name=" + ".join(member.name for member in members),
        function=_Combined(members),
        causal=all(member.causal for member in members),
        declares=reduce(Declarations.merged, (member.declares for member in members)),
    )


@dataclass(frozen=True)
class _Combined:
    members: tuple[TextAnnotator, ...]

    def __call__(self, text: str, offsets: IntArray) -> Annotations:
        return reduce(Annotations.merged, (member(text, offsets) for member in self.members))


def is_causal(function: Callable[[str, Any], Annotations]) -> bool:
    """Whether an annotator says that it does not know the future; a plain function says nothing, so no."""
    return bool(getattr(function, "causal", False))


def require_causal(function: Callable[[str, Any], Annotations], *, insist: bool = False) -> None:
    """Refuse an annotator that may know the future: what a causal language model does before it takes one.

    Args:
        function: The annotator.
        insist: Take it all the same.

    Raises:
        AnnotationError: The annotator is not causal and the caller does not insist.
    """
    if insist or is_causal(function):
        return
    name = getattr(function, "name", None) or getattr(function, "__name__", repr(function))
    raise AnnotationError(
        f"annotator {name!r} is not causal: its facts may name tokens that a causal model has not seen yet. Declare it "
        "with annotator(fn, causal=True) if it passes openwork.testing.assert_causal_annotator, or insist."
    )
