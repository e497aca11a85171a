"""Annotators for batches: from token ids, or from the raw text that `annotating` puts beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tokenizers.decoders import DecodeStream

from openwork.annotate import annotator_named, require_causal
from openwork.annotate.base import TextAnnotator, annotator, is_causal
from openwork.annotate.offsets import offsets_of
from openwork.errors import AnnotationError
from openwork.hf.calls import OFFSETS, TEXT
from openwork.patterns import Annotations
from openwork.patterns.annotations import IntArray
from openwork.plan import Plan

__all__ = ["BatchAnnotator", "MissingAnnotate", "annotating", "as_annotate", "text_of"]


class BatchAnnotator:
    """A text annotator with a tokenizer: annotates each row of a batch from its ids, or from its raw text.

    Args:
        text_annotator: Text and the spans of tokens in, their facts out.
        tokenizer: A fast tokenizer of transformers.

    Raises:
        AnnotationError: The tokenizer cannot say which characters a token stands for.
    """

    def __init__(self, text_annotator: TextAnnotator, tokenizer: Any) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise AnnotationError(
                f"{type(tokenizer).__name__} has no offsets: it does not say which characters a token stands for. Use "
                "a fast tokenizer (AutoTokenizer gives one), or annotate=function(batch)."
            )
        self.text_annotator, self.tokenizer = text_annotator, tokenizer

    @property
    def causal(self) -> bool:
        """Whether its facts follow from the text up to each token."""
        return is_causal(self.text_annotator)

    def __call__(self, batch: Mapping[str, Any]) -> list[Annotations]:
        """The facts of each row, padding included."""
        return [self._row(batch, row) for row in range(len(batch["input_ids"]))]

    def _row(self, batch: Mapping[str, Any], row: int) -> Annotations:
        ids, valid = batch["input_ids"][row].numpy(), batch["attention_mask"][row].numpy()
        places = np.flatnonzero(valid)
        if batch.get("text") is not None:
            spans = np.asarray(batch["offsets"][row])[places]
            return _spread(self.text_annotator(batch["text"][row], spans), places, len(ids))
        if batch.get("documents") is None:
            return self._from_ids(ids, places)
        # packed documents are texts of their own
        labels = batch["documents"][row].numpy()
        parts = [places[labels[places] == label] for label in dict.fromkeys(labels[places].tolist())]
        return _joined([self._from_ids(ids, part) for part in parts], len(ids))

    def _from_ids(self, ids: IntArray, places: IntArray) -> Annotations:
        text, spans = text_of(self.tokenizer, ids[places].tolist())
        return _spread(self.text_annotator(text, spans), places, len(ids))


def text_of(tokenizer: Any, ids: Sequence[int]) -> tuple[str, IntArray]:
    """The text that token ids stand for, and the span of each token in it, int64 `[tokens, 2]`.

    Special tokens that only frame a text (begin, end, separator, padding) have the span (0, 0) and no text, as in a
    tokenizer's own offsets. A token that ends inside a character has it, too; the token that completes the character
    has all of it: so the beginning of a text is described as the whole is.

    Args:
        tokenizer: A fast tokenizer of transformers.
        ids: One text's ids, without padding.
    """
    names = ("bos_token_id", "cls_token_id", "sep_token_id", "pad_token_id", "eos_token_id")
    frame = {getattr(tokenizer, name, None) for name in names}
    # a chat's marks are its text
    frame -= {tokenizer.convert_tokens_to_ids(mark) for mark in ("<|im_start|>", "<|im_end|>")}
    stream, backend = DecodeStream(skip_special_tokens=False), tokenizer.backend_tokenizer
    spans = np.zeros((len(ids), 2), dtype=np.int64)
    pieces, end = [], 0
    for number, token in enumerate(ids):
        piece = None if token in frame else stream.step(backend, token)
        if piece:
            spans[number] = end, end + len(piece)
            pieces.append(piece)
            end += len(piece)
    return "".join(pieces), spans


def _spread(notes: Annotations, places: IntArray, length: int) -> Annotations:
    """Facts of the tokens at `places`, as facts of all `length` tokens of a row."""
    if len(places) == length:
        return notes

    def over(values: Any, nothing: Any) -> Any:
        spread = np.full(length, nothing, dtype=np.asarray(values).dtype)
        spread[places] = values
        return spread

    def moved(rows: Any) -> Any:
        firsts, stops = places[np.asarray(rows)[:, ::2]], places[np.asarray(rows)[:, 1::2] - 1] + 1
        return np.stack([firsts, stops], axis=2).reshape(-1, 4)

    return Annotations(
        length,
        {name: over(values, False) for name, values in notes.flags.items()},
        {name: over(values, -1) for name, values in notes.labels.items()},
        {name: moved(rows) if len(rows) else rows for name, rows in notes.links.items()},
    )


def _joined(parts: list[Annotations], length: int) -> Annotations:
    """The facts of several documents of one row, each of which says nothing of the others' tokens."""
    if not parts:
        return Annotations(length)
    names = {kind: {name for part in parts for name in getattr(part, kind)} for kind in ("flags", "labels", "links")}
    return Annotations(
        length,
        {n: np.logical_or.reduce([part.flags[n] for part in parts if n in part.flags]) for n in names["flags"]},
        {n: np.maximum.reduce([part.labels[n] for part in parts if n in part.labels]) for n in names["labels"]},
        {n: np.concatenate([part.links[n] for part in parts if n in part.links]) for n in names["links"]},
    )


def as_annotate(plan: Plan, annotate: Any, *, causal: bool) -> Any:
    """What the caller gave as `annotate`, as a function of a batch; None where the plan reads nothing.

    Args:
        plan: Names its annotator, where it has one.
        annotate: A function of a batch; a tokenizer, for the annotator that the plan names; or a pair of an annotator
            (its name, or the annotator) and a tokenizer.
        causal: Whether the model is a causal language model, whose facts may not know the future.

    Raises:
        AnnotationError: The plan reads facts and nothing makes them, the tokenizer has no offsets, or the annotator
            is not causal and the model is.
    """
    needed = sorted(name for name, kind in plan.needs.items() if (name, kind) != ("document", "label"))
    if annotate is None:
        if not needed:
            return None
        which = f" by the annotator {plan.annotator!r}" if plan.annotator else ""
        way = "annotate=tokenizer" if plan.annotator else "annotate=('markdown', tokenizer)"
        raise AnnotationError(
            f"the plan reads {', '.join(map(repr, needed))}{which}, and nothing makes it: "
            f"sparsify(model, plan, {way}), or annotate=function(batch) -> Annotations."
        )
    made = _made(plan, annotate)
    if isinstance(made, BatchAnnotator) and causal:
        require_causal(made.text_annotator)
    return made


def _made(plan: Plan, annotate: Any) -> Callable[[Mapping[str, Any]], Any]:
    if isinstance(annotate, tuple) and len(annotate) == 2:
        which, tokenizer = annotate
        return BatchAnnotator(annotator_named(which) if isinstance(which, str) else annotator(which), tokenizer)
    if hasattr(annotate, "convert_ids_to_tokens"):
        if plan.annotator is None:
            raise AnnotationError(
                "annotate is a tokenizer, but the plan names no annotator: give both, annotate=('markdown', tokenizer)."
            )
        return BatchAnnotator(annotator_named(plan.annotator), annotate)
    if isinstance(annotate, str | TextAnnotator):
        raise AnnotationError(
            f"{annotate!r} reads text, and a model has token ids: give the tokenizer, too, "
            "annotate=(annotator, tokenizer)."
        )
    if not callable(annotate):
        raise AnnotationError(
            "annotate is a function(batch) -> Annotations, a tokenizer, or (annotator, tokenizer); got "
            f"{type(annotate).__name__}."
        )
    function: Callable[[Mapping[str, Any]], Any] = annotate
    return function


class MissingAnnotate:
    """Stands for what a loaded model's plan needs and a checkpoint cannot hold: a tokenizer, a function."""

    def __call__(self, batch: Mapping[str, Any]) -> Any:
        """Raises an `AnnotationError` that says what to give."""
        raise AnnotationError(
            "the plan of this loaded model reads facts of its tokens, and nothing makes them: give the annotator, "
            "openwork.hf.sparsify(model, model.plan, annotate=...)."
        )


class annotating:
    """A collator that keeps the raw text of its examples in the batch, so that annotators read it and not decoded ids.

    The `Trainer` drops columns that the model does not name: set `remove_unused_columns=False`.

    Args:
        collator: What makes batches of examples without text; `input_ids` must be among what it returns.
        tokenizer: Says which characters each token stands for, where the examples bring no `offset_mapping`.

    Examples:
        >>> import torch
        >>> examples = [{"input_ids": [5, 6], "text": "# A", "offset_mapping": [(0, 1), (1, 3)]}]
        >>> batch = annotating(lambda rows: {"input_ids": torch.tensor([row["input_ids"] for row in rows])})(examples)
        >>> batch["openwork_text"], batch["openwork_offsets"][0].tolist()
        (['# A'], [[0, 1], [1, 3]])
    """

    def __init__(self, collator: Callable[[list[Any]], Any], tokenizer: Any = None) -> None:
        self.collator, self.tokenizer = collator, tokenizer

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> Any:
        """The collator's batch, with the text and the span of each token.

        Raises:
            AnnotationError: An example has no text, or its spans are not those of its tokens.
        """
        texts, spans, rest = [], [], []
        for example in examples:
            if not isinstance(example.get("text"), str):
                raise AnnotationError(
                    f"annotating needs the raw text of each example under 'text'; got {sorted(example)}. In a Trainer "
                    "set remove_unused_columns=False."
                )
            texts.append(example["text"])
            spans.append(self._spans(example))
            rest.append({name: value for name, value in example.items() if name not in ("text", "offset_mapping")})
        batch = self.collator(rest)
        batch[TEXT] = texts
        batch[OFFSETS] = [_aligned(batch, row, offsets) for row, offsets in enumerate(spans)]
        return batch

    def _spans(self, example: Mapping[str, Any]) -> IntArray:
        if "offset_mapping" in example:
            return offsets_of({"offset_mapping": example["offset_mapping"]})
        if not getattr(self.tokenizer, "is_fast", False):
            raise AnnotationError(
                "annotating needs offset_mapping in each example (tokenize with return_offsets_mapping=True), or a "
                "fast tokenizer: annotating(collator, tokenizer)."
            )
        return offsets_of(self.tokenizer(example["text"], return_offsets_mapping=True))


def _aligned(batch: Mapping[str, Any], row: int, spans: IntArray) -> IntArray:
    """The spans where the tokens stand after padding; (0, 0) at padding."""
    length = batch["input_ids"].shape[1]
    mask = batch.get("attention_mask")
    places = np.arange(length) if mask is None else np.flatnonzero(mask[row].numpy())
    if len(places) != len(spans):
        raise AnnotationError(
            f"example {row} has spans for {len(spans)} tokens, but {len(places)} in the batch; truncate before, in the "
            "tokenizer, so that both are cut alike."
        )
    aligned = np.zeros((length, 2), dtype=np.int64)
    aligned[places] = spans
    return aligned
