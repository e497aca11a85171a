"""`openwork show PLAN`: the stack that is drawn is the plan's, layer by layer and head by head."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import openwork as ow
from openwork.cli.main import main
from openwork.layout import compile_layout

LOCAL = ow.Causal() & ow.Window(before=3)
BROAD = ow.Causal() & (ow.Window(before=3) | ow.First(keys=2))
DEEP = ow.Plan.by_depth({0.0: ow.PerHead(LOCAL, LOCAL), 0.5: ow.PerHead(LOCAL, BROAD)}, layers={3: ow.Causal()})


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    path = tmp_path / "deep.json"
    path.write_text(DEEP.to_json())
    return path


def shown(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    code = main(["show", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    return out


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["show", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ")
    return err


def density(pattern: ow.Pattern, length: int) -> float:
    return compile_layout(pattern, q_len=length, kv_len=length).density


def test_each_layer_has_a_line_top_first_and_each_pattern_a_drawing(
    deep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = shown(capsys, deep, "--layers", 4, "--length", 8).splitlines()
    assert lines[0] == repr(DEEP)
    local, broad, dense = (density(pattern, 8) for pattern in (LOCAL, BROAD, ow.Causal()))
    assert lines[1].startswith("4 layers on 8 positions: density ")
    rows = [line.split(None, 2) for line in lines[4:8]]
    assert [row[0] for row in rows] == ["3", "2", "1", "0"]
    assert [row[2] for row in rows] == ["all A", "B C", "B B", "B B"]
    expected = [dense, (local + broad) / 2, local, local]
    assert [float(row[1]) for row in rows] == pytest.approx(expected, abs=5e-4)
    assert float(lines[1].split()[-1]) == pytest.approx(sum(expected) / 4, abs=5e-4)
    drawn = lines[10:18]
    for number, pattern in enumerate((ow.Causal(), LOCAL, BROAD)):
        columns = [line.split("   ")[number].strip() if number < len(line.split("   ")) else "" for line in drawn]
        assert "\n".join(columns) == ow.draw(pattern, 8)
    assert lines[-3:] == [f"A = {ow.Causal()!r}", f"B = {LOCAL!r}", f"C = {BROAD!r}"]
    assert shown(capsys, "--plan", deep, "--layers", 4, "--length", 8).splitlines() == lines


def test_as_many_layers_are_shown_as_the_plan_speaks_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def count(plan: ow.Plan) -> int:
        (tmp_path / "plan.json").write_text(plan.to_json())
        return len(json.loads(shown(capsys, tmp_path / "plan.json", "--json"))["layers"])

    assert count(ow.Plan(default=LOCAL)) == 1
    assert count(ow.Plan(default=LOCAL, layers={4: BROAD})) == 5
    assert count(DEEP) == 12


def test_json_holds_every_head(deep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = json.loads(shown(capsys, deep, "--layers", 4, "--length", 40, "--json"))
    assert ow.Plan.from_json(json.dumps(facts["plan"])) == DEEP and facts["length"] == 40
    assert [entry["heads"] for entry in facts["layers"]] == [
        [repr(LOCAL), repr(LOCAL)],
        [repr(LOCAL), repr(LOCAL)],
        [repr(LOCAL), repr(BROAD)],
        [repr(ow.Causal())],
    ]
    assert facts["layers"][2]["density"] == pytest.approx((density(LOCAL, 40) + density(BROAD, 40)) / 2)


def test_a_plan_is_shown_over_a_text_with_its_annotator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "code.txt"
    source.write_text("def area(side):\n    return side\n\n\nprint(area(3))\n")
    plan = ow.Plan(default=ow.Causal() & ow.Keys("definition"), annotator="python")
    (tmp_path / "plan.json").write_text(plan.to_json())
    facts = json.loads(shown(capsys, tmp_path / "plan.json", "--text", source, "--json"))
    assert facts["length"] == len(source.read_bytes()) and 0 < facts["layers"][0]["density"] < 0.5
    assert "which bare positions do not carry" in refused(capsys, tmp_path / "plan.json")


def test_a_picture_has_a_row_for_each_kind_of_layer(deep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = pytest.importorskip("matplotlib.image", reason="pictures are drawn by matplotlib")
    path = deep.with_suffix(".png")
    assert f"written to {path}" in shown(capsys, deep, "--layers", 4, "--png", path)
    pixels = image.imread(path)[..., :3]
    ink = np.abs(pixels - np.array([0x17, 0x45, 0x6B]) / 255).max(-1) < 0.02
    # rows of pictures are bands of lines with ink, apart from each other
    filled = ink.any(axis=1).astype(int)
    assert (np.diff(filled) == 1).sum() == 3
    first = path.read_bytes()
    shown(capsys, deep, "--layers", 4, "--png", path)
    assert path.read_bytes() == first


def test_what_does_not_go_with_a_plan_is_refused(deep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "leave out --kv-length, --head" in refused(capsys, deep, "--kv-length", 9, "--head", 1)
    assert "leave out a pattern" in refused(capsys, "Causal()", "--plan", deep)
    assert "--layers is for a plan: --plan FILE" in refused(capsys, "Causal()", "--layers", 3)
    assert "--annotate needs a text" in refused(capsys, deep, "--annotate", "python")
    assert "the plan names layer 3, but the model has 2 layers" in refused(capsys, deep, "--layers", 2)
    assert "cannot be read: No such file" in refused(capsys, "absent.json")
    assert "show takes a pattern, --plan FILE or --mask FILE" in refused(capsys)


def test_a_part_of_a_plan_is_shown_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "parts.json"
    path.write_text(ow.Plan(default=LOCAL, decode=ow.Causal()).to_json())
    assert "A = Causal() & Window(before=3, after=0)" in shown(capsys, path, "--length", 8)
    assert "A = Causal()\n" in shown(capsys, path, "--length", 8, "--part", "decode") + "\n"
    path.write_text(ow.Plan(default=LOCAL, encoder=ow.Window(before=2, after=2)).to_json())
    assert "A = Window(before=2, after=2)" in shown(capsys, path, "--length", 8, "--part", "encoder")
    assert "has a plan with parts for encoder and decoder: say --part encoder, decoder or decode" in refused(
        capsys, path
    )
    assert "a plan has the parts encoder, decoder, decode; got 'head'" in refused(capsys, path, "--part", "head")
    assert "--part is for a plan: --plan FILE." in refused(capsys, "Causal()", "--part", "decode")
