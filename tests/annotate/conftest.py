"""Real files to annotate, and a real fast tokenizer to do it with."""

from __future__ import annotations

import gzip
import random
import sysconfig
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STDLIB = Path(sysconfig.get_path("stdlib"))


@pytest.fixture(scope="session")
def python_files() -> dict[str, str]:
    """Name to text of a hundred modules of the standard library, the largest ones left out."""
    paths = [path for path in sorted(STDLIB.glob("*.py")) if 2_000 < path.stat().st_size < 80_000]
    chosen = random.Random(3).sample(paths, 100)
    texts = {}
    for path in chosen:
        with tokenize.open(path) as file:
            texts[path.name] = file.read()
    return texts


@pytest.fixture(scope="session")
def project_documents() -> dict[str, str]:
    """Name to text of every Markdown document of this project."""
    paths = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in sorted(paths)}


def system_documents(folder: str, *patterns: str, limit: int = 60, largest: int = 40_000) -> dict[str, str]:
    """Name to text of manuals that are installed here; skips where there are none."""
    paths = sorted(path for pattern in patterns for path in Path(folder).glob(pattern) if path.is_file())
    random.Random(5).shuffle(paths)
    texts: dict[str, str] = {}
    for path in paths:
        if len(texts) == limit:
            break
        try:
            data = path.read_bytes()
            text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
        except (OSError, UnicodeDecodeError, EOFError):
            continue
        if 0 < len(text) < largest:
            texts[str(path)] = text
    if not texts:
        pytest.skip(f"no {' or '.join(patterns)} is installed under {folder}")
    return texts


@pytest.fixture(scope="session")
def bpe(python_files: dict[str, str]):
    """A byte-level BPE tokenizer trained on Python, with special tokens around every text."""
    tokenizers = pytest.importorskip("tokenizers", reason="the extra `tokenizers` is not installed")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=1200,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text[:4000] for text in list(python_files.values())[:30]], trainer)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return tokenizer


@pytest.fixture(scope="session")
def installed():
    """`installed(folder, *patterns)`: name to text of manuals of this system; skips where there are none."""
    return system_documents
