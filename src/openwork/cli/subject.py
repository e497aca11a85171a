"""What `openwork show` shows: a pattern or a mask, on toy positions or over a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from openwork.errors import AnnotationError, DataError

if TYPE_CHECKING:
    from openwork.annotate import TextAnnotator
    from openwork.layout import BlockLayout
    from openwork.patterns import Annotations, Pattern
    from openwork.patterns.annotations import IntArray
    from openwork.plan import Plan

__all__ = [
    "Subject",
    "TokenText",
    "mask_subject",
    "read_text",
    "require_facts",
    "text_annotator",
    "text_subject",
    "token_offsets",
    "toy_subject",
]


@dataclass(frozen=True, eq=False)
class TokenText:
    """A text and where its tokens stand in it.

    Attributes:
        text: The text.
        offsets: int `[n, 2]`, character spans of its tokens.
    """

    text: str
    offsets: IntArray

    def token(self, index: int) -> str:
        """The characters of one token."""
        first, stop = self.offsets[index]
        return self.text[first:stop]

    def line_from(self, index: int) -> str:
        """The first line with words on it that starts at a token or after it."""
        # a token in the middle of a line leaves the rest of that line out
        first = int(self.offsets[index][0])
        lines = (self.text[max(first - 1, 0) :] if first else f"\n{self.text}").split("\n")[1:]
        return next((line.strip() for line in lines if line.strip()), "")


@dataclass(frozen=True, eq=False)
class Subject:
    """What is shown.

    Attributes:
        title: The pattern's text, or the name of the mask file.
        layout: The layout of it.
        pattern: The pattern, where it is one.
        tokens: The text, where there is one.
        annotations: Facts about the tokens, where there are any.
    """

    title: str
    layout: BlockLayout
    pattern: Pattern | None = None
    tokens: TokenText | None = None
    annotations: Annotations | None = None


def toy_subject(pattern: Pattern, q_len: int, kv_len: int) -> Subject:
    """A pattern on bare positions."""
    from openwork.layout import compile_layout

    if pattern.needs:
        name, kind = next(iter(pattern.needs.items()))
        raise AnnotationError(
            f"{pattern!r} reads the {kind} {name!r}, which bare positions do not carry. Show it over a text: "
            "--text FILE."
        )
    return Subject(repr(pattern), compile_layout(pattern, q_len=q_len, kv_len=kv_len), pattern)


def text_subject(
    pattern: Pattern, path: Path, *, tokenizer: str, annotators: Sequence[str], length: int | None
) -> Subject:
    """A pattern over the first `length` tokens of a text file, with the facts that its annotators find."""
    from openwork.layout import compile_layout

    text = read_text(path)
    offsets = token_offsets(text, tokenizer)[:length]
    if not len(offsets):
        raise DataError(f"{path} has no tokens to show: it is empty.")
    # facts are found in the whole text: a causal annotator would say the same of the first tokens alone
    annotator = text_annotator(path, annotators)
    annotations = None if annotator is None else annotator(text, offsets)
    require_facts(pattern, annotations, path)
    layout = compile_layout(pattern, q_len=len(offsets), kv_len=len(offsets), annotations=annotations)
    return Subject(repr(pattern), layout, pattern, TokenText(text, offsets), annotations)


def require_facts(pattern: Pattern | Plan, annotations: Annotations | None, path: Path) -> None:
    """Raises an `AnnotationError` where a pattern reads what a text was not annotated with."""
    missing = [name for name in pattern.needs if annotations is None or name not in annotations.names]
    if missing:
        found = "no annotator is known for it" if annotations is None else f"found: {', '.join(annotations.names)}"
        raise AnnotationError(
            f"{pattern!r} reads the {pattern.needs[missing[0]]} {missing[0]!r}, which {path.name} was not annotated "
            f"with; {found}. Choose an annotator with --annotate."
        )


def read_text(path: Path) -> str:
    """The text of a UTF-8 file.

    Raises:
        DataError: The file is missing, cannot be read, or is not text.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {(error.strerror or str(error)).lower()}.") from None
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}); is it a binary file?") from None
    if "\0" in text:
        raise DataError(f"{path} is not text: it holds a NUL byte at {text.index(chr(0))}; is it a binary file?")
    return text


def token_offsets(text: str, tokenizer: str) -> IntArray:
    """The character span of each token: bytes, or tokens of a `tokenizer.json`."""
    from openwork.annotate import byte_offsets

    if tokenizer == "bytes":
        return byte_offsets(text)
    from openwork.study.tokenizer import load_tokenizer

    return load_tokenizer(Path(tokenizer)).offsets(text)


def mask_subject(path: Path) -> Subject:
    """A boolean tensor from a `.npy` or `.pt` file, True = attend."""
    from openwork.layout import BlockLayout
    from openwork.study.masks import load_mask

    return Subject(path.name, BlockLayout.from_mask(load_mask(path)))


def text_annotator(path: Path, names: Sequence[str]) -> TextAnnotator | None:
    """The annotators asked for, as one; without names that of the file's suffix, if there is one."""
    from openwork.annotate import annotator_for, annotator_named, combine

    if names:
        return combine(*map(annotator_named, names))
    try:
        return annotator_for(path)
    except AnnotationError:
        return None
