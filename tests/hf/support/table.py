"""The table of architectures in docs/models.md: what the suite finds for each family."""

from __future__ import annotations

import re
from pathlib import Path

import contract
import transformers
from architectures import REFUSED, SUPPORTED, Architecture
from inputs import plan_for

from openwork import hf
from openwork.errors import OpenworkError

BEGIN, END = "<!-- architectures: begin -->", "<!-- architectures: end -->"
PASSES, REFUSES, LACKS = "passes", "refused", "not there"


def outcome(entry: Architecture, *, computed: bool = True) -> tuple[str, str]:
    """`passes`, `refused` or `not there`, and the reason of a refusal, in the words of the message.

    Args:
        entry: The family.
        computed: Whether its values are compared, too; the suite does that in a test of its own.
    """
    if entry.missing:
        return LACKS, ""
    try:
        hf.sparsify(entry.build(), plan_for(entry))
    except OpenworkError as refusal:
        reason = re.sub(r"^\S+ cannot be made sparse: ", "", str(refusal))
        return REFUSES, re.split(r"\. (?=[A-Z])", reason)[0]
    if computed:
        contract.check_values(entry)
    return PASSES, ""


def page_rows(page: Path) -> tuple[list[str], dict[str, list[str]]]:
    """The versions in the head of the page's table, and the cells of each family after its name."""
    block = page.read_text().split(BEGIN)[1].split(END)[0]
    lines = [line for line in block.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [cell.split()[-1] for cell in cells[0][2:-1]], {row[0].strip("`"): row[1:] for row in cells[2:]}


def write_column(page: Path, version: str, found: dict[str, tuple[str, str]]) -> None:
    """Puts outcomes into the version's column of the page, which is added where it lacks.

    Args:
        page: docs/models.md.
        version: The version of transformers under which they were found.
        found: Name of the family to its outcome.
    """
    versions, rows = page_rows(page)
    if version not in versions:
        versions.append(version)
        rows = {name: [*row[:-1], "", row[-1]] for name, row in rows.items()}
    column, made = versions.index(version) + 1, {}
    for entry in (*SUPPORTED, *REFUSED):
        row = rows.get(entry.name, [""] * (len(versions) + 2))
        row[0], (row[column], reason) = entry.kind, found[entry.name]
        if column > 1 and row[1] == REFUSES:
            reason = row[-1]  # an older version may have another one
        row[-1] = reason or (row[-1] if REFUSES in row[1:-1] else entry.note)
        made[entry.name] = row
    head = ["model_type", "kind", *(f"transformers {one}" for one in versions), "note, or reason of the refusal"]
    lines = [head, ["---"] * len(head), *([f"`{name}`", *row] for name, row in made.items())]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    before, rest = page.read_text().split(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    outcomes = {entry.name: outcome(entry) for entry in (*SUPPORTED, *REFUSED)}
    write_column(Path(__file__).parents[3] / "docs" / "models.md", transformers.__version__, outcomes)
