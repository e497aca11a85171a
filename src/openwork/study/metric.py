"""`--metric`: the user's own measure of a model, a function of the model and its tokenizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from openwork.annotate.base import annotator
from openwork.errors import StudyError
from openwork.patterns import Annotations
from openwork.study.config import StudyConfig
from openwork.study.contender import Contender
from openwork.study.corpus import Corpus
from openwork.study.model import StudyModel
from openwork.study.model_source import ModelSource, function_source
from openwork.study.notes import annotator_of_texts
from openwork.study.tokenizer import TextTokenizer

__all__ = ["Metric", "metric_of"]


class Metric:
    """Calls the user's function and reads what it gives.

    Args:
        source: Where the function is.
        function: The function.
        tokenizer: The model's tokenizer, of transformers.
        annotate: Makes the facts that a plan reads of the texts that the function gives the model.
    """

    def __init__(
        self, source: ModelSource, function: Any, tokenizer: Any, annotate: Callable[..., Any] | None = None
    ) -> None:
        self.source, self._function, self._tokenizer, self._annotate = source, function, tokenizer, annotate

    @torch.no_grad()
    def __call__(self, model: StudyModel, seed: int) -> dict[str, float]:
        """The numbers that the function gives for a model, by name; what it draws at random changes no training.

        Args:
            model: That of the study, in eval mode; the function gets the model of transformers.
            seed: What torch's generator begins with.

        Raises:
            StudyError: The function raises, or gives no finite number.
        """
        devices = [parameter.device for parameter in model.module.parameters() if parameter.device.type == "cuda"][:1]
        with torch.random.fork_rng(devices), self.source.explained(), model.reading_texts(self._annotate) as module:
            torch.manual_seed(seed)
            given = self._function(module, self._tokenizer)
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


def metric_of(config: StudyConfig, contender: Contender, corpus: Corpus, tokenizer: TextTokenizer) -> Metric | None:
    """The metric that the study asks for, under a contender's plan; `None` where it asks for none.

    Raises:
        StudyError: The function is not there, or its file has changed since the study began.
    """
    if config.metric is None:
        return None
    from openwork.hf.annotate import BatchAnnotator
    from openwork.study.saved import transformers_tokenizer

    source = function_source(config.metric, "--metric")
    assert source is not None, "StudyConfig has checked it"
    made = transformers_tokenizer(config, tokenizer)
    annotate: Callable[..., Any] | None = None
    if contender.plan is not None and contender.needs:
        documents = (*corpus.training, *corpus.held_out)
        reader = annotator_of_texts(documents, contender.needs, contender.plan.annotator)
        annotate = _nothing if reader is None else BatchAnnotator(annotator(reader), made)
    return Metric(source, source.load(config.metric_sha256), made, annotate)


def _nothing(batch: Mapping[str, Any]) -> Annotations:
    """For a plan that reads only which document a token is of, which the model knows by itself."""
    return Annotations(batch["input_ids"].shape[1])
