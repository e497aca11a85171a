"""The table in docs/models.md and the README's claim are what the suite finds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import table
import transformers
from architectures import REFUSED, SUPPORTED

ROOT = Path(__file__).parents[2]
VERSIONS, ROWS = table.page_rows(ROOT / "docs" / "models.md")


@pytest.mark.parametrize("entry", [*SUPPORTED, *REFUSED], ids=lambda entry: entry.name)
def test_the_page_says_what_the_suite_finds(entry):
    if transformers.__version__ not in VERSIONS:
        pytest.skip(f"docs/models.md has no column for transformers {transformers.__version__}")
    found, reason = table.outcome(entry, computed=False)
    kind, *cells, note = ROWS[entry.name]
    column = VERSIONS.index(transformers.__version__)
    assert (kind, cells[column]) == (entry.kind, found)
    if reason and (column == 0 or cells[0] != table.REFUSES):
        assert note == reason
    assert table.REFUSES in cells or note == entry.note


def test_the_page_has_every_family_and_no_other():
    assert list(ROWS) == [entry.name for entry in (*SUPPORTED, *REFUSED)]


def test_the_readme_claims_the_table_and_no_more():
    readme = (ROOT / "README.md").read_text()
    claim = re.search(r"(\d+) architectures of (\d+) tried[^()]*\(\[the table\]\(docs/models\.md#arch", readme)
    newest = VERSIONS[0]
    passing = [name for name, row in ROWS.items() if row[1 + VERSIONS.index(newest)] == table.PASSES]
    assert claim and (int(claim[1]), int(claim[2])) == (len(passing), len(ROWS))
    assert len(passing) >= 25
