"""Text to token ids and back to characters: bytes, a BPE trained on the data, or a `tokenizer.json`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from openwork.annotate import byte_offsets
from openwork.errors import DataError, StudyError

__all__ = ["BPE_VOCABULARY", "TextTokenizer", "load_tokenizer", "parse_tokenizer", "train_bpe"]

BPE_VOCABULARY = 2048
_SMALLEST_BPE = 257
_LARGEST_BPE = 1 << 17
_BPE_SAMPLE_BYTES = 4 << 20
_NUM_BYTES = 256
_PIECE_CHARACTERS = 1 << 18

Ids = npt.NDArray[np.int32]


class TextTokenizer(Protocol):
    """What a study asks of a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """Number of ids, the separator of documents included."""

    @property
    def separator(self) -> int:
        """The id that stands between documents."""

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of each text."""

    def offsets(self, text: str) -> npt.NDArray[np.int64]:
        """The character span of each token of a text, [num_tokens, 2]."""


class ByteTokenizer:
    """Each byte of the UTF-8 text is a token; id 256 separates documents."""

    vocab_size = _NUM_BYTES + 1
    separator = _NUM_BYTES

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """The bytes of each text."""
        return [np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int32) for text in texts]

    def offsets(self, text: str) -> npt.NDArray[np.int64]:
        """The character that each byte belongs to."""
        return byte_offsets(text)


class FileTokenizer:
    """A tokenizer of the `tokenizers` library.

    Args:
        tokenizer: The library's own.
        separator: The id that separates documents; `None` for the one after its vocabulary.
        vocab_size: Number of ids; `None` for those of its vocabulary and the separator.
    """

    def __init__(self, tokenizer: Any, separator: int | None = None, vocab_size: int | None = None) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        known = int(tokenizer.get_vocab_size(with_added_tokens=True))
        self.separator = known if separator is None else separator
        self.vocab_size = known + 1 if vocab_size is None else vocab_size

    def library_tokenizer(self) -> Any:
        """A copy of the library's own tokenizer."""
        return require_tokenizers().Tokenizer.from_str(self._tokenizer.to_str())

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of each text, without the special tokens that a model for chat would add."""
        pieces = [_pieces(text) for text in texts]
        flat = [piece for group in pieces for piece in group]
        encodings = iter(self._tokenizer.encode_batch_fast(flat, add_special_tokens=False))
        return [
            np.concatenate([np.zeros(0, np.int32), *(np.asarray(next(encodings).ids, dtype=np.int32) for _ in group)])
            for group in pieces
        ]

    def offsets(self, text: str) -> npt.NDArray[np.int64]:
        """The character span of each token."""
        pieces = _pieces(text)
        starts = np.cumsum([0, *map(len, pieces)])
        spans = [np.zeros((0, 2), dtype=np.int64)]
        for start, encoding in zip(
            starts, self._tokenizer.encode_batch(pieces, add_special_tokens=False), strict=False
        ):
            span = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)
            # an empty span is a special token; it stays (0, 0)
            spans.append(np.where((span[:, 1] > span[:, 0])[:, None], span + start, 0))
        return np.concatenate(spans)


def _pieces(text: str) -> list[str]:
    """Cuts a long text at line ends: time and memory of some tokenizers grow faster than the text."""
    pieces, first = [], 0
    while len(text) - first > _PIECE_CHARACTERS:
        stop = text.rfind("\n", first, first + _PIECE_CHARACTERS) + 1 or first + _PIECE_CHARACTERS
        pieces.append(text[first:stop])
        first = stop
    return [*pieces, text[first:]] if text else []


def parse_tokenizer(text: str) -> tuple[str, int]:
    """The kind (`bytes`, `bpe`, `file` or `model`) and the vocabulary size (of `bpe`, else 0) that an option names.

    >>> parse_tokenizer("bpe:4096")
    ('bpe', 4096)

    Raises:
        StudyError: It names none of them.
    """
    kind, _, size = text.partition(":")
    if text in ("bytes", "model"):
        return text, 0
    if kind == "bpe":
        if size and not size.isdecimal():
            raise StudyError(f"--tokenizer bpe:VOCABULARY needs a whole number; got {size!r}.")
        vocabulary = int(size) if size else BPE_VOCABULARY
        if not _SMALLEST_BPE <= vocabulary <= _LARGEST_BPE:
            raise StudyError(
                f"--tokenizer bpe:VOCABULARY must be {_SMALLEST_BPE} (every byte and one more) to {_LARGEST_BPE}; "
                f"got {vocabulary}."
            )
        return "bpe", vocabulary
    if Path(text).suffix == ".json":
        return "file", 0
    raise StudyError(
        f"--tokenizer must be bytes, bpe, bpe:VOCABULARY, the path of a tokenizer.json, or model; got {text!r}."
    )


def require_tokenizers() -> Any:
    """The `tokenizers` library, or a `StudyError` that says how to get it."""
    try:
        import tokenizers
    except ImportError:
        raise StudyError(
            "BPE and tokenizer.json need the tokenizers library: pip install 'openwork[tokenizers]', or use "
            "--tokenizer bytes."
        ) from None
    return tokenizers


def train_bpe(texts: Iterator[str], vocabulary: int) -> bytes:
    """A byte-level BPE trained on the first 4 MB of the texts, as the content of a `tokenizer.json`."""
    tokenizers = require_tokenizers()
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sample(texts), trainer=trainer)
    content: str = tokenizer.to_str()
    return content.encode()


def _sample(texts: Iterator[str]) -> Iterator[str]:
    left = _BPE_SAMPLE_BYTES
    for text in texts:
        if left <= 0:
            return
        yield text[:left]
        left -= len(text)


def load_tokenizer(path: Path | None, separator: int | None = None, vocab_size: int | None = None) -> TextTokenizer:
    """The tokenizer in a `tokenizer.json`; without a path, the bytes themselves.

    Args:
        path: The file.
        separator: The id that separates documents, where it is one that a model knows already.
        vocab_size: Number of ids, where a model says it.

    Raises:
        DataError: The file is missing or no tokenizer.
    """
    if path is None:
        return ByteTokenizer()
    tokenizers = require_tokenizers()
    if not path.is_file():
        raise DataError(f"--tokenizer {path} does not exist.")
    try:
        return FileTokenizer(tokenizers.Tokenizer.from_file(str(path)), separator, vocab_size)
    except Exception as error:  # the library raises plain Exception
        raise DataError(f"--tokenizer {path} is not a tokenizer.json: {str(error).splitlines()[0]}.") from None
