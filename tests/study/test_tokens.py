"""Tokenizers and the packed stream."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from openwork.errors import DataError, StudyError
from openwork.study.corpus import Corpus, read_corpus
from openwork.study.tokenizer import TextTokenizer, load_tokenizer, parse_tokenizer, train_bpe
from openwork.study.tokens import TokenStream, load_stream, require_length, tokenize

SAMPLES = ["", "plain", "two\nlines\n", "caf\u00e9 \u4e2d\u6587 \U0001f600 x", "    indented = 1\n\n\n"]


@pytest.fixture(scope="module")
def bpe(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    corpus = read_corpus(texts)
    path = tmp_path_factory.mktemp("bpe") / "tokenizer.json"
    path.write_bytes(train_bpe(corpus.texts(corpus.training), 320))
    return load_tokenizer(path)


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_offsets_and_ids_speak_of_the_same_tokens(kind: str, bpe: TextTokenizer, texts: Path) -> None:
    tokenizer = bpe if kind == "bpe" else load_tokenizer(None)
    for text in [*SAMPLES, *read_corpus(texts).texts(read_corpus(texts).training)]:
        (ids,), offsets = tokenizer.encode([text]), tokenizer.offsets(text)
        assert len(ids) == len(offsets)
        assert ids.max(initial=0) < tokenizer.separator < tokenizer.vocab_size
        covered = np.zeros(len(text), dtype=bool)
        for first, stop in offsets:
            covered[first:stop] = True
        assert covered.all()


def test_bpe_is_shorter_than_bytes(bpe: TextTokenizer, texts: Path) -> None:
    corpus = read_corpus(texts)
    text = next(corpus.texts(corpus.held_out))
    assert bpe.vocab_size == 321
    assert len(bpe.encode([text])[0]) < 0.8 * len(text)


def test_a_long_text_is_cut_at_lines_and_nothing_is_lost(bpe: TextTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(f"value_{number} = {number}\n" for number in range(300))
    whole, offsets = bpe.encode([text])[0], bpe.offsets(text)
    monkeypatch.setattr("openwork.study.tokenizer._PIECE_CHARACTERS", 100)
    pieces, piece_offsets = bpe.encode([text])[0], bpe.offsets(text)
    assert len(pieces) == len(piece_offsets)
    assert (np.diff(piece_offsets[:, 0]) >= 0).all() and piece_offsets[-1, 1] == offsets[-1, 1] == len(text)
    # a cut may part a token that reaches over a line end, and no other
    assert len(whole) <= len(pieces) <= len(whole) + len(text) / 50


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("words", "must be bytes, bpe, bpe:VOCABULARY, the path of a tokenizer.json, or model; got 'words'"),
        ("bpe:many", "bpe:VOCABULARY needs a whole number; got 'many'"),
        ("bpe:10", r"must be 257 \(every byte and one more\) to 131072; got 10"),
    ],
)
def test_a_wrong_tokenizer_is_refused_in_words(option: str, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        parse_tokenizer(option)


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--tokenizer .*absent.json does not exist"):
        load_tokenizer(tmp_path / "absent.json")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(DataError, match=r"--tokenizer .*bad.json is not a tokenizer.json: "):
        load_tokenizer(tmp_path / "bad.json")


def stream_of(corpus: Corpus, directory: Path) -> TokenStream:
    tokenizer = load_tokenizer(None)
    tokenize(corpus, "training", tokenizer, directory)
    return load_stream(corpus, "training", tokenizer, directory)


def test_the_stream_is_every_text_after_a_separator(texts: Path, tmp_path: Path) -> None:
    corpus = read_corpus(texts)
    stream = stream_of(corpus, tmp_path)
    pieces = np.split(stream.ids, stream.firsts)[1:]
    assert [piece[0] for piece in pieces] == [256] * len(corpus.training)
    assert [bytes(piece[1:].tolist()).decode() for piece in pieces] == list(corpus.texts(corpus.training))


def test_tokens_are_the_same_however_often_it_was_stopped(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, tokenizer = read_corpus(texts), load_tokenizer(None)
    whole = stream_of(corpus, tmp_path / "whole")
    monkeypatch.setattr("openwork.study.tokens._SHARD_SECONDS", 0.0)
    monkeypatch.setattr("openwork.study.tokens._BATCH_BYTES", 3000)
    # a shard a batch; each call is stopped at its second shard
    for _ in range(50):
        calls = iter(range(2))

        def progress(done: int, total: int, calls=calls) -> None:
            if next(calls, None) is None:
                raise KeyboardInterrupt

        try:
            tokenize(corpus, "training", tokenizer, tmp_path / "parts", progress)
            break
        except KeyboardInterrupt:
            with pytest.raises(StudyError, match=r"holds the tokens of \d+ of 1\d documents; use --fresh"):
                load_stream(corpus, "training", tokenizer, tmp_path / "parts")
    assert len(list((tmp_path / "parts").iterdir())) > 2
    parts = load_stream(corpus, "training", tokenizer, tmp_path / "parts")
    assert np.array_equal(parts.ids, whole.ids) and np.array_equal(parts.firsts, whole.firsts)


def test_a_shard_holds_no_more_than_it_may(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, tokenizer = read_corpus(texts), load_tokenizer(None)
    whole = stream_of(corpus, tmp_path / "whole")
    monkeypatch.setattr("openwork.study.tokens._SHARD_TOKENS", 3000)
    monkeypatch.setattr("openwork.study.tokens._BATCH_BYTES", 1000)
    tokenize(corpus, "training", tokenizer, tmp_path / "parts")
    largest = max(len(np.load(path)["ids"]) for path in (tmp_path / "parts").glob("*.npz"))
    assert largest < 3000 + max(document.num_bytes for document in corpus.training)
    assert np.array_equal(load_stream(corpus, "training", tokenizer, tmp_path / "parts").ids, whole.ids)
    # joined, they lie in one file, and what was done is not done again
    assert not list((tmp_path / "parts").glob("*.npz"))
    tokenize(corpus, "training", tokenizer, tmp_path / "parts", lambda done, total: pytest.fail("tokenized again"))


def test_pieces_cover_any_window(texts: Path, tmp_path: Path) -> None:
    stream = stream_of(read_corpus(texts), tmp_path)
    for first in range(0, len(stream.ids), 997):
        for stop in (first + 1, first + 500, min(len(stream.ids), first + 5000)):
            covered = [
                int(stream.firsts[number]) + 1 + place
                for number, low, high in stream.pieces(first, stop)
                for place in range(low, high)
            ]
            assert covered == list(range(first, min(stop, len(stream.ids))))


def test_sequences_follow_each_other(texts: Path, tmp_path: Path) -> None:
    stream = stream_of(read_corpus(texts), tmp_path)
    one, two = stream.sequence(0, 96), stream.sequence(1, 96)
    assert len(one) == 97 and one[-1] == two[0]
    last = stream.num_sequences(96) - 1
    assert len(stream.sequence(last, 96)) == 97
    assert len(stream.sequence(last + 1, 96)) < 97


def test_a_sequence_longer_than_the_text_is_refused() -> None:
    stream = TokenStream(np.zeros(50, np.int32), np.array([0]), ())
    require_length(stream, 49, "training")
    with pytest.raises(DataError, match="--seq-len 50 is longer than the training text, which has 50 tokens in 0 doc"):
        require_length(stream, 50, "training")
