"""The annotators that openwork brings, by name and by file."""

from __future__ import annotations

import re
from pathlib import PurePath

from openwork.annotate.base import TextAnnotator
from openwork.annotate.c import C, c_source
from openwork.annotate.chat import chat_turns
from openwork.annotate.html import html_headings
from openwork.annotate.logs import log_records
from openwork.annotate.manual import manual_headings
from openwork.annotate.markdown import markdown_headings
from openwork.annotate.python import Python, python_source
from openwork.annotate.rst import rst_headings
from openwork.annotate.sequences import fasta_records, fastq_records
from openwork.errors import AnnotationError

__all__ = ["annotator_for", "annotator_named"]

_ANNOTATORS = {
    annotator.name: annotator
    for annotator in (
        c_source,
        chat_turns,
        fasta_records,
        fastq_records,
        html_headings,
        log_records,
        manual_headings,
        markdown_headings,
        python_source,
        rst_headings,
    )
}
_SUFFIXES = {
    **dict.fromkeys((".md", ".markdown"), markdown_headings),
    **dict.fromkeys((".rst", ".rest"), rst_headings),
    **dict.fromkeys((".html", ".htm", ".xhtml"), html_headings),
    **dict.fromkeys((*(f".{section}" for section in range(1, 10)), ".man", ".mdoc"), manual_headings),
    **dict.fromkeys(Python().suffixes, python_source),
    **dict.fromkeys(C().suffixes, c_source),
    **dict.fromkeys((".fa", ".fasta", ".fas", ".fna", ".ffn", ".faa", ".frn"), fasta_records),
    **dict.fromkeys((".fq", ".fastq"), fastq_records),
    ".log": log_records,
    ".chatml": chat_turns,
}
_ROTATED = re.compile(r"(?:.+\.log|syslog|messages|dmesg)(?:[.-]\d+)?", re.IGNORECASE)
"""Names of logs, and what rotation makes of them: `dpkg.log.1` is no manual page."""


def annotator_named(name: str) -> TextAnnotator:
    """The annotator of that name.

    Raises:
        AnnotationError: There is none; the message lists those there are.

    Examples:
        >>> annotator_named("markdown")
        <annotator 'markdown', causal>
    """
    if name not in _ANNOTATORS:
        raise AnnotationError(f"there is no annotator {name!r}; there are {', '.join(sorted(_ANNOTATORS))}.")
    return _ANNOTATORS[name]


def annotator_for(path: str | PurePath) -> TextAnnotator:
    """The annotator for a file, by the ending of its name; `.gz` behind it says only that it is packed.

    Raises:
        AnnotationError: No annotator is known for that ending; the message lists the endings.

    Examples:
        >>> annotator_for("docs/README.md"), annotator_for("setup.py")
        (<annotator 'markdown', causal>, <annotator 'python', causal>)
        >>> annotator_for("dpkg.log.2.gz")
        <annotator 'log', causal>
    """
    name = PurePath(path).name
    if name.lower().endswith(".gz"):
        name = name[:-3]
    if _ROTATED.fullmatch(name):
        return log_records
    suffix = PurePath(name).suffix.lower()
    if suffix not in _SUFFIXES:
        raise AnnotationError(
            f"no annotator is known for {PurePath(path).name!r}; there are some for {', '.join(sorted(_SUFFIXES))}. "
            "Name one with annotator_named(name), or write a function (text, offsets) -> Annotations."
        )
    return _SUFFIXES[suffix]
