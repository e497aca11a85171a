"""Plans of openwork's own for the data that a study is given: what the zoo has for its kinds, and a plain window."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from openwork.study.config import Contender, contender_from_text
from openwork.study.corpus import Corpus
from openwork.study.kinds import NAMES, RECORDS

__all__ = ["data_in_words", "held_out_in_words", "proposals"]

_WIDEST = 255
_NARROWEST = 15
_SHARE = 0.1
"""A kind with this share of the bytes has a plan of its own."""
_ALONE = 0.9
"""A kind with this share is taken to be the only one."""
_MOST_KINDS = 3
_FAR_STEPS = 64
_FARTHEST = 16_383


def proposals(corpus: Corpus, seq_len: int) -> tuple[Contender, ...]:
    """A window, and a plan for each kind of text that makes a tenth of the bytes or more (three at most).

    Each reads what the annotators of that kind give. The window is a quarter of a sequence, 255 keys at most.

    Args:
        corpus: The data.
        seq_len: Tokens of a sequence.
    """
    window = max(_NARROWEST, min(_WIDEST, seq_len // 4 - 1))
    sizes = {kind: count["bytes"] for kind, count in corpus.kinds.items()}
    total = sum(sizes.values())
    chosen = [kind for kind in sizes if sizes[kind] >= _SHARE * total][:_MOST_KINDS]
    texts = {"window": f"Causal() & Window(before={window})"}
    for kind in chosen:
        name, pattern = _plan(kind, window, seq_len, alone=sizes[kind] >= _ALONE * total)
        texts.setdefault(name, pattern)
    return tuple(contender_from_text(f"{name}: {pattern}") for name, pattern in texts.items())


def _plan(kind: str, window: int, seq_len: int, *, alone: bool) -> tuple[str, str]:
    """Name and pattern of the plan for a kind; beside other kinds, whose tokens lack its facts, a window is in it."""
    if kind in ("python", "c"):
        return "source code", f"source_code(window={window})"
    if kind in ("markdown", "html", "rst", "manual"):
        return "headings", f"policy_documents(window={window})"
    if kind == "log":
        return "logs", f"logs(window={window})"
    if kind == "fasta":
        reach = max(window, min(_FARTHEST, seq_len - 1))
        step = max(1, min(_FAR_STEPS, reach // 16))
        if alone:
            return "dna", f"dna_causal(window={window}, reach={reach}, step={step})"
        far = f"Same('record') & Dilated(before={reach}, step={step})"
        return "dna", f"Causal() & (Window(before={window}) | {far})"
    if kind == "fastq":
        own = "Same('record')"
        return "reads", f"Causal() & {own}" if alone else f"Causal() & (Window(before={window}) | {own})"
    if kind in ("chat", "chatml"):
        return "turns", f"Causal() & (Window(before={window}) | First(keys=4) | Same('turn') | Keys('system'))"
    return "first keys", f"streaming_llm(sinks=4, window={window})"


def data_in_words(data: Mapping[str, Any], plans: tuple[Contender, ...] = ()) -> list[str]:
    """Lines that say what a study was given, and which plans it proposes.

    Args:
        data: `Corpus.to_dict()`, with or without what is known of near-duplicates.
        plans: Plans that are proposed; none where the user gave some.
    """
    if "kinds" not in data:
        return []  # a record of an earlier version
    found = [
        f"{NAMES.get(kind, kind)} ({count['files']:,} file{_s(count['files'])}, {_size(count['bytes'])})"
        for kind, count in data["kinds"].items()
    ]
    split = data["split"] if data["split"].startswith("by") else f"as {data['split']}"
    lines = [f"Data: {', '.join(found)}; {_size(data['held_out_bytes'])} held out, {split}."]
    if left_out := data["left_out"]:
        lines.append(f"Left out: {', '.join(f'{count} {reason}' for reason, count in left_out.items())}.")
    if (copies := data.get("near_duplicates")) is not None:
        lines.append(_copies_in_words(copies, data["held_out_documents"]))
    if plans:
        lines.append("Proposed for it (--pattern, --plan or --mask override):")
        lines += [f"  {plan.name}: {plan.plan.default!r}" for plan in plans if plan.plan is not None]
    return lines


def held_out_in_words(data: Mapping[str, Any]) -> str:
    """What the held-out text is, as words that follow `from`.

    Args:
        data: `Corpus.to_dict()`.

    Examples:
        >>> held_out_in_words({"split": "the last tenth", "held_out_files": ["book.txt bytes 900-1000"]})
        'the last tenth of book.txt'
    """
    names, split = data["held_out_files"], str(data.get("split", "by file"))
    if split == "by file":
        count = data.get("num_held_out_files", len(names))
        return f"{count:,} file{_s(count)}"
    if split not in ("by record", "the last tenth"):
        return split.replace("by record of", "whole records of")  # of some files of a directory: it names them
    name = re.sub(r" bytes \d+-\d+$", "", names[0])
    if split == "the last tenth":
        return f"{split} of {name}"
    count, kind = data["held_out_documents"], next(iter(data["kinds"]))
    if kind == "chat":
        return f"{count:,} conversation{_s(count)} of {name}"
    # a document of a sequence file is some neighbouring records
    return f"{count:,} run{_s(count)} of {RECORDS[kind]} of {name}"


def _copies_in_words(copies: Mapping[str, Any], held_out: int) -> str:
    common = (
        f"{copies['shared']:.0%} of the held-out pieces of {copies['shingle_bytes']} bytes are in the training text"
    )
    if not copies["documents"]:
        return f"Near-duplicates: none of {held_out:,} held-out document{_s(held_out)}; {common}."
    few = f"at least {copies['threshold']:.0%} of each is in the training text"
    return (
        f"Near-duplicates: {copies['documents']:,} of {held_out:,} held-out document{_s(held_out)}, "
        f"{copies['share']:.1%} of their bytes, such as {copies['names'][0]} ({few}); {common}."
    )


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def _size(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
