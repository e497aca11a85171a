"""`--metric`: the user's own measure of a model, a function of the model and its tokenizer."""

from __future__ import annotations

import math
from typing import Any

import torch

from openwork.errors import StudyError
from openwork.study.config import StudyConfig
from openwork.study.model_source import ModelSource, function_source
from openwork.study.tokenizer import TextTokenizer

__all__ = ["Metric", "metric_of"]


class Metric:
    """Calls the user's function and reads what it gives.

    Args:
        source: Where the function is.
        function: The function.
        tokenizer: The model's tokenizer, of transformers.
    """

    def __init__(self, source: ModelSource, function: Any, tokenizer: Any) -> None:
        self.source, self._function, self._tokenizer = source, function, tokenizer

    @torch.no_grad()
    def __call__(self, model: Any, seed: int) -> dict[str, float]:
        """The numbers that the function gives for a model, by name; what it draws at random changes no training.

        Args:
            model: The model of transformers, in eval mode.
            seed: What torch's generator begins with.

        Raises:
            StudyError: The function raises, or gives no finite number.
        """
        devices = [parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"][:1]
        with torch.random.fork_rng(devices), self.source.explained():
            torch.manual_seed(seed)
            given = self._function(model, self._tokenizer)
        named = given if isinstance(given, dict) else {self.source.function: given}
        numbers: dict[str, float] = {}
        for name, value in named.items():
            try:
                numbers[str(name)] = float(value)
            except (TypeError, ValueError):
                raise StudyError(
                    f"{self.source.argument} gave {type(value).__name__} for {name!r}; it returns a number, or numbers "
                    "by name."
                ) from None
            if not math.isfinite(numbers[str(name)]):
                raise StudyError(f"{self.source.argument} gave {value} for {name!r}; numbers must be finite.")
        if not numbers:
            raise StudyError(f"{self.source.argument} gave no number; it returns a number, or numbers by name.")
        return numbers


def metric_of(config: StudyConfig, tokenizer: TextTokenizer) -> Metric | None:
    """The metric that the study asks for; `None` where it asks for none.

    Raises:
        StudyError: The function is not there, or its file has changed since the study began.
    """
    if config.metric is None:
        return None
    from openwork.study.saved import transformers_tokenizer

    source = function_source(config.metric, "--metric")
    assert source is not None, "StudyConfig has checked it"
    return Metric(source, source.load(config.metric_sha256), transformers_tokenizer(config, tokenizer))
