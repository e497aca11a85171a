"""Act 1: a real file with a pattern drawn over it, and a link in it that a window misses."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from openwork.annotate import python_source
from openwork.check import TextLink, links_in_text, trace_links
from openwork.errors import AnnotationWarning, DataError
from openwork.layout import BlockLayout, compile_layout
from openwork.patterns import Annotations, Pattern
from openwork.patterns.annotations import IntArray
from openwork.plan import Plan
from openwork.study.acts.stack import links_through
from openwork.study.tokenizer import TextTokenizer

__all__ = ["SeeResult", "Seen", "SeenPlan", "see"]

CONV_WIDTH = 4
"""Tokens that the short convolution of the study's model mixes, itself counted."""
_DEEPEST = 64
"""Layers up to which the example's need is counted."""
FAVOURITES = ("enum.py", "pickle.py", "configparser.py", "typing.py")
"""Files that are looked at first, in this order: long ones with many names."""


@dataclass(frozen=True, kw_only=True)
class SeenPlan:
    """What one plan makes of the file."""

    name: str
    """What it is called."""
    pattern: str
    """Its text."""
    density: float
    """Allowed pairs over all pairs."""
    missed_directly: int
    """Links whose definition the use does not see."""
    missed: int
    """Links whose definition does not reach the use in all layers."""


@dataclass(frozen=True, kw_only=True)
class SeeResult:
    """What act 1 found."""

    file: str
    """Name of the file."""
    tokens: int
    """Tokens that were looked at, from its first."""
    layers: int
    """Layers that a link may take."""
    num_links: int
    """Uses in those tokens whose definition is in them too."""
    plans: tuple[SeenPlan, ...]
    """The window first."""
    example: str
    """A link that the window misses and the other plan keeps, in words."""
    example_hops: int | None
    """Layers that the window would need for it; `None` where 64 are not enough."""

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> SeeResult:
        """The result that `to_dict` wrote."""
        values = {f.name: content[f.name] for f in fields(cls)}
        return cls(**{**values, "plans": tuple(SeenPlan(**plan) for plan in content["plans"])})


@dataclass(frozen=True, eq=False)
class Seen:
    """The file and what is drawn over it.

    Attributes:
        result: The figures.
        text: Its text, up to the last token that was looked at.
        offsets: int64 [tokens, 2], the character span of each token.
        annotations: Its definitions and uses.
        layout: The layout of the plan that keeps the link.
        link: That link.
    """

    result: SeeResult
    text: str
    offsets: IntArray
    annotations: Annotations
    layout: BlockLayout
    link: TextLink


def see(
    directory: Path,
    tokenizer: TextTokenizer,
    window: Pattern,
    definitions: Pattern,
    *,
    names: tuple[str, str] = ("window", "window + definitions"),
    tokens: int = 4096,
    layers: int = 4,
) -> Seen:
    """Finds a file with a link that the window misses in all layers and the other plan sees at once.

    Args:
        directory: Where Python files are.
        tokenizer: Makes tokens.
        window: A pattern of positions alone.
        definitions: A pattern that reads flag `definition` and links `use`.
        names: What the two are called.
        tokens: Tokens to look at, from the first of the file.
        layers: Layers that a link may take.

    Raises:
        DataError: No file there has such a link.
    """
    for path in _candidates(directory):
        seen = _look(path, tokenizer, window, definitions, names, tokens, layers)
        if seen is not None:
            return seen
    raise DataError(
        f"no Python file in {directory} uses a name more than {layers} windows below its definition within its first "
        f"{tokens} tokens."
    )


def _candidates(directory: Path) -> list[Path]:
    found = {path.name: path for path in directory.glob("*.py")}
    return [found.pop(name) for name in FAVOURITES if name in found] + [found[name] for name in sorted(found)]


def _look(
    path: Path,
    tokenizer: TextTokenizer,
    window: Pattern,
    definitions: Pattern,
    names: tuple[str, str],
    tokens: int,
    layers: int,
) -> Seen | None:
    text = path.read_text(encoding="utf-8", errors="replace")
    offsets = tokenizer.offsets(text)[:tokens]
    if len(offsets) < tokens:
        return None
    text = text[: int(offsets[-1, 1])]
    notes = python_source(text, offsets)
    links = links_in_text(text, offsets, python_source, notes)
    with warnings.catch_warnings():
        # a file without a definition is not the one that is looked for
        warnings.simplefilter("ignore", AnnotationWarning)
        traced = [_trace(pattern, links, tokens, layers, notes) for pattern in (window, definitions)] if links else []
        kept = [
            link
            for link, lost, seen in zip(links, *(hops for _, hops in traced), strict=True)
            if lost is None and seen == 1 and len(link.name) > 3
        ]
        if not kept:
            return None
        link = max(kept, key=lambda link: link.query - link.keys[0])
        (needed,) = _trace(window, [link], tokens, _DEEPEST, notes)[1]
    layout = compile_layout(definitions, q_len=tokens, kv_len=tokens, annotations=notes)
    densities = compile_layout(window, q_len=tokens, kv_len=tokens, annotations=notes).density, layout.density
    result = SeeResult(
        file=path.name,
        tokens=tokens,
        layers=layers,
        num_links=len(links),
        plans=tuple(
            SeenPlan(
                name=name,
                pattern=repr(pattern),
                density=density,
                missed_directly=sum(not seen for seen in directly),
                missed=sum(needs is None for needs in hops),
            )
            for name, pattern, density, (directly, hops) in zip(
                names, (window, definitions), densities, traced, strict=True
            )
        ),
        example=str(link),
        example_hops=needed,
    )
    return Seen(result, text, offsets, notes, layout, link)


def _trace(
    pattern: Pattern, links: Sequence[TextLink], tokens: int, layers: int, notes: Annotations
) -> tuple[list[bool], list[int | None]]:
    """Which links the pattern sees itself, and the layers that each takes in a model with a short convolution."""
    directly = [link.reached(1) for link in trace_links(pattern, links, tokens, 1, notes)]
    plan = Plan(default=pattern)
    hops = links_through(plan, links, tokens, num_layers=layers, conv_width=CONV_WIDTH, annotations=notes)
    return directly, hops
