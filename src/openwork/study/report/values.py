"""What a report is made of: plain values, which know nothing of HTML.

A job that has something to show makes a `Section`; `openwork.study.report.write_report` puts sections on a page.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Cell", "Code", "Figure", "Key", "Part", "Report", "Section", "Table", "Words"]


@dataclass(frozen=True)
class Words:
    """A paragraph. Text between backticks is shown as code.

    Attributes:
        text: The words.
        lead: What they are about, set in bold before them.
        joint: What stands between the two.
        soft: Whether they only explain what stands beside them.
    """

    text: str
    lead: str = ""
    soft: bool = False
    joint: str = ": "


@dataclass(frozen=True)
class Code:
    """Lines of code, of a command or of the user's own text, shown as they are.

    Attributes:
        text: The lines.
        caption: What they are.
        marked: Numbers of the lines to mark, from 0.
        first: The number that the first line bears in its file; `None` shows no numbers.
    """

    text: str
    caption: str = ""
    marked: tuple[int, ...] = ()
    first: int | None = None


@dataclass(frozen=True)
class Key:
    """One entry of a legend.

    Attributes:
        name: What is drawn so.
        style: Number of the series: its colour, dash and marker.
        shape: `line`, `marker`, `both` (line and marker), `bar`, `band`, `level`, `shade`, `tick` or `none`.
        opacity: Of a `shade`.
    """

    name: str
    style: int = 0
    shape: str = "line"
    opacity: float = 1.0


@dataclass(frozen=True)
class Figure:
    """A chart or a picture.

    Attributes:
        svg: One `<svg>` element with a `viewBox`; colours are the page's, `var(--...)`. Ids in it need be unique only
            in it.
        caption: Its title.
        alt: What it shows, in words, for whoever cannot see it; with the figures that matter.
        note: How to read it.
        legend: Explained above it, outside the data.
        wide: Whether it takes the whole width of the page.
    """

    svg: str
    caption: str
    alt: str
    note: str = ""
    legend: tuple[Key, ...] = ()
    wide: bool = False

    def __post_init__(self) -> None:
        assert self.alt.strip() and self.caption.strip(), "a figure has a caption and says what it shows in words"
        assert self.svg.startswith("<svg "), "a figure is one <svg> element"


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: What it says.
        note: An explanation below it, smaller.
        code: Whether it is code.
    """

    text: str
    note: str = ""
    code: bool = False


@dataclass(frozen=True)
class Table:
    """A table; the first cell of each row names the row.

    Attributes:
        head: Names of the columns, the column of row names included.
        rows: Cells of each row, as many as there are columns.
        caption: What it shows.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str | Cell, ...], ...]
    caption: str

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.head) for row in self.rows), "each row has a cell for each column"

    @property
    def cells(self) -> list[list[Cell]]:
        """All cells as `Cell`."""
        return [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in self.rows]


Part = Figure | Table | Words | Code
"""What stands in a section. Figures that follow each other stand side by side where there is room."""


@dataclass(frozen=True)
class Section:
    """A part of a report under one heading.

    Attributes:
        title: The heading.
        lead: One or two sentences that say what is to be seen here; "" for none.
        parts: What follows, in order.
        folded: Whether it is closed until the reader opens it; in print it is left out.
    """

    title: str
    lead: str
    parts: tuple[Part, ...]
    folded: bool = False


@dataclass(frozen=True)
class Report:
    """A whole report.

    Attributes:
        title: Of the page.
        verdict: What was found, what matters most first.
        sections: What it rests on, in order.
        environment: Machine and versions: name to value.
        figures: Every figure of the report as JSON values, which the page carries inside.
        lead: What was asked, before the verdict; "" for none.
    """

    title: str
    verdict: tuple[Words, ...]
    sections: tuple[Section, ...]
    environment: Mapping[str, str]
    figures: Any = field(default_factory=dict)
    lead: str = ""
