"""`openwork check`: what a pattern, a plan or a mask lets through; fit to stand in someone's CI."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openwork.errors import AnnotationError, DataError, PatternError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from openwork.check import CheckReport
    from openwork.layout import BlockLayout
    from openwork.patterns import Annotations, Pattern
    from openwork.plan import Plan

__all__ = ["check"]

FAILED = 1
SHORTEST = 4096
"""Tokens that a pattern is checked on where no number is given, unless it needs more to show itself."""
_MOST_TOKENS = 1 << 27
"""Tokens of packed documents: a label of a gigabyte."""
_PATIENCE_S = 1.0
"""Seconds without a progress bar."""


def check(
    pattern: Annotated[
        str | None, typer.Argument(help='A pattern, such as "Causal() & Window(before=255)", or a name of the zoo.')
    ] = None,
    plan: Annotated[Path | None, typer.Option(help="Check a plan instead: a file as Plan.to_json writes it.")] = None,
    mask: Annotated[
        Path | None, typer.Option(help="Check a boolean tensor instead: a .npy or .pt file, True = attend.")
    ] = None,
    length: Annotated[
        int | None, typer.Option(min=1, help="Tokens; with --text its first ones. [default: 4096, or more if needed]")
    ] = None,
    text: Annotated[Path | None, typer.Option(help="Check on this text file, annotated, and follow its links.")] = None,
    tokenizer: Annotated[str, typer.Option(help="`bytes`, or the path of a tokenizer.json.")] = "bytes",
    annotate: Annotated[
        list[str] | None, typer.Option(help="Annotator to use, may be repeated. [default: by the file's suffix]")
    ] = None,
    documents: Annotated[
        str | None,
        typer.Option(help="Token counts of packed documents, such as 300,500,200: no pair may join two of them."),
    ] = None,
    layers: Annotated[
        int | None, typer.Option(help="Layers of the model; needed for a plan whose layers differ. [default: 64]")
    ] = None,
    bidirectional: Annotated[
        bool, typer.Option("--bidirectional", help="Later keys are meant to be seen, as in an encoder.")
    ] = False,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            help="Also fail on: missed (links), unread (keys), unreached (pairs). Repeatable, or with commas."
        ),
    ] = None,
    most: Annotated[int, typer.Option(min=0, help="Missed links to print.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check what a pattern lets through: later keys, other documents, empty rows, what reaches what, which links.

    Exits with 1 on a query that sees a later key (unless --bidirectional), a pair across documents or a query that
    sees nothing, and on what --fail-on names; with 2 on bad input; else with 0.
    """
    wanted = tuple(name.strip() for names in fail_on or () for name in names.split(","))
    if "missed" in wanted and text is None:
        raise DataError("--fail-on missed needs a text whose links are followed: --text FILE.")
    if annotate and text is None:
        raise DataError("--annotate needs a text: --text FILE.")
    packed = None if documents is None else _packed(documents, length)
    with _Bar() as bar:
        report = _report(
            pattern, plan, mask, length, packed, text, tokenizer, annotate or [], layers, bidirectional, bar
        )
    if "missed" in wanted and report.links is None:
        assert text is not None
        raise DataError(f"--fail-on missed: no annotator is known for {text.name}; choose one with --annotate.")
    problems = report.problems(wanted)
    if as_json:
        import json

        typer.echo(json.dumps(report.to_dict(wanted)))
    else:
        for line in report.lines(most):
            typer.echo(line)
        typer.echo("")
        typer.echo(f"failed: {'; '.join(problems)}" if problems else "passed")
    if problems:
        raise typer.Exit(FAILED)


def _report(
    pattern: str | None,
    plan: Path | None,
    mask: Path | None,
    length: int | None,
    packed: Annotations | None,
    text: Path | None,
    tokenizer: str,
    annotators: list[str],
    layers: int | None,
    bidirectional: bool,
    bar: _Bar,
) -> CheckReport:
    from openwork.check import check_pattern
    from openwork.cli.subject import read_text, require_facts, text_annotator, token_offsets
    from openwork.layout import BlockLayout

    subject = _subject(pattern, plan, mask)
    options: dict[str, Any] = {
        "layers": layers,
        "bidirectional": bidirectional,
        "title": None if mask is None else mask.name,
        "progress": bar,
    }
    if isinstance(subject, BlockLayout):
        if length is not None:
            raise DataError("a mask has its own length: leave out --length.")
        length = subject.kv_len
    if text is None:
        length = _length(subject, length, packed)
        _require_length(packed, length, "the mask" if isinstance(subject, BlockLayout) else "--length")
        return check_pattern(subject, length, annotations=packed, **options)
    content = read_text(text)
    offsets = token_offsets(content, tokenizer)[:length]
    if not len(offsets):
        raise DataError(f"{text} has no tokens to check: it is empty.")
    if isinstance(subject, BlockLayout):
        if len(offsets) < subject.kv_len:
            raise DataError(f"{text} has {len(offsets):,} tokens, but the mask is for {subject.kv_len:,}.")
    elif not annotators:
        annotators = _own_annotator(subject)
    _require_length(packed, len(offsets), text.name)
    annotator = text_annotator(text, annotators)
    annotations = None if annotator is None else annotator(content, offsets)
    if packed is not None:
        annotations = packed if annotations is None else annotations.merged(packed)
    if not isinstance(subject, BlockLayout):
        require_facts(subject, annotations, text)
    return check_pattern(
        subject, text=content, offsets=offsets, annotator=annotator, annotations=annotations, **options
    )


def _subject(pattern: str | None, plan: Path | None, mask: Path | None) -> Pattern | Plan | BlockLayout:
    given = [name for name, value in (("a pattern", pattern), ("--plan", plan), ("--mask", mask)) if value is not None]
    if len(given) != 1:
        found = f"; got {' and '.join(given)}" if given else ""
        raise PatternError(f"check takes a pattern, --plan FILE or --mask FILE, and exactly one of them{found}.")
    if plan is not None:
        from openwork.plan import read_plan

        return read_plan(plan)
    if mask is not None:
        from openwork.layout import BlockLayout
        from openwork.study.masks import load_mask

        return BlockLayout.from_mask(load_mask(mask))
    from openwork.patterns import parse_pattern, zoo

    assert pattern is not None
    # a name of the zoo alone means the entry as it is published
    return parse_pattern(f"{pattern}()" if pattern in zoo.__all__ else pattern)


def _packed(counts: str, length: int | None) -> Annotations:
    """The label `document` of packed documents."""
    from openwork.annotate import documents

    try:
        sizes = [int(count) for count in counts.split(",")]
    except ValueError:
        raise DataError(f"--documents takes token counts such as 300,500,200; got {counts!r}.") from None
    total = sum(sizes)
    if min(sizes) >= 0 and not 0 < total <= _MOST_TOKENS:
        raise DataError(f"--documents must add up to 1 to {_MOST_TOKENS:,} tokens; {counts!r} has {total:,}.")
    if min(sizes) >= 0 and length is not None and length != total:
        raise DataError(f"--documents has {total:,} tokens and --length is {length:,}; leave out --length.")
    return documents(sizes)


def _require_length(packed: Annotations | None, length: int, name: str) -> None:
    if packed is not None and packed.length != length:
        raise DataError(
            f"--documents has {packed.length:,} tokens, but {name} has {length:,}; the counts must add up to them."
        )


def _length(subject: Pattern | Plan | BlockLayout, length: int | None, packed: Annotations | None) -> int:
    """Tokens to check on where there is no text."""
    from openwork.layout import BlockLayout
    from openwork.layout.show import toy_length
    from openwork.plan import Plan

    if isinstance(subject, BlockLayout):
        return subject.kv_len
    known = () if packed is None else packed.names
    for name, kind in subject.needs.items():
        if name not in known:
            way = "with packed documents: --documents 300,500,200" if name == "document" else "on a text: --text FILE"
            raise AnnotationError(
                f"{subject!r} reads the {kind} {name!r}, which bare positions do not carry. Check it {way}."
            )
    if packed is not None:
        return packed.length
    pattern = subject.default if isinstance(subject, Plan) else subject
    return length or max(SHORTEST, toy_length(pattern.head(0)))


def _own_annotator(subject: Pattern | Plan) -> list[str]:
    """The annotator that a plan names."""
    name = getattr(subject, "annotator", None)
    return [] if name is None else [name]


class _Bar:
    """A progress bar on stderr, once something takes long; nothing where stderr is no terminal."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._started = 0.0

    def __enter__(self) -> _Bar:
        import time

        self._started = time.monotonic()
        return self

    def __call__(self, share: float) -> None:
        """Shows the share of the work that is done."""
        import time

        if self._progress is None:
            if time.monotonic() - self._started < _PATIENCE_S:
                return
            from rich.console import Console
            from rich.progress import Progress

            console = Console(stderr=True)
            self._progress = Progress(console=console, transient=True, disable=not console.is_terminal)
            self._task = self._progress.add_task("checking", total=1.0)
            self._progress.start()
        assert self._task is not None
        self._progress.update(self._task, completed=share)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._progress is not None:
            self._progress.stop()
