"""The demo's page: what was found, the acts, and the three commands to go on with."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from openwork.study.acts.scale import DENSE, MASK, SPARSE
from openwork.study.acts.sections import reach_section, scale_section, see_section
from openwork.study.acts.trial import recorded_section, recorded_study_record, recorded_verdict, trial_section
from openwork.study.environment import environment
from openwork.study.report import Code, Report, Section, Words, write_report

if TYPE_CHECKING:
    from openwork.study.demo import DemoResult

__all__ = ["COMMANDS", "commands", "demo_verdict", "write_demo"]

COMMANDS = (
    ("Your data", "openwork study --data DIRECTORY"),
    ("Your mask", "openwork check --mask FILE.npy"),
    ("Your model", "openwork study --data DIRECTORY --model FILE.py:FUNCTION"),
)
"""What to run next, by what it is for."""


def commands() -> tuple[tuple[str, str], ...]:
    """`COMMANDS` as they can be typed here: where `openwork` is on no path, by the Python that has it."""
    if shutil.which("openwork") is not None:
        return COMMANDS
    python = Path(sys.executable)
    if python.is_relative_to(Path.cwd()):
        python = python.relative_to(Path.cwd())
    return tuple((name, f"{python} -m {command}") for name, command in COMMANDS)


def write_demo(result: DemoResult) -> None:
    """Writes the page, whole or not at all."""
    recorded = recorded_study_record() if result.study is not None else None
    sections: list[Section] = []
    if result.seen is not None:
        sections.append(see_section(result.seen))
    if result.reach is not None:
        sections.append(reach_section(result.reach))
    if result.study is not None:
        sections.append(trial_section(result.study, recorded=recorded is not None))
        sections += recorded_section(recorded)
    if result.scale is not None:
        sections.append(scale_section(result.scale))
    sections.append(
        Section(
            "Go on",
            "The same for your own data, your own mask, your own model.",
            tuple(Code(command, name) for name, command in commands()),
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
            figures=result.to_dict() | {"recorded": recorded},
        ),
    )


def demo_verdict(result: DemoResult) -> tuple[Words, ...]:
    """What the acts found, what the recorded study judged, and what did not pay."""
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
        words += [Words(sentence, "Recorded study") for sentence in recorded_verdict(recorded_study_record())]
    if result.scale is not None:
        words += [Words(sentence, "Scale") for sentence in _scale(result)]
    return tuple(words)


def _study(result: DemoResult) -> list[str]:
    study = result.study
    assert study is not None
    dense, *others = study.rows
    gzip = study.held_out.gzip_bits_per_byte
    told = "; ".join(f"{row.name} made {row.steps:.0f} and stands at {row.bits_per_byte:.3f}" for row in others)
    return [
        f"in the same {study.config.seconds or 0:.0f} seconds dense attention made {dense.steps:.0f} steps and stands "
        f"at {dense.bits_per_byte:.3f} bits per byte; {told}; gzip needs {gzip:.3f}. One seed and so short a run say "
        "nothing about which learns better."
    ]


def _scale(result: DemoResult) -> list[str]:
    scale = result.scale
    assert scale is not None
    told = "; ".join(
        f"at {n:,} tokens {scale.row(SPARSE, n).seconds:.2f} s against {scale.row(DENSE, n).seconds:.2f} s, "
        f"{scale.speedup(n):.1f}x as fast (its pairs would allow {scale.row(SPARSE, n).theory_speedup:.1f}x)"
        for n in scale.lengths
    )
    longest = scale.lengths[-1]
    sentences = [
        f"one layer's forward and backward pass against dense flash attention: {told}. The same pattern as a mask "
        f"takes {scale.row(MASK, longest).seconds:.2f} s at {longest:,}."
    ]
    if scale.layer:
        sparse, dense, mask = (scale.layer_row(name) for name in (SPARSE, DENSE, MASK))
        sentences.append(
            f"a whole Hugging Face Llama layer through hf.sparsify, at {sparse.length:,} tokens: "
            f"{sparse.seconds:.2f} s against {dense.seconds:.2f} s dense and {mask.seconds:.2f} s with a mask; what is "
            f"not attention stays, so {sparse.theory_speedup:.1f}x is the most by FLOPs."
        )
    slower = [n for n in scale.lengths if scale.speedup(n) <= 1]
    if slower:
        sentences.append(f"it did not pay at {', '.join(f'{n:,}' for n in slower)} tokens: it was not faster.")
    needs, dense_needs = scale.row(SPARSE, longest).extra_bytes, scale.row(DENSE, longest).extra_bytes
    if needs is not None and dense_needs is not None and needs > 0.9 * dense_needs:
        sentences.append(
            "memory did not pay: dense flash attention keeps no scores either, so there is nothing to shrink. Against "
            "a mask there is."
        )
    return sentences
