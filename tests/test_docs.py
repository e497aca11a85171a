"""Every page in docs/: its Python runs, and prints what the page says it prints."""

from __future__ import annotations

import contextlib
import doctest
import io
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)

FILE = re.compile(r"# (\w+\.py)\n")


def examples(page: Path) -> list[tuple[str, str | None]]:
    """Each Python block of a page with the output that follows it, where one does."""
    blocks = FENCE.findall(page.read_text(encoding="utf-8"))
    return [
        (code, blocks[i + 1][1] if i + 1 < len(blocks) and blocks[i + 1][0] == "" else None)
        for i, (language, code) in enumerate(blocks)
        if language == "python"
    ]


PAGES = sorted(page for page in DOCS.rglob("*.md") if examples(page))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_the_page_does_what_it_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for code, expected in examples(page):
        if (name := FILE.match(code)) is not None:
            # a block that is a file, which later blocks use
            Path(name[1]).write_text(code, encoding="utf-8")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, page.name, "exec"), names)
        if expected is not None:
            options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            assert doctest.OutputChecker().check_output(expected, printed.getvalue(), options), printed.getvalue()


def test_pages_with_examples_are_found():
    assert {"layouts.md", "patterns.md"} <= {page.name for page in PAGES}
