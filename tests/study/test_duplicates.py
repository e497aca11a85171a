"""What held-out and training text have in common, against a count of runs of bytes."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import numpy as np
import pytest

from openwork.study import duplicates
from openwork.study.corpus import Corpus, Document, read_corpus
from openwork.study.duplicates import SHINGLE_BYTES, near_duplicates, shingle_hashes


def words(seed: int, count: int) -> str:
    rng = random.Random(seed)
    return " ".join("".join(rng.choices("abcdefghij", k=rng.randrange(2, 9))) for _ in range(count))


def document(name: str, text: str) -> Document:
    return Document(name, len(text), hashlib.sha256(text.encode()).hexdigest())


def corpus_of(root: Path, training: dict[str, str], held_out: dict[str, str]) -> Corpus:
    for name, text in (training | held_out).items():
        (root / name).write_text(text)
    parts = [tuple(document(name, text) for name, text in part.items()) for part in (training, held_out)]
    return Corpus(root=root, training=parts[0], held_out=parts[1])


def test_equal_runs_have_equal_hashes_and_no_others() -> None:
    content = words(1, 3000).encode()
    runs = [content[i : i + SHINGLE_BYTES] for i in range(len(content) - SHINGLE_BYTES + 1)]
    hashes = shingle_hashes(content)
    assert len(hashes) == len(runs) and len(set(hashes.tolist())) == len(set(runs))
    assert np.array_equal(shingle_hashes(content[100:200]), hashes[100 : 200 - SHINGLE_BYTES + 1])
    # the low bits decide the sample
    assert np.mean(hashes % np.uint64(8) == 0) == pytest.approx(1 / 8, rel=0.1)
    assert len(shingle_hashes(b"x" * (SHINGLE_BYTES - 1))) == 0 and len(shingle_hashes(b"x" * SHINGLE_BYTES)) == 1


@pytest.mark.parametrize("most", [1 << 18, 1000])
def test_shares_are_those_of_a_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(duplicates, "_MOST_SHINGLES", most)
    monkeypatch.setattr(duplicates, "_BLOCK", 777)
    training = {f"t{n}": words(n, 800) for n in range(4)}
    lines = training["t1"].split(" ")
    held_out = {
        "new": words(99, 700),
        "inside": training["t2"][500:3500],
        "changed": " ".join(word if n % 40 else "changed" for n, word in enumerate(lines)),
        "half": training["t3"][:1000] + words(98, 400),
        "short": "too short",
    }
    corpus = corpus_of(tmp_path, training, held_out)
    found = near_duplicates(corpus)

    def runs(text: str) -> set[str]:
        return {text[i : i + SHINGLE_BYTES] for i in range(len(text) - SHINGLE_BYTES + 1)}

    known = set().union(*map(runs, training.values()))
    shared = {name: [run in known for run in runs(text)] for name, text in held_out.items()}
    near = [name for name, flags in shared.items() if flags and np.mean(flags) >= 0.5]
    assert near == ["inside", "changed"] == list(found.names) and found.documents == 2
    assert found.share == sum(len(held_out[name]) for name in near) / sum(map(len, held_out.values()))
    exact = sum(map(sum, shared.values())) / sum(map(len, shared.values()))
    assert found.sampled == (1 if most > 10_000 else 16)
    assert found.shared == pytest.approx(exact, abs=1e-12 if found.sampled == 1 else 0.05)


def test_what_has_nothing_in_common_has_none(tmp_path: Path) -> None:
    found = near_duplicates(corpus_of(tmp_path, {"a": words(1, 500)}, {"b": words(2, 500)}))
    assert (found.shared, found.documents, found.share, found.names) == (0.0, 0, 0.0, ())


def test_progress_ends_with_all_bytes(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"{number}.txt").write_text(words(number, 200))
    seen: list[tuple[int, int]] = []
    near_duplicates(read_corpus(tmp_path), lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] == sum(path.stat().st_size for path in tmp_path.iterdir())
