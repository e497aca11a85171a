"""A Hugging Face checkpoint on disk, or a configuration alone: what is known of it without loading it."""

from __future__ import annotations

import hashlib
import json
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openwork.errors import OpenworkError, StudyError

__all__ = ["TUNINGS", "CheckpointSource", "require_transformers"]

TUNINGS = ("all", "attention", "lora")
"""What `--tune` may train: every weight, those of the attention layers, or low-rank adapters on these."""

_CONFIG = "config.json"
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_MODELS = "/transformers/models/"
"""Where the code of transformers' models lies."""
_CHUNK_BYTES = 1 << 22
_SEPARATORS = ("bos_token_id", "eos_token_id")


@dataclass(frozen=True)
class CheckpointSource:
    """Where a model of Hugging Face comes from.

    Attributes:
        place: A folder with `config.json`, weights and tokenizer, or the path of a `config.json` alone.
    """

    place: str

    @property
    def text(self) -> str:
        """As `--model` has it."""
        return self.place

    @property
    def argument(self) -> str:
        """The option and its value, as messages begin."""
        return f"--model {self.place}"

    @property
    def absolute(self) -> str:
        """The text that means the same from any directory."""
        return str(Path(self.place).absolute())

    @property
    def is_config(self) -> bool:
        """Whether only a configuration is named, of which a model gets random weights."""
        return Path(self.place).suffix == ".json"

    @property
    def folder(self) -> Path:
        """The folder of the checkpoint, or of the configuration."""
        return Path(self.place).parent if self.is_config else Path(self.place)

    @property
    def config_path(self) -> Path:
        """The file of the configuration."""
        return Path(self.place) if self.is_config else self.folder / _CONFIG

    @property
    def has_weights(self) -> bool:
        """Whether there are trained weights that are meant."""
        return not self.is_config and any(True for pattern in _WEIGHTS for _ in self.folder.glob(pattern))

    def config(self) -> dict[str, Any]:
        """The configuration's content; of a model for text and more, that of the text part over it.

        Raises:
            StudyError: There is none, or it is not that of a model.
        """
        if not self.folder.is_dir():
            raise StudyError(
                f"{self.argument}: there is no such folder. Name a folder on this disk with {_CONFIG}, weights and "
                "tokenizer, as save_pretrained writes it; nothing is fetched from a hub."
            )
        try:
            content = json.loads(self.config_path.read_text(encoding="utf-8"))
        except OSError as error:
            raise StudyError(
                f"{self.argument}: cannot read {self.config_path}: {error.strerror or error}. A checkpoint has a "
                f"{_CONFIG} beside its weights."
            ) from None
        except ValueError as error:
            raise StudyError(f"{self.argument}: {self.config_path} is not JSON: {error}.") from None
        if not isinstance(content, dict) or not isinstance(content.get("model_type"), str):
            raise StudyError(
                f"{self.argument}: {self.config_path} has no model_type, so it is no model's configuration."
            )
        return content | (text if isinstance(text := content.get("text_config"), dict) else {})

    @property
    def vocab_size(self) -> int:
        """Token ids that the model has.

        Raises:
            StudyError: The configuration does not say.
        """
        size = self.config().get("vocab_size")
        if not isinstance(size, int) or size < 1:
            raise StudyError(f"{self.argument}: {self.config_path} has no vocab_size.")
        return size

    @property
    def separator(self) -> int:
        """The id that stands before each document: where a text begins for the model, or ends.

        Raises:
            StudyError: The configuration names none.
        """
        content = self.config()
        for name in _SEPARATORS:
            value = content.get(name)
            first = value[0] if isinstance(value, list) and value else value
            if isinstance(first, int) and 0 <= first < self.vocab_size:
                return first
        raise StudyError(
            f"{self.argument}: {self.config_path} names no {' or '.join(_SEPARATORS)}, one of which stands between "
            "documents; write the id of such a token into it."
        )

    def check_length(self, seq_len: int) -> None:
        """Raises a `StudyError` where the model has fewer positions than a sequence has tokens."""
        content = self.config()
        most = content.get("max_position_embeddings") or content.get("n_positions")
        if isinstance(most, int) and seq_len > most:
            raise StudyError(
                f"--seq-len {seq_len} is more than the {most} positions of {self.argument} (max_position_embeddings); "
                "give at most so many."
            )

    def digest(self) -> str:
        """SHA-256 of what decides losses: configuration, tokenizer and weights; of a configuration alone, of that.

        Raises:
            StudyError: A file cannot be read.
        """
        self.config()
        paths = [self.config_path]
        if not self.is_config:
            patterns = ("tokenizer*", "vocab*", "merges*", *_WEIGHTS)
            paths += sorted({path for pattern in patterns for path in self.folder.glob(pattern)})
        total = hashlib.sha256()
        for path in paths:
            total.update(f"{path.name}\0".encode())
            try:
                with path.open("rb") as file:
                    while chunk := file.read(_CHUNK_BYTES):
                        total.update(chunk)
            except OSError as error:
                raise StudyError(f"{self.argument}: cannot read {path}: {error.strerror or error}.") from None
        return total.hexdigest()

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turns what transformers raises for a folder or a model that it cannot use into one line."""
        try:
            yield
        except Exception as error:  # transformers raises whatever it likes
            raise self.explain(error) from error

    def explain(self, error: BaseException) -> OpenworkError:
        """The same error in one line."""
        if isinstance(error, OpenworkError):
            return error
        message = (str(error).strip().splitlines() or [""])[0].strip().rstrip(".")
        return StudyError(
            f"{self.argument}: transformers raised {type(error).__name__}{f': {message}' if message else ''}."
        )

    def line_of(self, error: BaseException) -> int | None:
        """The innermost line of transformers' models that the error went through; `None` where it went through none."""
        frames = traceback.extract_tb(error.__traceback__)
        models = [frame.lineno for frame in frames if _MODELS in Path(frame.filename).as_posix()]
        return models[-1] if models else None


def require_transformers() -> Any:
    """The `transformers` library, or a `StudyError` that says how to get it."""
    try:
        import transformers
    except ImportError:
        raise StudyError("a Hugging Face model needs transformers: pip install 'openwork[hf]'.") from None
    return transformers
