"""From the user's files to tokens on disk, and what is known of them before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from openwork.annotate import read_features
from openwork.errors import DataError, StudyError
from openwork.measure import gzip_bits_per_byte
from openwork.runs import write_file
from openwork.study.checkpoint_inputs import checkpoint_of, checkpoint_tokenizer
from openwork.study.config import StudyConfig
from openwork.study.corpus import Corpus, read_corpus, read_text, sequence_ids
from openwork.study.duplicates import near_duplicates
from openwork.study.folder import StudyFolder
from openwork.study.notes import annotator_of_texts, require_annotations
from openwork.study.record import HeldOut
from openwork.study.tokenizer import TextTokenizer, load_tokenizer, parse_tokenizer, train_bpe
from openwork.study.tokens import TokenStream, load_stream, require_length, tokenize
from openwork.study.trainer import StudyData

__all__ = [
    "checkpoint_tokenizer",
    "corpus_of",
    "data_facts",
    "load_data",
    "measure_held_out",
    "prepare_data",
    "require_facts",
]

Report = Callable[[dict[str, Any]], None]


def prepare_data(config: StudyConfig, corpus: Corpus, folder: StudyFolder, report: Report) -> StudyData:
    """Trains the tokenizer where that is asked for, and writes all tokens; what is there already is kept.

    Raises:
        DataError: The text is shorter than one sequence, or the tokenizer cannot be read.
    """
    kind, vocabulary = parse_tokenizer(config.tokenizer)
    if kind == "bpe" and not folder.tokenizer.exists():
        report({"event": "prepare", "what": "training the tokenizer", "done": 0, "total": 0})
        write_file(folder.tokenizer, train_bpe(corpus.texts(corpus.training), vocabulary))
    if kind == "model" and not folder.tokenizer.exists():
        write_file(folder.tokenizer, checkpoint_tokenizer(config))
    tokenizer = _tokenizer(config, folder)
    for part, words in (("training", "training text"), ("held_out", "held-out text")):

        def progress(done: int, total: int, words: str = words) -> None:
            report({"event": "prepare", "what": f"tokens of the {words}", "done": done, "total": total})

        tokenize(corpus, part, tokenizer, folder.tokens, progress)
    data = _load(corpus, tokenizer, folder)
    for stream, name in ((data.training, "training"), (data.held_out, "held-out")):
        require_length(stream, config.seq_len, name)
    return data


def load_data(config: StudyConfig, folder: StudyFolder, *, fingerprint: str | None = None) -> StudyData:
    """What `prepare_data` made, read back.

    Args:
        config: The study.
        folder: Where its tokens are.
        fingerprint: That of the texts that the tokens were made from; `None` to take them for those.

    Raises:
        StudyError: The texts are others now, or tokens are missing.
    """
    corpus = corpus_of(config)
    if fingerprint is not None and corpus.fingerprint != fingerprint:
        raise StudyError(
            f"the files in --data {config.data} changed while the study in {folder.path} was at work, so its tokens "
            "are of other texts; change them back, or start anew with --fresh."
        )
    return _load(corpus, _tokenizer(config, folder), folder)


def corpus_of(config: StudyConfig) -> Corpus:
    """The files that the study reads; features that the user names are taken to be knowledge from elsewhere."""
    corpus = read_corpus(config.data, include=config.include, exclude=config.exclude, max_bytes=config.max_bytes)
    if config.features is None:
        return corpus
    return replace(corpus, features=read_features(config.features, known_beforehand=True))


def require_facts(config: StudyConfig, corpus: Corpus) -> None:
    """Raises an `AnnotationError` where a plan reads facts that nothing gives here, or features do not fit the data."""
    documents = (*corpus.training, *corpus.held_out)
    if corpus.features is not None:
        corpus.features.require_sequences(sequence_ids(corpus))
    for contender in config.everyone:
        if contender.plan is not None:
            require_annotations(documents, contender.needs, contender.plan.annotator, corpus.features)
            if config.metric is not None:
                annotator_of_texts(documents, contender.needs, contender.plan.annotator)


def data_facts(corpus: Corpus, report: Report, *, began: bool) -> dict[str, Any]:
    """What is recorded of the data; of a study that begins also what held-out and training text have in common."""
    facts = corpus.to_dict()
    if began:

        def progress(done: int, total: int) -> None:
            report({"event": "prepare", "what": "near-duplicates", "done": done, "total": total})

        facts["near_duplicates"] = near_duplicates(corpus, progress).to_dict()
    return facts


def _tokenizer(config: StudyConfig, folder: StudyFolder) -> TextTokenizer:
    kind, _ = parse_tokenizer(config.tokenizer)
    if kind == "model":
        source = checkpoint_of(config)
        return load_tokenizer(folder.tokenizer, source.separator, source.vocab_size)
    return load_tokenizer({"bytes": None, "bpe": folder.tokenizer, "file": Path(config.tokenizer)}[kind])


def _load(corpus: Corpus, tokenizer: TextTokenizer, folder: StudyFolder) -> StudyData:
    training, held_out = (load_stream(corpus, part, tokenizer, folder.tokens) for part in ("training", "held_out"))
    return StudyData(corpus, tokenizer, training, held_out)


def measure_held_out(data: StudyData, config: StudyConfig) -> HeldOut:
    """Tokens and bytes of the held-out text that quality is measured on, and what gzip makes of it."""
    stream = data.held_out
    available = stream.num_sequences(config.seq_len)
    num_tokens = config.num_eval_sequences(available) * config.seq_len
    # token 0 is a separator and is given; the others, up to and with number `num_tokens`, are predicted
    chunks = _bytes_of(data, stream, num_tokens + 1)
    num_bytes = sum(map(len, chunks))
    if num_bytes < 1:
        raise DataError("the held-out text that quality would be measured on has no byte; give more text.")
    curve = _bytes_of(data, stream, config.num_curve_sequences(available) * config.seq_len + 1)
    return HeldOut(
        num_tokens=num_tokens,
        num_bytes=num_bytes,
        gzip_bits_per_byte=gzip_bits_per_byte(chunks),
        curve_num_bytes=sum(map(len, curve)),
    )


def _bytes_of(data: StudyData, stream: TokenStream, stop: int) -> list[bytes]:
    chunks = []
    for number, _, high in stream.pieces(0, stop):
        text = read_text(data.corpus.root, stream.documents[number])
        num_tokens = int(stream.ends[number] - stream.firsts[number]) - 1
        if high < num_tokens:
            # a document that is cut: its bytes up to the end of the last token's characters
            offsets = data.tokenizer.offsets(text)
            text = text[: int(offsets[:high, 1].max(initial=0))]
        chunks.append(text.encode("utf-8"))
    return chunks
