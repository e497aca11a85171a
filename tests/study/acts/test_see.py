"""Act 1: the link that is shown is missed by the one plan and kept by the other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import openwork as ow
from openwork.errors import DataError
from openwork.study.acts.see import SeeResult, see
from openwork.study.recipes import DEFINITIONS, WINDOW

from .conftest import LIBRARY, Code

WINDOW_PATTERN, DEFINITIONS_PATTERN = ow.parse_pattern(WINDOW), ow.parse_pattern(DEFINITIONS)


def test_the_link_is_missed_by_the_window_and_seen_by_the_definitions_plan(code: Code) -> None:
    seen = see(LIBRARY, code.tokenizer, WINDOW_PATTERN, DEFINITIONS_PATTERN)
    length, query, key = seen.result.tokens, seen.link.query, seen.link.keys[0]
    window = ow.bind(WINDOW_PATTERN, q_len=length, kv_len=length)
    assert not window.allows(query, key)
    assert query - key > 4 * (255 + 3)  # nothing carries it there in four layers, the convolution counted
    assert seen.result.example_hops == -(-(query - key) // (255 + 3))
    definitions = ow.bind(DEFINITIONS_PATTERN, q_len=length, kv_len=length, annotations=seen.annotations)
    assert definitions.allows(query, key)
    # what is named is at the lines that are named, in the file itself
    lines = (LIBRARY / seen.result.file).read_text(encoding="utf-8").split("\n")
    assert seen.link.name in lines[seen.link.query_line - 1]
    assert seen.link.name in lines[seen.link.key_line - 1]
    assert any(word in lines[seen.link.key_line - 1] for word in ("def ", "class "))
    assert (
        seen.result.example
        == f"line {seen.link.query_line} uses `{seen.link.name}`, defined at line {seen.link.key_line}"
    )


def test_missed_definitions_are_counted_over_all_uses(code: Code) -> None:
    seen = see(LIBRARY, code.tokenizer, WINDOW_PATTERN, DEFINITIONS_PATTERN)
    window, definitions = seen.result.plans
    assert definitions.missed_directly == definitions.missed == 0
    assert 0 < window.missed <= window.missed_directly <= seen.result.num_links
    dense = seen.layout.to_dense()
    assert definitions.density == pytest.approx(np.mean(dense))
    assert SeeResult.from_dict(json.loads(json.dumps(seen.result.to_dict()))) == seen.result


def test_a_directory_without_such_a_link_is_refused(tmp_path: Path, code: Code) -> None:
    (tmp_path / "short.py").write_text("def area(x):\n    return x\n\n\narea(2)\n" * 3)
    with pytest.raises(DataError, match=r"no Python file in .* within its first 4096 tokens"):
        see(tmp_path, code.tokenizer, WINDOW_PATTERN, DEFINITIONS_PATTERN)
