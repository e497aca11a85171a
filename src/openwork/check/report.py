"""What a check found, as one value that prints itself."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from openwork.check.findings import Finding, LayerFacts
from openwork.check.links import TextLink
from openwork.check.reach import Reach
from openwork.errors import ArgumentError

__all__ = ["FAIL_ON", "CheckReport", "FutureKnowledge"]

FAIL_ON = ("missed", "unread", "unreached")
"""What a check fails on only where it is asked to."""
_MOST_LINKS = 10


@dataclass(frozen=True)
class FutureKnowledge:
    """An annotator that a causal pattern should not read.

    Attributes:
        annotator: Its name.
        declared: Whether it says itself that it is not causal.
        token: Tokens that had been read where its facts turned out to need later ones; `None` where no cut that was
            tried shows it.
        line: Line of the last of them, from 1.
        difference: What the facts are by the text so far, and by the whole text.
    """

    annotator: str
    declared: bool
    token: int | None = None
    line: int | None = None
    difference: str = ""

    def __str__(self) -> str:
        if self.token is None:
            return f"annotator {self.annotator!r} says that it is not causal: its facts may name later tokens"
        return (
            f"annotator {self.annotator!r} knows the future: cut after token {self.token} (line {self.line}), "
            f"{self.difference.rstrip('.')}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return dict(vars(self))


@dataclass(frozen=True, repr=False)
class CheckReport:
    """What a pattern, plan or mask lets through on so many tokens. `print` it, or ask.

    Attributes:
        title: The pattern, the plan or the mask.
        length: Tokens.
        num_layers: Layers that were asked for; of a single pattern the reach is followed further.
        facts: Density and findings, for each distinct pattern.
        reach: What reaches what.
        bidirectional: Whether queries may see later keys.
        documents: Whether the annotations tell documents apart.
        future: The annotator that knows the future, if it does.
        links: The links of the text with the layers that each needs; `None` where there is no text.
        notes: What else is worth knowing.
    """

    title: str
    length: int
    num_layers: int
    facts: tuple[LayerFacts, ...]
    reach: Reach
    bidirectional: bool = False
    documents: bool = False
    future: FutureKnowledge | None = None
    links: tuple[TextLink, ...] | None = None
    notes: tuple[str, ...] = ()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Everything that was found in single layers, whether it is allowed or not."""
        return tuple(finding for facts in self.facts for finding in facts.findings)

    @property
    def missed(self) -> tuple[TextLink, ...]:
        """Links of the text that are not reached in `num_layers` layers."""
        return tuple(link for link in self.links or () if not link.reached(self.num_layers))

    @property
    def seen_directly(self) -> int:
        """Links of the text that one layer is enough for."""
        return sum(link.reached(1) for link in self.links or ())

    def problems(self, fail_on: Collection[str] = ()) -> tuple[str, ...]:
        """Why the check fails, each in a few words; empty where it does not.

        A future leak fails it, by pairs or through an annotator (unless `bidirectional`), a pair across documents,
        and an empty row.

        Args:
            fail_on: What else fails it: `"missed"` (a link of the text is not reached), `"unread"` (a key that no
                query reads), `"unreached"` (a pair that is not connected after all layers).

        Raises:
            ArgumentError: A name in `fail_on` is none of the three.
        """
        for name in fail_on:
            if name not in FAIL_ON:
                raise ArgumentError(f"there is no {name!r} to fail on; there are {', '.join(FAIL_ON)}.")
        kinds = {"across", "empty"} | (set() if self.bidirectional else {"future"}) | ({"unread"} & set(fail_on))
        problems = [finding.words for finding in self.findings if finding.kind in kinds]
        if self.future is not None and not self.bidirectional:
            problems.append(str(self.future))
        if "missed" in fail_on and self.missed:
            problems.append(f"{_count(len(self.missed), 'link')} not reached in {_count(self.num_layers, 'layer')}")
        if "unreached" in fail_on and self.reach.after(self.num_layers) < 1:
            problems.append(f"not every pair is connected in {_count(self.num_layers, 'layer')}")
        return tuple(problems)

    @property
    def ok(self) -> bool:
        """Whether there is no leak, no pair across documents and no empty row."""
        return not self.problems()

    def to_dict(self, fail_on: Collection[str] = ()) -> dict[str, Any]:
        """Plain values, for JSON; `fail_on` as in `problems`."""
        problems = self.problems(fail_on)
        return {
            "title": self.title,
            "length": self.length,
            "num_layers": self.num_layers,
            "bidirectional": self.bidirectional,
            "documents": self.documents,
            "ok": not problems,
            "problems": list(problems),
            "layers": [facts.to_dict() for facts in self.facts],
            "reach": self.reach.to_dict(),
            "future_knowledge": None if self.future is None else self.future.to_dict(),
            "links": None if self.links is None else [link.to_dict() for link in self.links],
            "missed": None if self.links is None else [link.to_dict() for link in self.missed],
            "notes": list(self.notes),
        }

    def __repr__(self) -> str:
        return "\n".join(self.lines())

    def lines(self, most_links: int = _MOST_LINKS) -> Iterator[str]:
        """The report line by line, with so many missed links."""
        yield self.title
        yield f"{_count(self.length, 'token')}, {_count(self.num_layers, 'layer')}"
        for facts in self.facts:
            yield from self._layer_lines(facts)
        yield from self._future_lines()
        yield from self._reach_lines()
        yield from self._link_lines(most_links)
        yield from (f"note: {note}" for note in self.notes)

    def _layer_lines(self, facts: LayerFacts) -> Iterator[str]:
        if len(self.facts) > 1:
            yield ""
            yield f"layers {_ranges(facts.layers)}: {facts.pattern}"
        of_causal = "" if facts.causal_density is None else f", {facts.causal_density:.3g} of causal"
        yield f"  density {facts.density:.3g}{of_causal}"
        clean = {
            "future": "no query sees a later key",
            "across": "no pair across documents"
            if self.documents
            else "no label `document`: documents are not told apart",
            "empty": "every query sees a key",
            "unread": "every key is read",
        }
        for kind, words in clean.items():
            found = [finding for finding in facts.findings if finding.kind == kind]
            if not found:
                yield f"  {'-   ' if kind == 'across' and not self.documents else 'ok  '}  {words}"
            allowed = kind == "unread" or (kind == "future" and self.bidirectional)
            for finding in found:
                heads = f" in heads {_ranges(finding.heads)}" if finding.heads else ""
                yield f"  {'note' if allowed else 'FAIL'}  {finding.words}{heads}"
                if not (kind == "future" and self.bidirectional):
                    more = ", ..." if finding.count > len(finding.examples) else ""
                    yield f"        {', '.join(map(str, finding.examples))}{more}"

    def _future_lines(self) -> Iterator[str]:
        if self.future is not None:
            yield f"  {'note' if self.bidirectional else 'FAIL'}  {self.future}"

    def _reach_lines(self) -> Iterator[str]:
        reach = self.reach
        pairs = "pairs with k <= q" if reach.causal else "all pairs"
        yield ""
        shown = sorted({*(n for n in (1, 2, 3, 4, 8, 16, 32, 64) if n <= len(reach.coverage)), self.num_layers})
        last = reach.coverage.index(reach.coverage[-1]) + 1
        shown = [n for n in shown if n <= last or n == self.num_layers]
        yield f"share of {pairs} that is connected after so many layers:"
        yield "  " + ", ".join(f"{n}: {reach.after(n):.3f}" for n in shown)
        if reach.hops is not None:
            yield f"everything is connected after {_count(reach.hops, 'layer')}"
        elif reach.settled:
            yield "not everything is ever connected: more layers add nothing"
        else:
            yield f"not everything is connected after {_count(len(reach.coverage), 'layer')}"

    def _link_lines(self, most: int) -> Iterator[str]:
        if self.links is None:
            return
        yield ""
        missed = self.missed
        if not self.links:
            yield "no links were found in the text"
            return
        yield (
            f"{_count(len(self.links), 'link')} in the text: {self.seen_directly:,} seen directly, "
            f"{len(self.links) - len(missed):,} reached in {_count(self.num_layers, 'layer')}, {len(missed):,} missed"
        )
        within = _count(self.num_layers, "layer")
        for link in missed[:most]:
            needs = "" if link.hops is None else f" ({link.hops} needed)"
            yield f"  {link}: not reached in {within}{needs}"
        if len(missed) > most:
            yield f"  and {len(missed) - most:,} more"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _ranges(numbers: tuple[int, ...]) -> str:
    """Ascending numbers in words: `0-3, 7`."""
    pieces: list[list[int]] = []
    for number in numbers:
        if pieces and number == pieces[-1][-1] + 1:
            pieces[-1][1:] = [number]
        else:
            pieces.append([number])
    return ", ".join("-".join(map(str, piece)) for piece in pieces)
