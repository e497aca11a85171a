"""Reports: what is shown is escaped, unique, the same each time, and right in every light."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import openwork as ow
from openwork.errors import StudyError
from openwork.study.report import (
    Bar,
    Cell,
    Code,
    Figure,
    Key,
    Line,
    Point,
    Report,
    Section,
    Table,
    TextLine,
    Words,
    bar_figure,
    html_of,
    line_figure,
    pattern_figure,
    point_figure,
    text_lines,
    write_report,
)
from openwork.study.report.palette import DARK, LIGHT, PRINT, SENTINELS, series

VOID = {"meta", "link", "br"}


class Checker(HTMLParser):
    """Fails where an element is not closed, or closed twice."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.starts: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.starts.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.starts.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, (tag, self.open[-5:], self.getpos())


def checked(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert not checker.open and page.startswith("<!doctype html>")
    assert len(set(checker.ids)) == len(checker.ids)
    return checker


def lines_chart(**options: Any) -> Figure:
    rows = [Line("dense", ((0, 3.0), (10, 2.0)), ((0, 2.9, 3.1), (10, 1.9, 2.1)), ((10, 2.1, 2.0, 2.2),), 0)]
    rows += [Line("window", ((0, 3.2), (10, 2.4)), style=1)]
    given: dict[str, Any] = {"caption": "Loss", "alt": "It falls.", "x_label": "seconds", "y_label": "bits"}
    return line_figure(rows, **(given | options))


def picture(**options: Any) -> Figure:
    plane = ow.compile_layout(ow.Causal() & ow.Window(before=3), q_len=16, kv_len=16).plane()
    return pattern_figure(plane, **({"caption": "Window", "alt": "A band."} | options))


def report(**changes: Any) -> Report:
    bars = [Bar("predicted", (1.0, 0.5), style=1), Bar("measured", (0.9, None), ranges=((0.8, 1.0), None), style=2)]
    figures = (
        lines_chart(),
        bar_figure(["dense", "window"], bars, caption="Accuracy", alt="Both find it.", x_label="share", x_high=1),
        point_figure([Point("dense", 9, 2, (1.9, 2.2))], caption="P", alt="One.", x_label="ms", y_label="bits"),
        picture(lines=[TextLine(0, "1 def f():", True), TextLine(8, "2 x < y & z")]),
    )
    table = Table(("", "dense"), ((Cell("speed", "in `ms`"), "12"), ("plan", Cell("Causal()", code=True))), "Figures")
    sections = (
        Section("Curves & more", "See `x`.", figures),
        Section("Table", "", (table, Code("def f():\n    pass\n", "A use", (1,), first=40), Words("Why.", soft=True))),
        Section("Options", "", (Words("w"),), folded=True),
    )
    whole = Report("A title", (Words("it paid", "window"), Words("so")), sections, {"torch": "2"}, {"a": [1, 2.5]})
    return replace(whole, **changes)


def test_a_page_is_well_formed_and_every_figure_says_what_it_shows() -> None:
    checker = checked(html_of(report()))
    images = [attrs for tag, attrs in checker.starts if tag == "svg" and attrs.get("role") == "img"]
    assert [attrs["aria-label"] for attrs in images] == ["It falls.", "Both find it.", "One.", "A band."]
    hidden = [attrs for tag, attrs in checker.starts if tag == "svg" and attrs.get("role") != "img"]
    assert hidden and all(attrs.get("aria-hidden") == "true" for attrs in hidden)
    tags = [tag for tag, _ in checker.starts]
    assert tags.count("figure") == 5 and tags.count("figcaption") == 5 and tags.count("main") == 1
    assert [a["scope"] for t, a in checker.starts if t == "th" and "scope" in a] == ["col", "row", "row", "row"]


def test_the_checker_can_fail() -> None:
    with pytest.raises(AssertionError):
        checked("<!doctype html><p><b></p></b>")
    with pytest.raises(AssertionError):
        checked('<!doctype html><p id="a"></p><p id="a"></p>')


def test_a_page_asks_the_network_for_nothing() -> None:
    page = html_of(report())
    assert "http" not in page and "@import" not in page and "@font-face" not in page
    assert all(address.startswith(("#", "data:")) for address in re.findall(r'(?:src|href)="([^"]*)"', page))
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))
    assert len(re.findall(r"<script", page)) == 1 and '<script type="application/json"' in page


def test_what_a_picture_refers_to_is_on_the_page() -> None:
    page = html_of(report())
    ids = set(checked(page).ids)
    targets = set(re.findall(r'href="#([^"]+)"', page)) | set(re.findall(r"url\(#([^)]+)\)", page))
    assert targets and targets <= ids


def test_the_same_report_is_the_same_bytes() -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from test_report_values import *; "
        "print(hashlib.sha256(html_of(report()).encode()).hexdigest())"
    )
    command = [sys.executable, "-c", script, str(Path(__file__).parent)]
    digests = {subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)}
    assert {digest.strip() for digest in digests} == {hashlib.sha256(html_of(report()).encode()).hexdigest()}


def test_colours_are_the_pages_own() -> None:
    page = html_of(report())
    pictures = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    assert not re.findall(r"#[0-9a-fA-F]{6}\b", pictures)
    used = set(re.findall(r"var\(--(\w+)\)", page))
    assert used <= set(LIGHT) and set(LIGHT) == set(DARK) == set(PRINT) == set(SENTINELS)
    assert "prefers-color-scheme:dark" in page and "@media print" in page


def channels(colour: str) -> Any:
    value = np.array([int(colour[n : n + 2], 16) for n in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    light = sorted(float(channels(c) @ [0.2126, 0.7152, 0.0722]) for c in (one, other))
    return (light[1] + 0.05) / (light[0] + 0.05)


@pytest.mark.parametrize("mode", [LIGHT, DARK, PRINT], ids=["light", "dark", "print"])
def test_graphics_stand_out_by_3_and_text_by_4_5(mode: dict[str, str]) -> None:
    for name in (name for name in mode if re.fullmatch(r"c\d", name)):
        assert contrast(mode[name], mode["paper"]) >= 3, name
    for name in ("ink", "soft", "c1", "c2"):
        assert contrast(mode[name], mode["paper"]) >= (4.5 if name != "c2" else 3.8), name
    assert contrast(mode["soft"], mode["panel"]) >= 4.5


# linear-light RGB as someone without one kind of cone sees it: Machado, Oliveira and Fernandes 2009, severity 1
CONES = {
    "all": np.eye(3),
    "protan": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deutan": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritan": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


def lab(linear: Any) -> Any:
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ np.clip(
        linear, 0, 1
    )
    scaled = xyz / [0.9505, 1.0, 1.089]
    f = np.where(scaled > 0.008856, np.cbrt(scaled), 7.787 * scaled + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("mode", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("eye", CONES)
def test_the_first_five_series_differ_for_every_kind_of_eye(mode: dict[str, str], eye: str) -> None:
    seen = {name: lab(CONES[eye] @ channels(mode[name])) for name in ("c0", "c1", "c2", "c3", "c4")}
    for one, other in combinations(seen, 2):
        # two patches side by side differ from about 2; 10 is plain to see
        assert np.linalg.norm(seen[one] - seen[other]) > 10, (one, other)


def test_series_differ_without_colour() -> None:
    assert len({(series(n)[1], series(n)[2]) for n in range(30)}) == 30
    assert len({series(n) for n in range(210)}) == 210


def test_text_is_escaped_wherever_it_comes_from() -> None:
    evil = '</script><b onload="x">`&'
    parts = (
        Words(evil, evil),
        Code(evil, evil, first=1),
        Table((evil,), ((Cell(evil, evil),),), evil),
        lines_chart(caption=evil, alt=evil, note=evil, x_label=evil, y_label=evil, levels=[(evil, 2.0)]),
        picture(caption=evil, alt=evil, lines=[TextLine(0, evil)], keys={evil: np.ones(16, bool)}),
        bar_figure([evil], [Bar(evil, (1,), (evil,))], caption=evil, alt=evil, x_label=evil),
    )
    page = html_of(Report(evil, (Words(evil, evil),), (Section(evil, evil, parts),), {evil: evil}, {evil: evil}))
    checker = checked(page)
    assert "b" not in {tag for tag, attrs in checker.starts if "onload" in attrs}
    assert page.count("</script>") == 1
    figures = re.search(r'id="figures">(.*?)</script>', page, re.DOTALL)
    assert figures and json.loads(figures[1]) == {evil: evil}


def test_sections_of_one_name_have_addresses_of_their_own() -> None:
    same = tuple(Section(title, "", (Words("w"),)) for title in ("Reach", "Reach", "Environment", "?"))
    page = html_of(report(sections=same))
    assert {"reach", "reach-2", "environment", "environment-2", "section"} <= set(checked(page).ids)


def test_a_long_name_is_written_in_lines() -> None:
    name = "Causal() & (Window(before=127, after=0) | Keys(name='definition') | Linked(name='use'))"
    chart = bar_figure([name], [Bar("x", (1.0,))], caption="c", alt="a", x_label="s")
    written = [text for text in re.findall(r">([^<]*)</text>", chart.svg) if "before" in text or "Linked" in text]
    assert len(written) == 2 and max(map(len, written)) <= 46


def test_backticks_make_code_and_a_lone_one_stays() -> None:
    page = html_of(report(lead="run `openwork <demo>` twice, ` ends"))
    assert "run <code>openwork &lt;demo&gt;</code> twice, ` ends" in page


def test_figures_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="Out of range float values"):
        html_of(report(figures={"a": float("nan")}))


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", report())
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == html_of(report())
    with pytest.raises(StudyError, match=r"cannot write .*report.html"):
        write_report(tmp_path / "report.html" / "report.html", report())
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_steep_start_does_not_flatten_the_rest_and_a_far_level_is_only_named() -> None:
    steep = [Line("a", ((0, 50.0), (1, 2.2), (2, 2.0)))]
    common: dict[str, Any] = {"caption": "c", "alt": "a", "x_label": "s", "y_label": "bits"}
    near = line_figure(steep, y_high=2.2, levels=[("gzip -9", 2.1)], **common)
    far = line_figure(steep, y_high=2.2, levels=[("gzip -9", 9.0)], **common)
    labels = [float(text) for text in re.findall(r">(\d+\.?\d*)</text>", near.svg)]
    assert max(labels[3:]) < 2.3
    assert near.legend[-1] == Key("gzip -9 2.1", shape="level")
    assert far.legend[-1] == Key("gzip -9 9: outside the chart", shape="none")


def test_what_happened_is_numbered_on_the_chart_and_named_below() -> None:
    chart = lines_chart(events=[(3, "dense until here"), (7, "relaxed")], note="Lines.")
    assert chart.note == "Lines. Upright lines: 1: dense until here; 2: relaxed."


def test_a_missing_bar_says_so() -> None:
    chart = bar_figure(["a"], [Bar("x", (None,)), Bar("y", (1.0,))], caption="c", alt="a", x_label="s")
    assert ">not measured<" in chart.svg and ">1 y<" in chart.svg


def drawn_cells(figure: Figure) -> dict[tuple[int, int], float]:
    """Opacity of each cell that a picture draws, read back from its paths."""
    cells = {}
    for d, opacity in re.findall(r'<path d="([^"]*)" style="fill:var\(--c\d\);fill-opacity:([\d.]+)', figure.svg):
        for x, y, width in re.findall(r"M(\d+) (\d+)h(\d+)v1h-\d+z", d):
            cells.update({(int(y), int(x) + n): float(opacity) for n in range(int(width))})
    return cells


def test_a_short_pattern_is_drawn_pair_by_pair() -> None:
    cells = drawn_cells(picture())
    assert cells == {(q, k): 1.0 for q in range(16) for k in range(max(0, q - 3), q + 1)}
    assert picture().note == "A square is one pair."


def test_a_long_pattern_says_what_a_square_is_and_shades_it() -> None:
    plane = ow.compile_layout(ow.Causal() & ow.Strided(8), q_len=584, kv_len=584).plane()
    figure = pattern_figure(plane, caption="c", alt="a")
    assert figure.note == "A square is 4 x 4 tokens."
    cells = drawn_cells(figure)
    # squares of 4 x 4 tokens on every second diagonal hold 4 pairs of 16: to 50 %
    assert cells[10, 8] == cells[10, 10] == 0.58 and (10, 9) not in cells and (8, 10) not in cells
    assert [key.name for key in figure.legend] == ["to 50 %"]


def test_lines_begin_at_their_first_token_and_marked_ones_find_room_first() -> None:
    text = "import os\n\ndef f():\n    pass\n"
    spans = np.array([[n, n + 1] for n in range(len(text))])
    lines = text_lines(text, spans, marked=np.array([11 <= n < 19 for n in range(len(text))]), first_line=7)
    assert [(line.token, line.text, line.marked) for line in lines] == [
        (0, "7 import os", False),
        (10, "", False),
        (11, "9 def f():", True),
        (20, "10     pass", False),
    ]
    assert text_lines("a\n", spans[:2], first_line=None) == (TextLine(0, "a"),)
    crowded = [TextLine(0, "1 a"), TextLine(0, "2 b", True), TextLine(8, "3 c")]
    figure = picture(lines=crowded)
    assert re.findall(r">(\d \w)</text>", figure.svg) == ["2 b", "3 c"]
    assert "2 of 3 lines of the text are written." in figure.note


def test_flags_are_ticked_where_they_are_and_rings_numbered() -> None:
    flags = np.zeros(16, bool)
    figure = picture(keys={"heading": flags, "definition": ~flags}, queries={"use": ~flags}, rings=[(8, 2)])
    assert [key.name for key in figure.legend] == ["all pairs", "key: definition", "query: use"]
    assert "<circle" in figure.svg and ">1</text>" in figure.svg


def test_a_figure_without_words_is_our_bug() -> None:
    with pytest.raises(AssertionError, match="says what it shows"):
        Figure("<svg viewBox='0 0 1 1'></svg>", "c", " ")
    with pytest.raises(AssertionError, match="one <svg>"):
        Figure("<p>", "c", "a")
    with pytest.raises(AssertionError, match="a cell for each column"):
        Table(("a", "b"), (("1",),), "c")
