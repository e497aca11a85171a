"""The demo's page: what was found, the acts, and the three commands to go on with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from openwork.study.acts.scale import DENSE, MASK, SPARSE
from openwork.study.acts.sections import reach_section, scale_section, see_section
from openwork.study.acts.trial import recorded_section, recorded_study_record, trial_section
from openwork.study.environment import environment
from openwork.study.report import Code, Report, Section, Words, write_report

if TYPE_CHECKING:
    from openwork.study.demo import DemoResult

__all__ = ["COMMANDS", "demo_verdict", "write_demo"]

COMMANDS = (
    ("Your data", "openwork study --data DIRECTORY"),
    ("Your mask", "openwork check --mask FILE.npy"),
    ("Your model", "openwork study --data DIRECTORY --model FILE.py:FUNCTION"),
)
"""What to run next, by what it is for."""


def write_demo(result: DemoResult) -> None:
    """Writes the page, whole or not at all."""
    sections: list[Section] = []
    if result.seen is not None:
        sections.append(see_section(result.seen))
    if result.reach is not None:
        sections.append(reach_section(result.reach))
    if result.study is not None:
        sections += trial_section(result.study)
        sections += recorded_section(recorded_study_record())
    if result.scale is not None:
        sections.append(scale_section(result.scale))
    sections.append(
        Section(
            "Go on",
            "The same for your own data, your own mask, your own model.",
            tuple(Code(command, name) for name, command in COMMANDS),
        )
    )
    about = result.study.environment if result.study is not None else environment("cpu")
    write_report(
        result.page,
        Report(
            title="openwork demo: do all these tokens need to talk to each other?",
            lead="Four acts on Python's own standard library: see a pattern, know what it reaches, train under it, and "
            "measure what it saves.",
            verdict=demo_verdict(result),
            sections=tuple(sections),
            environment={name: str(value) for name, value in about.items() if value is not None},
            figures=result.to_dict(),
        ),
    )


def demo_verdict(result: DemoResult) -> tuple[Words, ...]:
    """What the acts found, and what did not pay."""
    words: list[Words] = []
    if result.seen is not None:
        window, definitions = result.seen.result.plans
        words.append(
            Words(
                f"of {result.seen.result.num_links} uses of names in `{result.seen.result.file}` a window does not see "
                f"{window.missed_directly} definitions; the window with definitions misses "
                f"{definitions.missed_directly}, and keeps {100 * definitions.density:.1f} % of all pairs where dense "
                "attention has 50 %.",
                "See",
            )
        )
    if result.reach is not None:
        told = "; ".join(f"{row.name} {row.accuracy:.2f} ({row.predicted:.2f})" for row in result.reach.rows)
        words.append(Words(f"lookups answered, in brackets what the mask predicted before training: {told}.", "Reach"))
    if result.study is not None:
        words += [Words(sentence, "Study") for sentence in _study(result)]
    if result.scale is not None:
        words += [Words(sentence, "Scale") for sentence in _scale(result)]
    return tuple(words)


def _study(result: DemoResult) -> list[str]:
    study = result.study
    assert study is not None
    dense, *others = study.rows
    gzip = study.held_out.gzip_bits_per_byte
    told = "; ".join(
        f"{row.name} made {row.steps:.0f} steps and stands at {row.bits_per_byte:.3f} bits per byte" for row in others
    )
    return [
        f"in the same {study.config.seconds or 0:.0f} seconds dense attention made {dense.steps:.0f} steps and stands "
        f"at {dense.bits_per_byte:.3f}; {told}; gzip needs {gzip:.3f}. One seed and so short a run say nothing about "
        "which learns better: the recorded study does."
    ]


def _scale(result: DemoResult) -> list[str]:
    scale = result.scale
    assert scale is not None
    told = ", ".join(
        f"{scale.speedup(n):.1f}x at {n:,} tokens (the pairs would allow {scale.row(SPARSE, n).theory_speedup:.1f}x)"
        for n in scale.lengths
    )
    longest = scale.lengths[-1]
    sentences = [
        f"one layer's forward and backward pass is faster than dense flash attention by {told}, and "
        f"{scale.speedup(longest, MASK):.1f}x faster than the same pattern as a mask at {longest:,}."
    ]
    slower = [n for n in scale.lengths if scale.speedup(n) <= 1]
    if slower:
        sentences.append(f"it did not pay at {', '.join(f'{n:,}' for n in slower)} tokens.")
    sparse, dense = scale.row(SPARSE, longest).extra_bytes, scale.row(DENSE, longest).extra_bytes
    if sparse is not None and dense is not None and sparse > 0.9 * dense:
        sentences.append(
            "memory did not pay: dense flash attention keeps no scores either, so there is nothing to shrink. Against "
            "a mask there is."
        )
    return sentences
