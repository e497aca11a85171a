"""The tokens of a study: every document once, in one stream, with a separator before each."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from openwork.errors import DataError, StudyError
from openwork.runs import write_file
from openwork.study.corpus import Corpus, Document
from openwork.study.tokenizer import TextTokenizer

__all__ = ["TokenStream", "load_stream", "tokenize"]

_SHARD_SECONDS = 5.0
_SHARD_TOKENS = 1 << 22
"""A shard ends with the batch that reaches either: what a stop repeats, and what memory holds, is bounded."""
_BATCH_BYTES = 1 << 20

Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all."""


@dataclass(frozen=True)
class TokenStream:
    """Tokens of many documents, one after the other, with a separator before each.

    Attributes:
        ids: int32 [num_tokens]; of a study they lie in a file, and only what is used is in memory.
        firsts: int64 [num_documents]: the index of each document's separator.
        documents: The documents, in this order.
    """

    ids: npt.NDArray[np.int32]
    firsts: npt.NDArray[np.int64]
    documents: tuple[Document, ...]

    @cached_property
    def ends(self) -> npt.NDArray[np.int64]:
        """The index after the last token of each document: int64 [num_documents]."""
        return np.append(self.firsts[1:], len(self.ids))

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of all documents."""
        return sum(document.num_bytes for document in self.documents)

    def num_sequences(self, seq_len: int) -> int:
        """How many sequences of this length the stream gives, each with the token that follows it."""
        return (len(self.ids) - 1) // seq_len

    def sequence(self, number: int, seq_len: int) -> npt.NDArray[np.int32]:
        """Sequence `number` and the token that follows it: [seq_len + 1]."""
        return self.ids[number * seq_len : (number + 1) * seq_len + 1]

    def pieces(self, first: int, stop: int) -> list[tuple[int, int, int]]:
        """The documents in `ids[first:stop]`: number, and its part as indices from the document's own first token.

        The separator of a document counts as its token -1.

        >>> stream = TokenStream(np.zeros(9, np.int32), np.array([0, 5]), ())
        >>> stream.pieces(3, 8)
        [(0, 2, 4), (1, -1, 2)]
        """
        low = int(np.searchsorted(self.firsts, first, side="right")) - 1
        high = int(np.searchsorted(self.firsts, stop, side="left"))
        return [
            (number, max(first, int(self.firsts[number])) - origin, min(stop, int(self.ends[number])) - origin)
            for number in range(low, high)
            for origin in (int(self.firsts[number]) + 1,)
        ]


def tokenize(
    corpus: Corpus, part: str, tokenizer: TextTokenizer, directory: Path, progress: Progress = lambda done, total: None
) -> None:
    """Writes the tokens of a part (`training` or `held_out`) of the corpus as shards below `directory`.

    Shards that are there already are kept, so a repeated call goes on where an earlier one was stopped.
    """
    documents: tuple[Document, ...] = getattr(corpus, part)
    if _ids_path(directory, part).exists():
        return
    sizes = np.cumsum([document.num_bytes for document in documents])
    shards = _shards(directory, part)
    done = sum(len(counts) for _, counts in map(_read_shard, shards))
    num_shards = len(shards)
    while done < len(documents):
        ids: list[npt.NDArray[np.int32]] = []
        counts: list[int] = []
        started, full = time.monotonic(), False
        while not full and done + len(counts) < len(documents):
            batch = _next_batch(documents, done + len(counts))
            encoded = tokenizer.encode(list(corpus.texts(batch)))
            ids += encoded
            counts += [len(tokens) for tokens in encoded]
            progress(int(sizes[done + len(counts) - 1]), int(sizes[-1]))
            full = time.monotonic() - started >= _SHARD_SECONDS or sum(counts) >= _SHARD_TOKENS
        file = io.BytesIO()
        np.savez(file, ids=np.concatenate(ids), counts=np.asarray(counts, dtype=np.int64))
        write_file(directory / f"{part}-{num_shards:04}.npz", file.getbuffer())
        done, num_shards = done + len(counts), num_shards + 1


def load_stream(corpus: Corpus, part: str, tokenizer: TextTokenizer, directory: Path) -> TokenStream:
    """The tokens that `tokenize` wrote, read from their file as they are needed.

    The first call joins the shards.

    Raises:
        StudyError: They are not all there.
    """
    documents: tuple[Document, ...] = getattr(corpus, part)
    path = _ids_path(directory, part)
    if not path.exists():
        _join(directory, part, tokenizer.separator, len(documents))
    try:
        firsts = np.load(_firsts_path(directory, part))
        # "c": a page that someone writes to is theirs alone, the file stays
        ids = np.memmap(path, dtype=np.int32, mode="c")
    except (OSError, ValueError) as error:
        raise StudyError(f"cannot read {path} ({error}); use --fresh to make it again.") from None
    if len(firsts) != len(documents):
        raise StudyError(f"{directory} holds the tokens of {len(firsts)} of {len(documents)} documents; use --fresh.")
    return TokenStream(ids, firsts, documents)


def _join(directory: Path, part: str, separator: int, num_documents: int) -> None:
    """Writes the tokens of all shards as one file, a separator before each document, and removes the shards."""
    shards = _shards(directory, part)
    counts = np.concatenate([np.zeros(0, dtype=np.int64), *(_read_shard(path)[1] for path in shards)])
    if len(counts) != num_documents:
        raise StudyError(f"{directory} holds the tokens of {len(counts)} of {num_documents} documents; use --fresh.")
    file = io.BytesIO()
    np.save(file, np.cumsum(counts + 1) - (counts + 1))
    write_file(_firsts_path(directory, part), file.getbuffer())
    write_file(_ids_path(directory, part), _with_separators(shards, separator))
    for path in shards:
        path.unlink(missing_ok=True)


def _with_separators(shards: Sequence[Path], separator: int) -> Iterator[memoryview]:
    for path in shards:
        ids, counts = _read_shard(path)
        firsts = np.cumsum(counts) - counts
        yield np.insert(ids, firsts, separator).astype(np.int32).data.cast("B")


def require_length(stream: TokenStream, seq_len: int, part: str) -> None:
    """Raises a `DataError` where the stream is shorter than one sequence and the token after it."""
    if stream.num_sequences(seq_len) < 1:
        raise DataError(
            f"--seq-len {seq_len} is longer than the {part} text, which has {len(stream.ids)} tokens in "
            f"{len(stream.documents)} documents; give more text, or a --seq-len below {len(stream.ids)}."
        )


def _next_batch(documents: Sequence[Document], first: int) -> Sequence[Document]:
    stop, size = first, 0
    while stop < len(documents) and (size == 0 or size + documents[stop].num_bytes <= _BATCH_BYTES):
        size += documents[stop].num_bytes
        stop += 1
    return documents[first:stop]


def _ids_path(directory: Path, part: str) -> Path:
    return directory / f"{part}.ids"


def _firsts_path(directory: Path, part: str) -> Path:
    return directory / f"{part}.firsts.npy"


def _shards(directory: Path, part: str) -> list[Path]:
    return sorted(directory.glob(f"{part}-*.npz"))


def _read_shard(path: Path) -> tuple[Any, Any]:
    try:
        with np.load(path) as shard:
            return shard["ids"], shard["counts"]
    except (OSError, ValueError, KeyError) as error:
        raise StudyError(f"cannot read {path} ({error}); use --fresh to make it again.") from None
