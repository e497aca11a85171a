"""What `openwork show` says of a plan: the stack of layers, top layer first, and a small drawing of each pattern."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openwork.errors import DataError

if TYPE_CHECKING:
    from openwork.cli.subject import Subject
    from openwork.patterns import Pattern
    from openwork.plan import Plan

__all__ = ["Stack", "num_layers_of", "stack_facts", "stack_text", "write_stack_picture"]

_CELLS = 16
_DEPTHS = 12
"""Layers that are shown of a plan that speaks of shares of the depth, unless the caller says how many there are."""
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_MOST_PICTURES = 8
_MOST_ROWS = 64


@dataclass(frozen=True, eq=False)
class Stack:
    """A plan in a model of so many layers, on so many positions or over a text.

    Attributes:
        plan: The plan.
        num_layers: Layers of the model.
        layers: The patterns of each layer's query heads, lowest layer first; one where all heads are alike.
        styles: Each pattern that occurs, from the top layer down, with what is drawn of it.
    """

    plan: Plan
    num_layers: int
    layers: tuple[tuple[Pattern, ...], ...]
    styles: dict[Pattern, Subject]

    @classmethod
    def of(cls, plan: Plan, num_layers: int, subject_of: Callable[[Pattern], Subject]) -> Stack:
        """The stack, each pattern drawn by `subject_of`.

        Raises:
            PlanError: The plan names a layer that such a model lacks.
        """
        from openwork.patterns import PerHead

        layers = []
        for layer in range(num_layers):
            pattern = plan.for_layer(layer, num_layers)
            layers.append(pattern.patterns if isinstance(pattern, PerHead) else (pattern,))
        found = dict.fromkeys(pattern for heads in reversed(layers) for pattern in heads)
        return cls(plan, num_layers, tuple(layers), {pattern: subject_of(pattern) for pattern in found})

    @cached_property
    def letters(self) -> dict[Pattern, str]:
        """A short name of each pattern."""
        names = [_LETTERS[i] if i < len(_LETTERS) else f"P{i + 1}" for i in range(len(self.styles))]
        return dict(zip(self.styles, names, strict=True))

    def density(self, layer: int) -> float:
        """Allowed pairs over all pairs of a layer, mean over its heads."""
        heads = self.layers[layer]
        return sum(self.styles[pattern].layout.density for pattern in heads) / len(heads)

    @property
    def length(self) -> int:
        """Positions that densities are of."""
        return next(iter(self.styles.values())).layout.q_len


def num_layers_of(plan: Plan, asked: int | None) -> int:
    """Layers to show: those asked for, else enough for every layer and depth that the plan names."""
    named = max(plan.layers, default=0) + 1
    return asked or max(named, _DEPTHS if plan.depths else 1)


def stack_text(stack: Stack, columns: int) -> list[str]:
    """One line for each layer, the top one first, then a small drawing of each pattern."""
    mean = sum(map(stack.density, range(stack.num_layers))) / stack.num_layers
    lines = [
        repr(stack.plan),
        f"{stack.num_layers} layer{'s' * (stack.num_layers != 1)} on {stack.length:,} positions: density {mean:.3g}",
        "",
        "layer  density  heads",
    ]
    for layer in reversed(range(stack.num_layers)):
        lines.append(f"{layer:5}  {stack.density(layer):7.3g}  {_heads_text(stack, stack.layers[layer])}")
    width = max(1, (columns + 3) // (2 * _CELLS + 2))
    styles = list(stack.styles)
    for first in range(0, len(styles), width):
        lines += ["", *_drawings(stack, styles[first : first + width])]
    lines += ["", *(f"{stack.letters[pattern]} = {pattern!r}" for pattern in styles)]
    return lines


def _heads_text(stack: Stack, heads: Sequence[Pattern]) -> str:
    """`all A`, or `A A B`; of many heads the counts."""
    names = [stack.letters[pattern] for pattern in heads]
    if len(names) == 1:
        return f"all {names[0]}"
    if len(names) <= _CELLS:
        return " ".join(names)
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))


def _drawings(stack: Stack, styles: Sequence[Pattern]) -> list[str]:
    """Small drawings side by side, a letter above each."""
    from openwork.layout.draw import SHADES, draw_mask, shade_cells

    blocks = []
    for pattern in styles:
        plane = stack.styles[pattern].layout.plane()
        small = max(plane.q_len, plane.kv_len) <= _CELLS
        drawn = (
            draw_mask(plane.to_dense()).splitlines()
            if small
            else [" ".join(SHADES[shade] for shade in row) for row in shade_cells(plane, _CELLS)]
        )
        title = f"{stack.letters[pattern]}  density {stack.styles[pattern].layout.density:.3g}"
        width = max(len(title), *map(len, drawn))
        blocks.append([f"{line:{width}}" for line in (title, *drawn)])
    return ["   ".join(row).rstrip() for row in zip(*blocks, strict=True)]


def stack_facts(stack: Stack) -> dict[str, Any]:
    """The stack as JSON values."""
    import json

    return {
        "plan": json.loads(stack.plan.to_json()),
        "length": stack.length,
        "layers": [
            {"layer": layer, "density": stack.density(layer), "heads": [repr(pattern) for pattern in heads]}
            for layer, heads in enumerate(stack.layers)
        ],
    }


def write_stack_picture(stack: Stack, path: Path) -> None:
    """One row of small pictures for each layer, the top one first, written to `path`, whole or not at all.

    Raises:
        DataError: There are more layers than a picture can hold.
        StudyError: The file cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    from openwork.cli.picture import draw_plane_cells
    from openwork.runs import write_file

    rows = _picture_rows(stack)
    if len(rows) > _MOST_ROWS:
        raise DataError(
            f"--png can hold {_MOST_ROWS} rows of layers that differ; the plan has {len(rows)}. Show it as text."
        )
    columns = max(min(_MOST_PICTURES, len(kinds)) for _, kinds in rows)
    figure = Figure(
        figsize=(max(6.4, 1.5 * columns + 1.8), 1.35 * len(rows) + 0.5), layout="constrained", facecolor="white"
    )
    grid = figure.subplots(len(rows), columns + 1, squeeze=False, width_ratios=[1.1, *[1] * columns])
    for (which, kinds), axes in zip(rows, grid, strict=True):
        for axis in axes:
            axis.set_axis_off()
        for axis, (pattern, count) in zip(axes[1:], kinds, strict=False):
            draw_plane_cells(axis, stack.styles[pattern].layout.plane(), 96)
            axis.set_title(f"{stack.letters[pattern]}{f' x {count}' if len(kinds) > 1 else ''}", fontsize=8)
        axes[0].text(0, 0.5, which, va="center", fontsize=9, transform=axes[0].transAxes)
    legend = "\n".join(f"{stack.letters[pattern]} = {_shortened(repr(pattern))}" for pattern in stack.styles)
    figure.supxlabel(f"{legend}\non {stack.length:,} positions", fontsize=8, fontfamily="monospace", x=0.02, ha="left")
    content = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "openwork", "svg.fonttype": "path"}):
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else {}
        figure.savefig(content, format=path.suffix.lower()[1:], dpi=150, metadata=metadata)
    write_file(path, content.getvalue())


def _picture_rows(stack: Stack) -> list[tuple[str, list[tuple[Pattern, int]]]]:
    """Layers from the top, equal neighbours as one row: their numbers, and each pattern with how many heads have it."""
    rows: list[tuple[int, int, tuple[Pattern, ...]]] = []
    for layer in reversed(range(stack.num_layers)):
        heads = stack.layers[layer]
        if rows and rows[-1][2] == heads:
            rows[-1] = (layer, rows[-1][1], heads)
        else:
            rows.append((layer, layer, heads))
    return [
        (
            (f"layer {low}" if low == high else f"layers {low}-{high}") + f"\ndensity {stack.density(low):.3g}",
            [(pattern, heads.count(pattern)) for pattern in dict.fromkeys(heads)],
        )
        for low, high, heads in rows
    ]


def _shortened(text: str, most: int = 90) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
