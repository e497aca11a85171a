"""`openwork check`: exit codes that a CI can rely on, and what is said."""

from __future__ import annotations

import heapq
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import openwork as ow
from openwork.cli.main import main

WINDOW = "Causal() & Window(before=63)"
CODE = "Causal() & (Window(before=63) | Keys('definition') | Linked('use'))"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "heaps.py"
    text = inspect.getsource(heapq)
    path.write_text(text[text.index("def heappush(") :][:12_000])
    return path


def checked(capsys, *arguments: object, code: int = 0) -> list[str]:
    found = main(["check", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert (found, err) == (code, "")
    return out.splitlines()


def refused(capsys, *arguments: object) -> str:
    code = main(["check", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def test_a_clean_pattern_passes(capsys) -> None:
    lines = checked(capsys, WINDOW, "--length", 200)
    assert lines[0] == "Causal() & Window(before=63, after=0)"
    assert lines[1] == "200 tokens, 64 layers"
    assert "  ok    no query sees a later key" in lines
    assert "everything is connected after 4 layers" in lines
    assert lines[-1] == "passed"


def test_a_leak_fails_unless_it_is_meant(capsys) -> None:
    lines = checked(capsys, "Window(3, 1)", "--length", 50, code=1)
    assert lines[-1] == "failed: 49 pairs of a query and a later key"
    assert any(line.strip().startswith("query 0 sees key 1, query 1 sees key 2") for line in lines)
    assert checked(capsys, "Window(3, 1)", "--length", 50, "--bidirectional")[-1] == "passed"


def test_an_empty_row_fails(capsys) -> None:
    assert checked(capsys, "Causal() - Window(before=0)", "--length", 9, code=1)[-1] == (
        "failed: 1 query that sees no key"
    )


def test_a_pair_across_packed_documents_fails(capsys) -> None:
    packed = ["--documents", "300,500,200"]
    lines = checked(capsys, "Causal() & Window(before=99)", *packed, code=1)
    assert lines[1].startswith("1,000 tokens, ")
    # each of two borders: query b + i sees 99 - i keys before it
    assert lines[-1] == f"failed: {2 * sum(range(100)):,} pairs across documents"
    assert any(line.strip().startswith("query 300 sees key 201, ") for line in lines)
    apart = "Causal() & Window(before=99) & Same('document')"
    lines = checked(capsys, apart, *packed, "--length", 1000)
    assert lines[-1] == "passed" and "  ok    no pair across documents" in lines
    assert checked(capsys, "Causal() & Window(before=99)", "--documents", "1000")[-1] == "passed"
    report = json.loads(checked(capsys, WINDOW, *packed, "--json", code=1)[0])
    assert report["documents"] is True and report["ok"] is False


def test_a_plan_and_a_mask_are_checked_across_documents(capsys, tmp_path) -> None:
    plan = ow.Plan(default=ow.parse_pattern("Causal() & Same('document')"), layers={1: ow.parse_pattern(WINDOW)})
    (tmp_path / "plan.json").write_text(plan.to_json())
    arguments = ["--plan", tmp_path / "plan.json", "--layers", 2]
    assert "across documents" in checked(capsys, *arguments, "--documents", "20,30", code=1)[-1]
    mask = np.tril(np.ones((50, 50), dtype=bool))
    np.save(tmp_path / "crossed.npy", mask)
    mask[20:, :20] = False
    np.save(tmp_path / "apart.npy", mask)
    crossed = checked(capsys, "--mask", tmp_path / "crossed.npy", "--documents", "20,30", code=1)[-1]
    assert crossed == "failed: 600 pairs across documents"
    assert checked(capsys, "--mask", tmp_path / "apart.npy", "--documents", "20,30")[-1] == "passed"


def test_documents_stand_beside_the_facts_of_a_text(capsys, tmp_path, source) -> None:
    arguments = ["--text", source, "--length", 3000, "--documents", "1000,2000"]
    assert "across documents" in checked(capsys, CODE, *arguments, code=1)[-1]
    assert checked(capsys, f"({CODE}) & Same('document')", *arguments)[-1] == "passed"
    plain, mask = tmp_path / "plain.txt", tmp_path / "mask.npy"
    plain.write_text("a" * 64)
    np.save(mask, np.tri(64, dtype=bool))
    for subject in ([WINDOW], ["--mask", mask]):
        assert "across documents" in checked(capsys, *subject, "--text", plain, "--documents", "60,4", code=1)[-1]


def test_the_options_are_these(capsys) -> None:
    assert main(["check", "--help"]) == 0
    found = re.findall(r"^ +(--[a-z-]+)", capsys.readouterr().out, re.MULTILINE)
    options = "--plan --mask --length --text --tokenizer --annotate --documents --layers --bidirectional --fail-on"
    assert sorted(found) == sorted([*options.split(), "--most", "--json"])


def test_a_length_is_found_where_none_is_given(capsys) -> None:
    assert json.loads(checked(capsys, WINDOW, "--json")[0])["length"] == 4096
    assert json.loads(checked(capsys, "mistral", "--json")[0])["length"] > 4096


def test_links_of_a_real_file_are_listed_by_line(capsys, source) -> None:
    lines = checked(capsys, WINDOW, "--text", source, "--layers", 2)
    text = source.read_text().split("\n")
    missed = [line.strip() for line in lines if "not reached in 2 layers" in line and line.startswith("  line")]
    assert len(missed) > 3
    for line in missed:
        words = line.split()
        name = words[3].strip("`,")
        assert name in text[int(words[1]) - 1]
        assert text[int(words[7].rstrip(":")) - 1].startswith(f"def {name}(")
    assert lines[-1] == "passed"
    assert checked(capsys, WINDOW, "--text", source, "--layers", 2, "--fail-on", "missed", code=1)[-1].startswith(
        "failed: "
    )
    assert checked(capsys, CODE, "--text", source, "--layers", 1, "--fail-on", "missed")[-1] == "passed"


def test_all_missed_links_are_in_the_json(capsys, source) -> None:
    arguments = [WINDOW, "--text", source, "--layers", 2, "--fail-on", "missed"]
    report = json.loads(checked(capsys, *arguments, "--json", code=1)[0])
    assert report["ok"] is False
    assert len(report["missed"]) > 3
    listed = [line for line in checked(capsys, *arguments, "--most", 2, code=1) if line.startswith("  line")]
    assert len(listed) == 2
    assert f"  and {len(report['missed']) - 2} more" in checked(capsys, *arguments, "--most", 2, code=1)


def test_a_document_is_followed_by_its_headings(capsys) -> None:
    guide = Path(__file__).parents[2] / "docs" / "annotations.md"
    lines = checked(capsys, WINDOW, "--text", guide, "--length", 6000, "--layers", 2)
    assert any("stands under `" in line and "not reached in 2 layers" in line for line in lines)
    assert any("not reached in 2" in line for line in lines)
    policy = checked(
        capsys, "policy_documents", "--text", guide, "--length", 6000, "--layers", 1, "--fail-on", "missed"
    )
    assert policy[-1] == "passed"


def test_more_can_be_asked_for(capsys) -> None:
    pattern = "Causal() & First(keys=4)"
    assert checked(capsys, pattern, "--length", 40)[-1] == "passed"
    failed = "failed: 36 keys that no query reads; not every pair is connected in 64 layers"
    assert checked(capsys, pattern, "--length", 40, "--fail-on", "unread,unreached", code=1)[-1] == failed
    both = ["--fail-on", "unread", "--fail-on", "unreached"]
    assert checked(capsys, pattern, "--length", 40, *both, code=1)[-1] == failed


def test_a_plan_file_is_checked_layer_by_layer(capsys, tmp_path, source) -> None:
    path = tmp_path / "plan.json"
    plan = ow.Plan.by_depth(
        {0.0: ow.parse_pattern(WINDOW), 0.5: ow.parse_pattern(CODE)}, layers={3: ow.Window(1, 1)}, annotator="python"
    )
    path.write_text(plan.to_json())
    lines = checked(capsys, "--plan", path, "--text", source, "--layers", 4, code=1)
    assert "layers 0-1: Causal() & Window(before=63, after=0)" in lines
    assert any(line.startswith("layers 2: ") for line in lines)
    assert any(line.startswith("layers 3: Window(before=1, after=1)") for line in lines)
    assert "a plan whose layers differ needs to know how many there are" in refused(
        capsys, "--plan", path, "--text", source
    )


def test_the_plans_own_annotator_serves_a_file_of_any_name(capsys, tmp_path, source) -> None:
    path, renamed = tmp_path / "plan.json", tmp_path / "heaps.txt"
    path.write_text(ow.Plan(default=ow.parse_pattern(CODE), annotator="python").to_json())
    renamed.write_text(source.read_text())
    assert checked(capsys, "--plan", path, "--text", renamed, "--fail-on", "missed")[-1] == "passed"


def test_a_mask_file_is_checked_as_it_is(capsys, tmp_path) -> None:
    mask = np.tril(np.ones((2, 70, 70), dtype=bool))
    np.save(tmp_path / "mask.npy", mask)
    assert checked(capsys, "--mask", tmp_path / "mask.npy")[0] == "mask.npy"
    mask[1, 3, 60] = True
    np.save(tmp_path / "mask.npy", mask)
    lines = checked(capsys, "--mask", tmp_path / "mask.npy", code=1)
    assert "  FAIL  1 pair of a query and a later key in heads 1" in lines
    assert any("query 3 sees key 60" in line for line in lines)


def test_a_mask_is_followed_through_a_text(capsys, tmp_path, source) -> None:
    np.save(tmp_path / "mask.npy", np.tril(np.ones((9_000, 9_000), dtype=bool), 0) & ~np.tri(9_000, k=-64, dtype=bool))
    by_mask = json.loads(checked(capsys, "--mask", tmp_path / "mask.npy", "--text", source, "--layers", 2, "--json")[0])
    by_pattern = json.loads(checked(capsys, WINDOW, "--length", 9000, "--text", source, "--layers", 2, "--json")[0])
    assert by_mask["missed"] == by_pattern["missed"] != []


def test_no_torch_is_loaded(tmp_path, source) -> None:
    np.save(tmp_path / "mask.npy", np.tri(64, dtype=bool))
    (tmp_path / "plan.json").write_text(ow.Plan(default=ow.parse_pattern(CODE), annotator="python").to_json())
    script = (
        "import sys\nfrom openwork.cli.main import main\n"
        f"assert main(['check', {CODE!r}, '--text', {str(source)!r}]) == 0\n"
        f"assert main(['check', '--mask', {str(tmp_path / 'mask.npy')!r}]) == 0\n"
        f"assert main(['check', '--plan', {str(tmp_path / 'plan.json')!r}, '--text', {str(source)!r}]) == 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_a_bar_is_drawn_on_a_terminal_alone(monkeypatch, capsys) -> None:
    from rich.console import Console

    from openwork.cli import check as command

    monkeypatch.setattr(command, "_PATIENCE_S", 0.0)
    assert checked(capsys, WINDOW, "--length", 300)[-1] == "passed"
    monkeypatch.setattr(Console, "is_terminal", property(lambda self: True))
    assert main(["check", WINDOW, "--length", "300"]) == 0
    out, err = capsys.readouterr()
    assert "checking" in err and "checking" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "check takes a pattern, --plan FILE or --mask FILE, and exactly one of them."),
        (["Causal()", "--mask", "a.npy"], "exactly one of them; got a pattern and --mask"),
        (["Windw(before=3)"], "Windw"),
        (["__import__('os').system('echo')"], "error: "),
        (["Keys('heading')"], "reads the flag 'heading', which bare positions do not carry. Check it on a text"),
        (
            ["Causal() & Same('document')"],
            "bare positions do not carry. Check it with packed documents: --documents 300",
        ),
        (["Causal() & Keys('heading')", "--documents", "3,4"], "'heading', which bare positions do not carry"),
        (["Causal()", "--documents", "3,x"], "--documents takes token counts such as 300,500,200; got '3,x'"),
        (["Causal()", "--documents", ""], "--documents takes token counts such as 300,500,200; got ''"),
        (["Causal()", "--documents", "3,-2"], "document 1 has -2 tokens; lengths are 0 or more"),
        (["Causal()", "--documents", "0"], "--documents must add up to 1 to 134,217,728 tokens; '0' has 0"),
        (["Causal()", "--documents", "9,99999999999"], "1 to 134,217,728 tokens; '9,99999999999' has 100,000,000,008"),
        (["Causal()", "--documents", "3,4", "--length", "8"], "has 7 tokens and --length is 8; leave out --length"),
        (["--mask", "small.npy", "--documents", "3,4"], "--documents has 7 tokens, but the mask has 3"),
        (["Causal()", "--text", "short.py", "--documents", "3,4"], "has 7 tokens, but short.py has 2; the counts"),
        (["Causal()", "--annotate", "markdown"], "--annotate needs a text: --text FILE"),
        (["Causal()", "--fail-on", "missed"], "--fail-on missed needs a text whose links are followed: --text FILE"),
        (["Causal()", "--fail-on", "leaks"], "there is no 'leaks' to fail on; there are missed, unread, unreached"),
        (["Causal()", "--layers", "0"], "layers must be 1 to 4096; got 0"),
        (["Causal()", "--text", "missing.py"], "cannot read missing.py: no such file or directory"),
        (["--plan", "missing.json"], "--plan missing.json cannot be read: No such file or directory"),
        (["--mask", "missing.npy"], "--mask missing.npy does not exist"),
        (["--mask", "small.npy", "--length", "3"], "a mask has its own length: leave out --length"),
        (["--mask", "wide.npy"], "the layout has q_len=3 and kv_len=5"),
        (["--mask", "small.npy", "--text", "short.py"], "short.py has 2 tokens, but the mask is for 3"),
        (["Causal()", "--text", "empty.py"], "empty.py has no tokens to check: it is empty"),
        (["Keys('heading')", "--text", "short.py"], "which short.py was not annotated with; found: definition, use"),
        (
            ["Causal()", "--text", "short.txt", "--fail-on", "missed"],
            "--fail-on missed: no annotator is known for short.txt; choose one with --annotate",
        ),
    ],
)
def test_what_cannot_be_checked_is_one_line(capsys, monkeypatch, tmp_path, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("small.npy", np.ones((3, 3), dtype=bool))
    np.save("wide.npy", np.ones((3, 5), dtype=bool))
    for name, content in (("empty.py", ""), ("short.py", "a\n"), ("short.txt", "a\n")):
        Path(name).write_text(content)
    assert message in refused(capsys, *arguments)
