"""A report opened in a real browser: nothing complains, nothing is asked of the network, nothing overflows."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from openwork.study import contender_from_text, run
from openwork.study.demo import run_demo
from openwork.study.report import write_report


def beside(name: str) -> Any:
    spec = spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


browser_module = beside("browser")
EXECUTABLE = browser_module.find_browser()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(EXECUTABLE is None, reason="Chromium is not installed; the page was not opened in a browser"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browser_module.Browser(EXECUTABLE) as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A study's page with everything on it, a page of every kind of part, and the demo's with all acts."""
    place = tmp_path_factory.mktemp("pages")
    out = place / "out"
    # a plan without a name is called by its text
    long = "Causal() & (Window(before=15) | Keys('definition') & ~Linked('use')) - Window(before=3)"
    facts = "window + definitions: Window(before=15) | Keys('definition') | Linked('use')"
    names = (long, facts)
    run(
        data=texts, out=out, tokenizer="bytes", model="tiny", device="cpu", seq_len=96, batch_size=1, steps=4, seeds=2,
        control=True, eval_tokens=400, eval_every=2, isolate=False, contenders=tuple(map(contender_from_text, names)),
    )  # fmt: skip
    write_report(place / "parts.html", beside("test_report_values").report())
    demo = run_demo(beside("test_demo").small(place / "demo"))
    return {"study": out / "report.html", "parts": place / "parts.html", "demo": demo.page}


OVERFLOWING = """
[...document.querySelectorAll('body *')].filter(e => {
  const box = e.closest('.wide, pre');
  return (!box || box === e) && !e.closest('svg') && e.getClientRects().length
    && e.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5;
}).map(e => e.outerHTML.slice(0, 80))
"""
# text of one chart that lies on other text of it
OVERLAPPING = """
[...document.querySelectorAll('figure svg')].flatMap(svg => {
  const boxes = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
  return boxes.flatMap(([a, p], i) => boxes.slice(i + 1).filter(([b, q]) =>
    p.left < q.right - 1 && q.left < p.right - 1 && p.top < q.bottom - 3 && q.top < p.bottom - 3
  ).map(([b]) => svg.getAttribute('aria-label').slice(0, 40) + ': ' + a + ' / ' + b));
})
"""
# text that the edge of its chart cuts off
CUT = """
[...document.querySelectorAll('figure svg')].flatMap(svg => {
  const frame = svg.getBoundingClientRect();
  return [...svg.querySelectorAll('text')].filter(t => {
    const box = t.getBoundingClientRect();
    return box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1;
  }).map(t => t.textContent);
})
"""
SMALLEST = """
Math.min(...[...document.querySelectorAll('figure svg text')].map(t => {
  const svg = t.ownerSVGElement;
  return parseFloat(getComputedStyle(t).fontSize) * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
}))
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1280])
@pytest.mark.parametrize("name", ["study", "parts", "demo"])
def test_a_page_opens_without_complaint_and_fits(
    browser: Any, pages: dict[str, Path], name: str, width: int, dark: bool
) -> None:
    browser.open(pages[name], width=width, dark=dark)
    assert browser.complaints == [] and browser.requests == []
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate(OVERFLOWING) == []
    assert browser.evaluate(OVERLAPPING) == []
    assert browser.evaluate(CUT) == []
    paper = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(22, 22, 22)" if dark else "rgb(255, 255, 255)")
    # text is inked in the page's colour, not in the plotting library's
    inks = browser.evaluate(
        "[...new Set([...document.querySelectorAll('figure svg text')].map(t => getComputedStyle(t).fill))]"
    )
    assert not any(ink.startswith("rgb(254, 0") for ink in inks)


def test_text_of_charts_can_be_read_on_a_phone(browser: Any, pages: dict[str, Path]) -> None:
    browser.open(pages["study"], width=360)
    assert browser.evaluate(SMALLEST) >= 7.5


def test_the_page_prints(browser: Any, pages: dict[str, Path], tmp_path: Path) -> None:
    browser.open(pages["study"], width=1280)
    browser.print(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


def test_the_probes_can_fail(browser: Any, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        '<!doctype html><link rel="icon" href="data:,"><div style="width:2000px">x</div><img src="https://example.invalid/x.png">'
        '<figure><svg viewBox="0 0 100 20" width="100" aria-label="bad"><text y="15">one</text><text y="15">two</text>'
        '<text x="95" y="15">cut off</text></svg></figure><script>console.error("oh")</script>'
    )
    browser.open(page, width=360)
    assert browser.complaints and browser.requests == ["https://example.invalid/x.png"]
    assert browser.evaluate(OVERFLOWING) and browser.evaluate(OVERLAPPING) and "cut off" in browser.evaluate(CUT)
