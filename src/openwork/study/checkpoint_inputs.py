"""What a study reads of a checkpoint before it loads any weights: its tokenizer, and what cannot be studied."""

from __future__ import annotations

from openwork.errors import DataError, StudyError
from openwork.study.checkpoint_source import TUNINGS, CheckpointSource, require_transformers
from openwork.study.config import StudyConfig
from openwork.study.model_source import function_source, model_source
from openwork.study.tokenizer import require_tokenizers

__all__ = ["check_checkpoint", "checkpoint_of", "checkpoint_tokenizer", "libraries_of"]


def check_checkpoint(config: StudyConfig, source: CheckpointSource) -> int:
    """Whatever can be refused of a checkpoint before anything is written.

    Returns:
        Its number of token ids, where the study uses its tokenizer; else 0.

    Raises:
        StudyError: There is nothing to tune, or trained weights of which nothing is said; or the metric is not there.
        DataError: Tokenizer and model do not belong together.
    """
    if config.tune is None and "openwork_plan" in source.config():
        raise StudyError(
            f"{source.argument}: {source.config_path} carries the plan of a sparse model, under which no dense "
            "baseline could begin; save it again after openwork.hf.densify(model)."
        )
    if config.tune is None and source.has_weights:
        raise StudyError(
            f"{source.argument} holds trained weights: say what of them to tune, --tune {' or '.join(TUNINGS)}; "
            f"or name {source.config_path} to train such a model from random weights."
        )
    if config.tune is not None and not source.has_weights:
        raise StudyError(
            f"{source.argument} has no weights (*.safetensors), so there is nothing to tune; leave --tune out to train "
            "such a model from random ones."
        )
    if config.metric is not None:
        function = function_source(config.metric, "--metric")
        assert function is not None
        function.load()
    if config.tokenizer != "model":
        return 0
    checkpoint_tokenizer(config)
    # asked here, where a checkpoint without one can still be refused
    _ = source.separator
    return source.vocab_size


def checkpoint_of(config: StudyConfig) -> CheckpointSource:
    """The checkpoint of a study whose tokenizer is `model`."""
    source = model_source(config.model)
    assert isinstance(source, CheckpointSource), "StudyConfig has checked it"
    return source


def checkpoint_tokenizer(config: StudyConfig) -> bytes:
    """The tokenizer of the checkpoint as the content of a `tokenizer.json`.

    Raises:
        StudyError: It has none that gives offsets.
        DataError: Its ids are more than the model has.
    """
    source = checkpoint_of(config)
    path = source.folder / "tokenizer.json"
    if path.is_file():
        content = path.read_bytes()
    else:
        with source.explained():
            found = require_transformers().AutoTokenizer.from_pretrained(str(source.folder), local_files_only=True)
        backend = getattr(found, "backend_tokenizer", None)
        if backend is None:
            raise StudyError(
                f"{source.argument}: {type(found).__name__} is no tokenizer of the tokenizers library, so it tells no "
                "token's place in the text; give the folder a tokenizer.json."
            )
        content = backend.to_str().encode()
    ids = max(require_tokenizers().Tokenizer.from_str(content.decode()).get_vocab(with_added_tokens=True).values())
    if ids >= source.vocab_size:
        raise DataError(
            f"{source.argument}: its tokenizer has ids up to {ids}, but the model has {source.vocab_size}; they are "
            "not of one checkpoint."
        )
    return content


def libraries_of(config: StudyConfig) -> tuple[str, ...]:
    """The packages that decide what a study of a checkpoint measures, beside those of every study."""
    if not isinstance(model_source(config.model), CheckpointSource):
        return ()
    return ("transformers", "peft") if config.tune == "lora" else ("transformers",)
