"""A picture file of a layout, drawn by matplotlib."""

from __future__ import annotations

import io
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openwork.errors import DataError
from openwork.layout.overview import cell_counts, cell_edges

if TYPE_CHECKING:
    from openwork.cli.subject import Subject
    from openwork.layout.data import Plane

__all__ = ["check_picture_path", "draw_plane_cells", "write_picture"]

SUFFIXES = (".png", ".svg", ".pdf")
INK = "#17456b"
PAPER = "#f4f1ea"
FLAG = "#d1732c"
_MOST_CELLS = 720
_MOST_LABELS = 40
_GRID_LINES = 64


def check_picture_path(path: Path) -> None:
    """Refuse a file name that no picture can be written to, before anything is computed.

    Raises:
        DataError: The suffix is none that is drawn, or matplotlib is not installed.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"--png {path}: the name must end in {', '.join(SUFFIXES)}.")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise DataError("--png needs matplotlib: pip install matplotlib.") from None


def write_picture(subject: Subject, path: Path, *, sequence: int, head: int) -> None:
    """Draw which keys each query sees, and write it to `path`, whole or not at all.

    Raises:
        StudyError: The file cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    from openwork.runs import write_file

    layout = subject.layout
    # the page is as high as the picture needs: few queries over many keys are a strip
    height = 1.4 + 6.2 * min(1.0, max(0.08, layout.q_len / max(1, layout.kv_len)))
    figure = Figure(figsize=(7.2, height), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    cells = min(layout.q_len, _MOST_CELLS), min(layout.kv_len, _MOST_CELLS)
    _draw_cells(axes, subject, cells, sequence=sequence, head=head)
    _label_axes(axes, subject)
    # the empty line is room for the name of a flag
    title = [*textwrap.wrap(subject.title, 72), ""]
    figure.suptitle("\n".join(title), fontfamily="monospace", fontsize=10)
    content = io.BytesIO()
    # a fixed salt and no date: the same picture is the same file
    with matplotlib.rc_context({"svg.hashsalt": "openwork", "svg.fonttype": "path"}):
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else {}
        figure.savefig(content, format=path.suffix.lower()[1:], dpi=150, metadata=metadata)
    write_file(path, content.getvalue())


def _draw_cells(axes: Any, subject: Subject, cells: tuple[int, int], *, sequence: int, head: int) -> None:
    layout = subject.layout
    _draw_counts(axes, layout.plane(sequence, head), cells)
    if max(layout.q_len, layout.kv_len) <= _GRID_LINES:
        axes.set_xticks(np.arange(layout.kv_len + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(layout.q_len + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=1.2)
        axes.tick_params(which="minor", length=0)
    axes.set_box_aspect(layout.q_len / layout.kv_len if layout.q_len <= 2 * layout.kv_len else 2)
    for side in axes.spines.values():
        side.set_visible(False)


def _draw_counts(axes: Any, plane: Plane, cells: tuple[int, int]) -> None:
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    counts = cell_counts(plane, *cells)
    areas = np.outer(*(np.diff(cell_edges(n, m)) for n, m in zip((plane.q_len, plane.kv_len), cells, strict=True)))
    colors = LinearSegmentedColormap.from_list("openwork", [PAPER, INK])
    # a thin column through a wide cell must still be seen, so small shares are lifted
    norm = PowerNorm(0.45, vmin=0, vmax=1)
    extent = (-0.5, plane.kv_len - 0.5, plane.q_len - 0.5, -0.5)
    axes.imshow(counts / areas, cmap=colors, norm=norm, extent=extent, interpolation="nearest", aspect="auto")


def draw_plane_cells(axes: Any, plane: Plane, most: int) -> None:
    """A plane as a square picture without words, of at most `most` cells in each direction."""
    _draw_counts(axes, plane, (min(plane.q_len, most), min(plane.kv_len, most)))
    axes.set_box_aspect(1)


def _label_axes(axes: Any, subject: Subject) -> None:
    layout, tokens = subject.layout, subject.tokens
    share = f"{layout.allowed_pairs:,} of {layout.possible_pairs:,} pairs allowed: density {layout.density:.3g}"
    axes.set_xlabel(f"key\n{share}")
    axes.set_ylabel("query")
    axes.xaxis.set_label_position("bottom")
    if tokens is not None and len(tokens.offsets) <= _MOST_LABELS:
        words = map(tokens.token, range(len(tokens.offsets)))
        names = [repr(word)[1:-1] if word.strip() else repr(word) for word in words]
        style = {"fontfamily": "monospace", "fontsize": 7}
        axes.set_xticks(range(len(names)), names, rotation=90, **style)
        axes.set_yticks(range(len(names)), names, **style)
    if subject.annotations is not None and subject.pattern is not None:
        for name in subject.pattern.needs:
            if name in subject.annotations.flags:
                _mark_flags(axes, np.flatnonzero(subject.annotations.flags[name]), name)


def _mark_flags(axes: Any, keys: Any, name: str) -> None:
    """A strip above the picture with a tick at each key that carries the flag."""
    axes.vlines(keys, 1.005, 1.025, transform=axes.get_xaxis_transform(), color=FLAG, linewidth=1.5, clip_on=False)
    axes.text(0, 1.03, f"{name}", transform=axes.transAxes, color=FLAG, fontsize=8, va="bottom")
