"""The model that a run trained, as a folder that plain transformers loads: weights, configuration, tokenizer."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from openwork.errors import StudyError
from openwork.hf import densify
from openwork.study.checkpoint import CheckpointModel, quiet
from openwork.study.checkpoint_source import CheckpointSource, require_transformers
from openwork.study.config import DENSE, StudyConfig
from openwork.study.contender import Contender
from openwork.study.model_source import model_source
from openwork.study.tokenizer import TextTokenizer, require_tokenizers

__all__ = ["MODEL", "save_model", "transformers_tokenizer"]

MODEL = "model"
"""The folder of a run's model, in the run's own."""
_PLAN = "openwork_plan.json"
_SEPARATOR = "<|separator|>"
_NUM_BYTES = 256


def save_model(
    model: Any, config: StudyConfig, contender: Contender, tokenizer: TextTokenizer, directory: Path
) -> None:
    """Writes the model to `directory / MODEL`, whole or not at all: adapters added to the weights, no optimizer state.

    A model that was trained dense is one of plain transformers. One that was trained under a plan has the plan in its
    `config.json`: it comes back sparse after `import openwork.hf`, and does not load without. A plan that no
    configuration can carry, because it reads facts of the text or is a mask, lies beside a model that loads dense, as
    `openwork_plan.json` where it is a plan.

    Args:
        model: What was trained, a `CheckpointModel`.
        config: The study.
        contender: The plan that it was trained for.
        tokenizer: What made its tokens.
        directory: The run's folder.

    Raises:
        StudyError: The folder cannot be written.
    """
    assert isinstance(model, CheckpointModel)
    place, part = directory / MODEL, directory / f".{MODEL}.part"
    try:
        shutil.rmtree(part, ignore_errors=True)
        base = model.merged()
        if model.storable_plan is None:
            densify(base)
        base.config.use_cache = True
        with quiet():
            base.save_pretrained(part)
        transformers_tokenizer(config, tokenizer).save_pretrained(part)
        if contender.name != DENSE and contender.plan is not None and model.storable_plan is None:
            (part / _PLAN).write_text(contender.plan.to_json(), encoding="utf-8")
        shutil.rmtree(place, ignore_errors=True)
        part.rename(place)
    except OSError as error:
        raise StudyError(f"cannot write the model to {place}: {error.strerror or error}.") from None


def transformers_tokenizer(config: StudyConfig, tokenizer: TextTokenizer) -> Any:
    """The tokenizer of a study as one of transformers; the separator of documents is its beginning and end of text."""
    transformers = require_transformers()
    source = model_source(config.model)
    if config.tokenizer == "model":
        assert isinstance(source, CheckpointSource)
        with source.explained():
            return transformers.AutoTokenizer.from_pretrained(str(source.folder), local_files_only=True)
    made = tokenizer.library_tokenizer() if hasattr(tokenizer, "library_tokenizer") else _bytes_tokenizer()
    made.add_special_tokens([_SEPARATOR])
    assert made.token_to_id(_SEPARATOR) == tokenizer.separator
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token=_SEPARATOR, eos_token=_SEPARATOR, pad_token=_SEPARATOR
    )


def _bytes_tokenizer() -> Any:
    """A tokenizer of the `tokenizers` library whose ids are the bytes of the text."""
    library = require_tokenizers()
    # the letters that stand for bytes: printable ones for themselves, the others in order from 256 on (GPT-2)
    printable = [*range(33, 127), *range(161, 173), *range(174, _NUM_BYTES)]
    others = [byte for byte in range(_NUM_BYTES) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    letters |= {byte: chr(_NUM_BYTES + place) for place, byte in enumerate(others)}
    made = library.Tokenizer(library.models.BPE(vocab={letters[byte]: byte for byte in range(_NUM_BYTES)}, merges=[]))
    made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = library.decoders.ByteLevel()
    return made
