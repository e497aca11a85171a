"""Real code and a tokenizer trained on it, once."""

from __future__ import annotations

import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest

from openwork.study.tokenizer import TextTokenizer, load_tokenizer, train_bpe

LIBRARY = Path(sysconfig.get_paths()["stdlib"])


@dataclass(frozen=True)
class Code:
    files: tuple[str, ...]
    tokenizer: TextTokenizer
    tokenizer_json: str


@pytest.fixture(scope="session")
def code(tmp_path_factory: pytest.TempPathFactory) -> Code:
    """Sixty files of the standard library and a BPE of 2,048 ids trained on them."""
    paths = sorted(LIBRARY.glob("*.py"))[:60]
    files = tuple(path.read_text(encoding="utf-8", errors="replace") for path in paths)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_bytes(train_bpe(iter(files), 2048))
    return Code(files, load_tokenizer(path), path.read_text(encoding="utf-8"))
