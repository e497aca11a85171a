"""`openwork show`: a pattern or a mask, drawn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openwork.errors import DataError, PatternError

if TYPE_CHECKING:
    from openwork.cli.subject import Subject

__all__ = ["show"]

MOST_TOY = 64


def show(
    pattern: Annotated[
        str | None,
        typer.Argument(help='A pattern, such as "Causal() & Window(before=3)", a name of the zoo, or a plan\'s .json.'),
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(help="Show the stack of layers of a plan instead, as Plan.to_json writes it.")
    ] = None,
    layers: Annotated[
        int | None, typer.Option(min=1, help="Layers of the model, for a plan. [default: as the plan needs]")
    ] = None,
    part: Annotated[
        str | None, typer.Option(help="Of a plan that has parts: encoder, decoder, or decode (after the prompt).")
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="Show a boolean tensor instead: a .npy or .pt file, True = attend.")
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(min=1, help="Positions to show; with --text its first tokens. [default: as it needs]"),
    ] = None,
    kv_length: Annotated[
        int | None, typer.Option(min=1, help="Keys, where there are more than queries: the last query is the last key.")
    ] = None,
    text: Annotated[Path | None, typer.Option(help="Show the pattern over this text file, annotated.")] = None,
    tokenizer: Annotated[str, typer.Option(help="`bytes`, or the path of a tokenizer.json.")] = "bytes",
    annotate: Annotated[
        list[str] | None, typer.Option(help="Annotator to use, may be repeated. [default: by the file's suffix]")
    ] = None,
    toy: Annotated[
        int | None, typer.Option(min=1, max=MOST_TOY, help="Print the truth table of this many positions.")
    ] = None,
    head: Annotated[int, typer.Option(min=0, help="Query head, where heads differ.")] = 0,
    sequence: Annotated[int, typer.Option(min=0, help="Sequence of the batch, where sequences differ.")] = 0,
    png: Annotated[Path | None, typer.Option(help="Write a picture instead: a .png, .svg or .pdf file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Draw which keys each query sees, on bare positions or over a text; of a plan, layer by layer.

    Rows are queries, columns are keys; # is an allowed pair.
    """
    from openwork.cli.render import drawing, summary, truth_table

    if png is not None:
        from openwork.cli.picture import check_picture_path

        check_picture_path(png)
    if plan is None and pattern is not None and pattern.endswith(".json"):
        plan, pattern = Path(pattern), None
    if plan is not None:
        given = {"a pattern": pattern, "--mask": mask, "--kv-length": kv_length, "--toy": toy}
        given |= {"--head": head or None, "--sequence": sequence or None}
        _show_plan(plan, part, layers, length, text, tokenizer, annotate or [], png, as_json, given)
        return
    for option, value in (("--layers", layers), ("--part", part)):
        if value is not None:
            raise DataError(f"{option} is for a plan: --plan FILE.")
    subject = _subject(pattern, mask, length, kv_length, text, tokenizer, annotate or [], toy)
    _check_index("--head", head, subject.layout.heads, "heads")
    _check_index("--sequence", sequence, subject.layout.batch, "sequences")
    if png is not None:
        from openwork.cli.picture import write_picture

        write_picture(subject, png, sequence=sequence, head=head)
    if as_json:
        import json

        typer.echo(json.dumps(_facts(subject, sequence, head, toy is not None, png)))
        return
    for line in summary(subject, sequence=sequence, head=head):
        typer.echo(line)
    typer.echo("")
    if png is not None:
        typer.echo(f"written to {png}")
    elif toy is not None:
        typer.echo("\n".join(truth_table(subject.layout.plane(sequence, head).to_dense())))
    else:
        import shutil

        columns = shutil.get_terminal_size((100, 24)).columns
        typer.echo("\n".join(drawing(subject, sequence=sequence, head=head, columns=columns)))


def _show_plan(
    path: Path,
    part: str | None,
    layers: int | None,
    length: int | None,
    text: Path | None,
    tokenizer: str,
    annotators: list[str],
    png: Path | None,
    as_json: bool,
    given: dict[str, Any],
) -> None:
    from openwork.cli.stack import Stack, num_layers_of, stack_facts, stack_text, write_stack_picture
    from openwork.cli.subject import text_subject, toy_subject
    from openwork.layout.show import toy_length
    from openwork.patterns import Pattern, PerHead
    from openwork.plan import read_plan

    if surplus := [name for name, value in given.items() if value is not None]:
        raise DataError(f"a plan is shown layer by layer: leave out {', '.join(surplus)}.")
    if annotators and text is None:
        raise DataError("--annotate needs a text: --text FILE.")
    plan = read_plan(path)
    if part is not None:
        plan = plan.part(part)
    elif plan.encoder is not None or plan.decoder is not None:
        raise DataError(f"{path} has a plan with parts for encoder and decoder: say --part encoder, decoder or decode.")
    named = list(annotators) or ([plan.annotator] if plan.annotator is not None and text is not None else [])
    patterns = [
        p
        for pattern in plan.part("decoder").patterns
        for p in (pattern.patterns if isinstance(pattern, PerHead) else [pattern])
    ]
    positions = length or max(map(toy_length, patterns))

    def subject_of(pattern: Pattern) -> Subject:
        if text is None:
            return toy_subject(pattern, positions, positions)
        return text_subject(pattern, text, tokenizer=tokenizer, annotators=named, length=length)

    stack = Stack.of(plan, num_layers_of(plan, layers), subject_of)
    if png is not None:
        write_stack_picture(stack, png)
    if as_json:
        import json

        typer.echo(json.dumps(stack_facts(stack) | ({} if png is None else {"picture": str(png)})))
        return
    import shutil

    typer.echo("\n".join(stack_text(stack, shutil.get_terminal_size((100, 24)).columns)))
    if png is not None:
        typer.echo(f"\nwritten to {png}")


def _subject(
    pattern: str | None,
    mask: Path | None,
    length: int | None,
    kv_length: int | None,
    text: Path | None,
    tokenizer: str,
    annotators: list[str],
    toy: int | None,
) -> Subject:
    from openwork.cli.subject import mask_subject, text_subject, toy_subject
    from openwork.layout.show import toy_length
    from openwork.patterns import parse_pattern, zoo

    if (pattern is None) == (mask is None):
        raise PatternError("show takes a pattern, --plan FILE or --mask FILE, and exactly one of the three.")
    chosen = {"--text": text, "--length": length, "--kv-length": kv_length, "--toy": toy}
    given = [name for name, value in chosen.items() if value is not None]
    if mask is not None:
        if given:
            raise DataError(f"a mask has its own lengths: leave out {', '.join(given)}.")
        return mask_subject(mask)
    assert pattern is not None
    # a name of the zoo alone means the entry as it is published
    parsed = parse_pattern(f"{pattern}()" if pattern in zoo.__all__ else pattern)
    if text is not None:
        if toy is not None or kv_length is not None:
            raise DataError(f"--text is shown over its own tokens: leave out {', '.join(given[1:])}.")
        return text_subject(parsed, text, tokenizer=tokenizer, annotators=annotators, length=length)
    if annotators:
        raise DataError("--annotate needs a text: --text FILE.")
    if toy is not None and length is not None:
        raise DataError("--toy says how many positions to show, and so does --length: leave one of them out.")
    q_len = toy or length or toy_length(parsed.head(0))
    if kv_length is not None and kv_length < q_len:
        raise DataError(f"--kv-length {kv_length} is less than the {q_len} queries; give fewer queries with --length.")
    return toy_subject(parsed, q_len, kv_length or q_len)


def _check_index(option: str, index: int, count: int, what: str) -> None:
    # one that is shared serves every index
    if count > 1 and index >= count:
        raise DataError(f"{option} {index} does not exist: there are {count} {what}, counted from 0.")


def _facts(subject: Subject, sequence: int, head: int, with_table: bool, png: Path | None) -> dict[str, Any]:
    layout = subject.layout
    plane = layout.plane(sequence, head)
    facts: dict[str, Any] = {
        "pattern": None if subject.pattern is None else repr(subject.pattern),
        "title": subject.title,
        "q_len": layout.q_len,
        "kv_len": layout.kv_len,
        "heads": layout.heads,
        "sequences": layout.batch,
        "head": head,
        "sequence": sequence,
        "allowed_pairs": plane.allowed_pairs,
        "possible_pairs": plane.possible_pairs,
        "density": plane.allowed_pairs / max(1, plane.possible_pairs),
        "executed_pairs": plane.executed_pairs,
        "block_size": list(layout.block_size),
        "empty_rows": int((plane.row_counts() == 0).sum()),
    }
    if subject.annotations is not None:
        notes = subject.annotations
        facts["annotations"] = {
            **{name: {"kind": "flag", "tokens": int(values.sum())} for name, values in notes.flags.items()},
            **{name: {"kind": "label", "tokens": int((values >= 0).sum())} for name, values in notes.labels.items()},
            **{name: {"kind": "links", "links": len(rows)} for name, rows in notes.links.items()},
        }
    if with_table:
        facts["truth_table"] = plane.to_dense().astype(int).tolist()
    if png is not None:
        facts["picture"] = str(png)
    return facts
