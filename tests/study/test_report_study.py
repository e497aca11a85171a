"""A study's report: what it shows is what was measured, over the study's own text."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import openwork as ow
from openwork.check import reachability
from openwork.study import StudyResult, contender_from_text, run
from openwork.study.config import Contender
from openwork.study.details import details
from openwork.study.folder import StudyFolder
from openwork.study.prepare import load_data
from openwork.study.report import Figure, Section, Table, Words, html_of, study_report
from openwork.study.report.curves import plan_line, tokens_of
from openwork.study.trainer import StudyData

FACTS = "facts: Window(before=15) | Keys('definition') | Linked('use')"
SEQ_LEN = 256


@pytest.fixture(scope="module")
def studied(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyResult, StudyData]:
    """A study with a control, two seeds, a fixed mask and plans that differ by layer."""
    place = tmp_path_factory.mktemp("report")
    bands = [np.tri(SEQ_LEN, dtype=bool) & ~np.tri(SEQ_LEN, k=-width, dtype=bool) for width in (9, 5)]
    np.save(place / "mask.npy", np.stack(bands))
    by_layer = ow.Plan(default=ow.Window(before=7), layers={1: ow.PerHead(ow.Window(before=3), ow.Window(before=7))})
    contenders = (
        contender_from_text("window: Window(before=15)"),
        contender_from_text(FACTS),
        Contender(name="layers", plan=by_layer),
        Contender(name="mask", mask=place / "mask.npy"),
    )
    result = run(
        data=texts, out=place / "out", contenders=contenders, control=True, seeds=2, tokenizer="bytes", model="tiny",
        device="cpu", seq_len=SEQ_LEN, batch_size=1, steps=6, dense_steps=2, eval_tokens=1024, eval_every=2,
        isolate=False,
    )  # fmt: skip
    return result, load_data(result.config, StudyFolder(result.config.out))


def section(result: StudyResult, data: StudyData | None, title: str) -> Section:
    return next(section for section in study_report(result, data).sections if section.title == title)


def figures(part: Section) -> list[Figure]:
    return [found for found in part.parts if isinstance(found, Figure)]


def test_the_parts_stand_in_the_order_of_what_matters(studied: Any) -> None:
    report = study_report(*studied)
    assert [section.title for section in report.sections] == [
        "What each plan saved and cost",
        "Curves",
        "Time line",
        "Time, memory, quality",
        "What context is worth",
        "In practice",
        "What each plan lets through",
        "Reach",
        "Data",
        "Options",
    ]
    page = html_of(report)
    places = [page.index(f">{title}</h2>") for title in ("Verdict", *(s.title for s in report.sections), "Environment")]
    assert places == sorted(places)


def test_the_page_holds_the_record_and_what_it_draws(studied: Any) -> None:
    result, data = studied
    page = (result.config.out / "report.html").read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, re.DOTALL)
    assert found
    inside = json.loads(found[1])
    record = json.loads((result.config.out / "record.json").read_text())
    assert {name: inside[name] for name in record} == record
    assert set(inside) - set(record) == {"pictures", "reach"}
    assert StudyResult.from_dict(inside).rows == result.rows
    assert page == html_of(study_report(result, data))


def test_held_out_text_is_called_what_it_is(studied: Any) -> None:
    result, _ = studied
    count = len(result.data["held_out_files"])
    assert f" from {count} file" in html_of(study_report(result)) and result.data["split"] == "by file"
    part = {"split": "the last tenth", "held_out_files": ["book.txt bytes 9000-10000"], "training_files": 1}
    page = html_of(study_report(replace(result, data=result.data | part)))
    assert " tokens, from the last tenth of book.txt, on which no plan was trained; gzip" in page
    assert re.search(r"<td[^>]*>the last tenth of book.txt, [0-9,]+ bytes</td>", page)
    assert re.search(r"<td[^>]*>1 file, [0-9,]+ bytes</td>", page)
    assert f" from {count} file" not in page


def test_every_sentence_of_the_verdict_is_on_the_page_once(studied: Any) -> None:
    result, data = studied
    report = study_report(result, data)
    said = [w.lead + w.joint * bool(w.lead) + w.text for w in report.verdict]
    beside = [sentence for group in details(result) for sentence in group]
    assert said[:-1] == [sentence for sentence in result.verdict.split("\n") if sentence not in beside]
    shown = [w for section in report.sections for w in section.parts if isinstance(w, Words)]
    below = [w.lead + w.joint * bool(w.lead) + w.text for w in shown]
    assert beside and all(below.count(sentence) == 1 for sentence in beside)
    assert report.verdict[0].lead == "window" and report.verdict[1].lead == "facts"


def test_without_its_text_a_study_is_not_drawn_over_it(studied: Any) -> None:
    titles = {section.title for section in study_report(studied[0]).sections}
    assert "Curves" in titles and not {"Reach", "What each plan lets through"} & titles


def test_each_kind_of_mask_has_its_picture(studied: Any) -> None:
    result, data = studied
    pictures = figures(section(result, data, "What each plan lets through"))
    assert [picture.caption for picture in pictures] == [
        "window",
        "facts",
        "layers: layer 0, layer 1 head 1",
        "layers: layer 1 head 0",
        "mask: head 0",
        "mask: head 1",
        "control",
    ]
    known = study_report(result, data).figures["pictures"]
    n = known["tokens"]
    assert n == SEQ_LEN
    pairs = {plan["plan"]: plan["pairs"] for plan in known["plans"]}
    assert pairs["window"] == int((np.tri(n) - np.tri(n, k=-16)).sum())
    assert pairs["mask: head 1"] == int((np.tri(n) - np.tri(n, k=-5)).sum())
    assert pairs["facts"] > pairs["window"]
    assert f"{pairs['window']:,} of {n * (n + 1) // 2:,} causal pairs" in pictures[0].alt


def test_pictures_stand_over_real_lines_with_definitions_marked(studied: Any, texts: Path) -> None:
    result, data = studied
    part = section(result, data, "What each plan lets through")
    document = study_report(result, data).figures["pictures"]["document"]
    assert f"`{document}`" in part.lead and part.lead.endswith("Lines in bold: definition.")
    lines = (texts / document).read_text().splitlines()
    picture = figures(part)[0]
    written = re.findall(r'<text class="mono"[^>]*style="([^"]*)">(\d+) ([^<]*)</text>', picture.svg)
    assert written
    for style, number, text in written:
        plain = text.replace("&quot;", '"').replace("&#x27;", "'").rstrip("\u2026").strip()
        assert lines[int(number) - 1].strip().startswith(plain)
        assert ("bold" in style) == plain.startswith(("def ", "class "))


def test_reach_is_that_of_the_check(studied: Any) -> None:
    result, data = studied
    known = study_report(result, data).figures["reach"]
    assert known["layers"] == 2 and known["tokens"] == SEQ_LEN
    # ahead of each layer the convolution brings in three tokens; the wider head of the mask sees eight
    for name, step in (("window", 15 + 3), ("mask", 8 + 3)):
        near = [
            reachability(ow.Causal() & ow.Window(before=step * layers), SEQ_LEN, 1).coverage[0] for layers in (1, 2)
        ]
        assert known["plans"][name]["coverage"] == pytest.approx(near)
    assert "short convolution, under every plan alike, counts as a window of 3" in section(result, data, "Reach").lead
    assert known["plans"]["dense"]["coverage"] == pytest.approx([1.0, 1.0])


def test_seeds_are_a_band_from_the_lowest_to_the_highest(studied: Any) -> None:
    result, _ = studied
    line = plan_line(result, "window", tokens_of, 1, 0)
    per_token = result.training_bytes_per_token
    losses = np.array([record.losses for record in result.of("window")]) / np.log(2) / per_token
    assert [y for _, y in line.points] == pytest.approx(losses.mean(axis=0))
    assert [low for _, low, _ in line.band] == pytest.approx(losses.min(axis=0))
    assert [high for *_, high in line.band] == pytest.approx(losses.max(axis=0))
    assert [x for x, _ in line.points] == [SEQ_LEN * step for step in range(1, 7)]
    ends = [record.held_out_curve[-1][2] for record in result.of("window")]
    assert line.markers[-1] == pytest.approx((SEQ_LEN * 6, np.mean(ends), min(ends), max(ends)))


def test_the_ends_of_seeds_with_more_and_fewer_measurements_stand_together(studied: Any) -> None:
    result, _ = studied
    first, second = result.of("window")
    fewer = replace(second, held_out_curve=(second.held_out_curve[0], second.held_out_curve[-1]))
    records = tuple(fewer if record is second else record for record in result.records)
    line = plan_line(replace(result, records=records), "window", tokens_of, 1, 0)
    assert len(first.held_out_curve) == 3
    for marker, number in zip(line.markers, (0, -1), strict=True):
        heights = [record.held_out_curve[number][2] for record in (first, second)]
        x = SEQ_LEN * first.held_out_curve[number][0]
        assert marker == pytest.approx((x, np.mean(heights), min(heights), max(heights)))


def test_what_schedules_decided_is_on_the_time_line_and_in_a_table(studied: Any) -> None:
    curves = section(*studied, "Curves")
    over_time, over_tokens = figures(curves)
    (table,) = [part for part in section(*studied, "Time line").parts if isinstance(part, Table)]
    result = studied[0]
    decided = [(record, entry) for record in result.records for entry in record.timeline]
    assert [tuple(cell.text for cell in row[1:3]) for row in table.cells] == [
        (str(entry["step"]), entry["reason"]) for _, entry in decided
    ]
    (reason,) = {entry["reason"] for _, entry in decided if entry["step"] == 2}
    names = "window, facts, layers, mask, control"
    assert f"1: {names} (seed 0): {reason}" in over_tokens.note
    # over time each plan got there at its own second
    assert over_time.note.count(f"(seed 0): {reason}") == 5


def test_tables_say_what_the_rows_say(studied: Any) -> None:
    result, data = studied
    (table,) = [
        part for part in section(result, data, "What each plan saved and cost").parts if isinstance(part, Table)
    ]
    assert table.head[1:] == tuple(row.name for row in result.rows)
    plans = [cell.text for cell in table.cells[-1][1:]]
    assert plans == [row.pattern for row in result.rows]
    (practice,) = [part for part in section(result, data, "In practice").parts if isinstance(part, Table)]
    assert [cell.text for cell in practice.cells[0][1:]] == [f"{r.practice.hours_per_epoch:.3g}" for r in result.rows]


def test_uses_of_names_are_compared_by_where_their_definition_is(studied: Any) -> None:
    result, data = studied
    positions, uses = figures(section(result, data, "What context is worth"))
    assert "at most 3 keys back" in uses.note
    for row in result.rows:
        for name in ("name_inside", "after_outside"):
            loss = row.uses[name].bits_per_token
            assert loss is None or f">{loss:.2f} {row.name}</text>" in uses.svg
    assert uses.svg.count(" dense</text>") == sum(loss.num_tokens > 0 for loss in result.rows[0].uses.values())
    assert positions.alt.startswith("Held-out bits per token by tokens of context: dense ")
