"""`openwork doctor`: what this installation can do."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["doctor"]


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Report versions, what is installed, and which backends run here and why not.

    Leaves with exit code 1 where something is broken, 0 otherwise: a warning is an untested version or a mismatch
    that may do harm.
    """
    from openwork.doctor import examine

    findings = examine()
    broken = [finding for finding in findings if finding.status == "broken"]
    if as_json:
        import json
        from dataclasses import asdict

        typer.echo(json.dumps({"ok": not broken, "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        width = max(len(finding.name) for finding in findings)
        topic = ""
        for finding in findings:
            if finding.topic != topic:
                topic = finding.topic
                typer.echo(f"\n{topic}" if finding is not findings[0] else topic)
            typer.echo(f"  {finding.status:7}  {finding.name:{width}}  {finding.detail}")
        warnings = sum(finding.status == "warning" for finding in findings)
        typer.echo(f"\n{len(broken)} broken, {warnings} warnings")
    if broken:
        raise typer.Exit(1)
