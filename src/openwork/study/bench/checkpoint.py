"""A transformers model from the disk: a folder with weights, or a config.json alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from openwork.errors import StudyError
from openwork.study.bench.subject import BenchModel

__all__ = ["pretrained_model"]

_WEIGHTS = ("*.safetensors", "*.bin")


def pretrained_model(path: Path, placed: Callable[[nn.Module], nn.Module]) -> BenchModel:
    """The model of a folder or a config.json; random weights where there is no file of weights beside it.

    Args:
        path: The folder, or the file.
        placed: Puts a module on its device and into its dtype.

    Raises:
        StudyError: There is no config.json, it cannot be read, or transformers cannot make its model.
    """
    folder = path if path.is_dir() else path.parent
    file = path / "config.json" if path.is_dir() else path
    content = _read(file)
    try:
        import transformers
    except ImportError:
        raise StudyError(f"MODEL {path} needs transformers: pip install 'openwork[hf]'.") from None
    from openwork.study.bench.pretrained import Pretrained

    # a config.json on its own stands for random weights, wherever it lies
    found = sorted(name.name for kind in _WEIGHTS for name in folder.glob(kind)) if path.is_dir() else []
    try:
        config = transformers.AutoConfig.for_model(**content) if not path.is_dir() else _config_of(folder)
        kind = _class_of(config, content)
        if found:
            module = kind.from_pretrained(folder, local_files_only=True)
        else:
            module = kind.from_config(config) if hasattr(kind, "from_config") else kind(config)
    except Exception as error:  # transformers raises whatever it likes for a configuration that it cannot use
        reason = (str(error).splitlines() or [""])[0]
        raise StudyError(f"MODEL {path}: transformers cannot make this model: {reason}") from error
    title = f"{type(module).__name__} of {path.name if path.is_dir() else file.name}"
    return Pretrained(placed(module), title=title, weights=f"of {found[0]}" if found else "random")


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        what = f"has no {file.name}" if file.parent.is_dir() else "does not exist"
        where = file.parent if file.parent.is_dir() and file.name == "config.json" else file
        raise StudyError(f"MODEL {where} {what}; name a folder of a transformers model, or its config.json.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise StudyError(f"MODEL {file} cannot be read as JSON: {reason}") from None
    if not isinstance(content, dict) or "model_type" not in content:
        raise StudyError(f'MODEL {file} says no "model_type", as the config.json of a transformers model does.')
    return content


def _config_of(folder: Path) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder, local_files_only=True)


def _class_of(config: Any, content: dict[str, Any]) -> Any:
    """The class that the configuration names, or else the head that models of its kind are trained with."""
    import transformers

    for name in content.get("architectures") or ():
        kind = getattr(transformers, name, None)
        if kind is not None:
            return kind
    names = {
        "MaskedLM": transformers.MODEL_FOR_MASKED_LM_MAPPING,
        "CausalLM": transformers.MODEL_FOR_CAUSAL_LM_MAPPING,
    }
    if config.is_encoder_decoder:
        names = {"Seq2SeqLM": transformers.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING}
    # a kind that is listed under both is an encoder
    for name, kinds in names.items():
        if type(config) in kinds:
            return getattr(transformers, f"AutoModelFor{name}")
    return transformers.AutoModel
