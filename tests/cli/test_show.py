"""`openwork show`: what is drawn is what is allowed, and what cannot be drawn is one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import openwork as ow
from openwork.cli.main import main
from openwork.layout.overview import cell_counts, cell_edges

WINDOW = "Causal() & Window(before=2)"
SOURCE = """def area(side):
    return side * side


def total(sides):
    return sum(area(side) for side in sides)
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "shapes.py"
    path.write_text(SOURCE)
    return path


def shown(capsys, *arguments: object) -> list[str]:
    code = main(["show", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    return out.splitlines()


def refused(capsys, *arguments: object) -> str:
    code = main(["show", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def pairs(lines: list[str], count: int) -> np.ndarray:
    """The last `count` lines of a drawing as a boolean matrix."""
    return np.array([[cell == "#" for cell in line.split("  ")[-1].split()] for line in lines[-count:]])


def test_a_pattern_is_drawn_pair_by_pair(capsys) -> None:
    lines = shown(capsys, WINDOW, "--length", 5)
    assert lines[0] == "Causal() & Window(before=2, after=0)"
    assert lines[1:3] == ["5 queries (rows) x 5 keys (columns)", "12 of 25 pairs allowed: density 0.48"]
    assert lines[-5:] == ["0  # . . . .", "1  # # . . .", "2  # # # . .", "3  . # # # .", "4  . . # # #"]


def test_the_drawing_is_that_of_the_library(capsys) -> None:
    library = ow.draw(ow.parse_pattern(WINDOW), 6, 9).splitlines()
    drawn = shown(capsys, WINDOW, "--length", 6, "--kv-length", 9)
    assert [line.split("  ", 1)[1] for line in drawn[-6:]] == library[-6:]


def test_more_keys_than_queries_end_at_the_last_key(capsys) -> None:
    drawn = pairs(shown(capsys, "Causal()", "--length", 2, "--kv-length", 4), 2)
    assert drawn.tolist() == [[True, True, True, False], [True, True, True, True]]


@pytest.mark.parametrize("text", ["streaming_llm", "streaming_llm()", "zoo.streaming_llm()"])
def test_a_zoo_name_is_shown_in_the_words_of_the_table(capsys, text) -> None:
    from openwork.patterns import zoo

    assert shown(capsys, text, "--length", 8)[0] == repr(zoo.streaming_llm())


def test_the_truth_table_is_the_predicate(capsys) -> None:
    lines = shown(capsys, WINDOW, "--toy", 4)
    pattern = ow.parse_pattern(WINDOW)
    assert lines[-6] == "q_pos | 0 1 2 3 | sees"
    for query, line in enumerate(lines[-4:]):
        position, cells, sees = (cell.strip() for cell in line.split("|"))
        assert int(position) == query
        assert [cell == "1" for cell in cells.split()] == [pattern.allows(query, key) for key in range(4)]
        assert sees.split() == [str(key) for key in range(4) if pattern.allows(query, key)]


def test_an_empty_row_is_said_and_shown(capsys) -> None:
    lines = shown(capsys, "Causal() - Window(before=0)", "--toy", 3)
    assert "1 query sees no key: output 0" in lines
    assert lines[-3].endswith("| nothing")


def test_a_long_pattern_is_drawn_in_cells_with_a_legend(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = shown(capsys, "Causal() & (Window(before=63) | First(keys=1))", "--length", 4096)
    rows = [line.split("  ")[-1].split() for line in lines[4:-1]]
    assert max(map(len, lines[3:-1])) <= 80
    side = f"{4096 / len(rows):.4g}"
    assert lines[-1].startswith(f"each cell: {side} x {side} pairs, of which allowed: . none")
    # above the diagonal nothing, far below it nothing but the first key, which is a small share of its cell
    assert rows[0][1:] == ["."] * (len(rows) - 1)
    assert rows[-1][1:-3] == ["."] * (len(rows) - 4)
    assert rows[-1][0] == ":"
    assert rows[-1][-1] in "*+"


@pytest.mark.parametrize("text", ["Causal() & (Window(before=20) | Strided(16))", "~Causal()", "Chunk(32)"])
def test_cells_count_every_allowed_pair_once(text) -> None:
    layout = ow.compile_layout(ow.parse_pattern(text), q_len=301, kv_len=417)
    q_edges, kv_edges = cell_edges(301, 13), cell_edges(417, 29)
    dense = layout.to_dense()[0, 0].astype(int)
    expected = np.add.reduceat(np.add.reduceat(dense, q_edges[:-1], axis=0), kv_edges[:-1], axis=1)
    np.testing.assert_array_equal(cell_counts(layout.planes[0], 13, 29), expected)


def test_a_pattern_is_shown_long_enough_to_be_seen(capsys) -> None:
    report = json.loads(shown(capsys, "mistral", "--json")[0])
    assert report["q_len"] > 4096
    assert report["density"] < 0.5


def test_heads_that_differ_are_chosen_by_number(capsys) -> None:
    heads = "PerHead(Causal(), Causal() & Window(before=0))"
    assert pairs(shown(capsys, heads, "--length", 3, "--head", 1), 3).tolist() == np.eye(3, dtype=bool).tolist()
    assert shown(capsys, heads, "--length", 3)[1].endswith("head 0 of 2")
    assert "--head 2 does not exist: there are 2 heads" in refused(capsys, heads, "--head", 2)


def test_a_text_is_annotated_by_its_suffix(capsys, source) -> None:
    lines = shown(capsys, "Causal() & (Window(before=3) | Linked('use'))", "--text", source)
    assert any("links" in line for line in lines[:5])
    report = json.loads(shown(capsys, "Causal() & Linked('use')", "--text", source, "--json")[0])
    assert report["q_len"] == len(SOURCE.encode())
    assert report["annotations"]["use"]["links"] >= 1


def test_a_link_is_drawn_where_the_text_has_it(capsys, source) -> None:
    notes_shown = json.loads(shown(capsys, "Causal() & Linked('use')", "--text", source, "--json")[0])
    from openwork.annotate import byte_offsets, python_source

    notes = python_source(SOURCE, byte_offsets(SOURCE))
    bound = ow.bind(ow.Causal() & ow.Linked("use"), q_len=len(SOURCE), kv_len=len(SOURCE), annotations=notes).allows(
        np.arange(len(SOURCE))[:, None], np.arange(len(SOURCE))[None]
    )
    assert notes_shown["allowed_pairs"] == int(bound.sum()) > 0


def test_a_short_text_labels_each_row_with_its_token(capsys, source) -> None:
    lines = shown(capsys, WINDOW, "--text", source, "--length", 8)
    labels = [line[2:18].strip() for line in lines[-8:]]
    assert labels == ["d", "e", "f", "", "a", "r", "e", "a"]


def test_a_long_text_labels_each_row_with_a_line_of_it(capsys, source, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = shown(capsys, WINDOW, "--text", source)
    labels = [line[4:20].strip() for line in lines[5:-1]]
    assert labels[0] == "def area(side):"
    assert labels[1] == "return side * si"
    assert "return sum(area(" in labels


def test_a_tokenizer_file_gives_the_tokens(capsys, source, tmp_path) -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is an extra")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    report = json.loads(
        shown(capsys, WINDOW, "--text", source, "--tokenizer", tmp_path / "tokenizer.json", "--json")[0]
    )
    assert report["q_len"] == len(words.encode(SOURCE).offsets)


def test_an_annotator_can_be_chosen(capsys, tmp_path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("# Title\n\ntext\n")
    refusal = refused(capsys, "Keys('heading')", "--text", notes)
    assert "reads the flag 'heading', which notes.txt was not annotated with; no annotator is known for it." in refusal
    assert "Choose an annotator with --annotate." in refusal
    refusal = refused(capsys, "Keys('heading')", "--text", notes, "--annotate", "python")
    assert "found: definition, use" in refusal
    report = json.loads(shown(capsys, "Keys('heading')", "--text", notes, "--annotate", "markdown", "--json")[0])
    assert report["annotations"]["heading"]["tokens"] > 0
    assert "there is no annotator 'mrkdwn'; there are" in refused(
        capsys, "Causal()", "--text", notes, "--annotate", "mrkdwn"
    )


@pytest.mark.parametrize("suffix", [".npy", ".pt"])
def test_a_mask_file_is_shown_as_it_is(capsys, tmp_path, suffix) -> None:
    mask = np.random.default_rng(0).random((2, 5, 7)) < 0.5
    path = tmp_path / f"mask{suffix}"
    if suffix == ".npy":
        np.save(path, mask)
    else:
        import torch

        torch.save(torch.from_numpy(mask), path)
    lines = shown(capsys, "--mask", path, "--head", 1)
    assert lines[0] == path.name
    assert pairs(lines, 5).tolist() == mask[1].tolist()


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_a_picture_is_written_whole_and_the_same_each_time(capsys, tmp_path, suffix, source) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is an extra")
    path = tmp_path / f"mask{suffix}"
    contents = []
    for _ in range(2):
        shown(capsys, "Causal() & (Window(before=9) | Linked('use'))", "--text", source, "--png", path)
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]
    assert contents[0].startswith(b"\x89PNG" if suffix == ".png" else b"<?xml")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([path.name, source.name])


def test_the_picture_shows_the_pairs(capsys, tmp_path) -> None:
    image = pytest.importorskip("matplotlib.image", reason="matplotlib is an extra")
    for text, name in (("Dense()", "full.png"), ("Window(before=0)", "thin.png")):
        shown(capsys, text, "--length", 16, "--png", tmp_path / name)
    dark = {p.stem: int((image.imread(p)[..., :3].mean(axis=-1) < 0.5).sum()) for p in tmp_path.glob("*.png")}
    assert dark["full"] > 8 * dark["thin"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "show takes a pattern, --plan FILE or --mask FILE, and exactly one of the three"),
        (["Windw(before=3)"], "Windw"),
        (["Window(before=-1)"], "before"),
        (["__import__('os').system('echo')"], "error: "),
        (["Keys('heading')"], "reads the flag 'heading', which bare positions do not carry. Show it over a text"),
        (["Causal()", "--length", "9", "--kv-length", "3"], "--kv-length 3 is less than the 9 queries"),
        (["Dense()", "--length", "1000000000"], "need 8,000,000,000 bytes for the order of their tokens alone"),
        (["Dense()", "--length", "3000000000"], "lengths must fit 32-bit indices; got q_len=3000000000"),
        (["Causal()", "--toy", "3", "--length", "8"], "--toy says how many positions to show, and so does --length"),
        (["Causal()", "--annotate", "markdown"], "--annotate needs a text: --text FILE"),
        (["Causal()", "--text", "missing.py"], "cannot read missing.py: no such file or directory"),
        (["Causal()", "--mask", "a.npy"], "exactly one of the three"),
        (["--mask", "missing.npy"], "--mask missing.npy does not exist"),
        (["--mask", "mask.txt"], "--mask mask.txt must be a .npy or .pt file"),
        (["--mask", "mask.npy", "--length", "3"], "a mask has its own lengths: leave out --length"),
        (["Causal()", "--png", "mask.bmp"], "--png mask.bmp: the name must end in .png, .svg, .pdf"),
        (["Causal()", "--png", "no/such/../\0/x.png"], "error: "),
    ],
)
def test_what_cannot_be_shown_is_one_line(capsys, monkeypatch, tmp_path, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no tokens to show: it is empty"),
        (b"\x89PNG\r\n\x1a\n\xff", "is not UTF-8 text (byte 0); is it a binary file?"),
        (b"ab\0c", "is not text: it holds a NUL byte at 2"),
    ],
)
def test_a_file_that_is_no_text_is_one_line(capsys, tmp_path, content, message) -> None:
    path = tmp_path / "data.py"
    path.write_bytes(content)
    assert message in refused(capsys, "Causal()", "--text", path)


@pytest.mark.parametrize("suffix", [".npy", ".pt"])
def test_a_file_that_is_no_mask_is_one_line(capsys, tmp_path, suffix) -> None:
    path = tmp_path / f"mask{suffix}"
    path.write_bytes(b"nothing of the kind")
    assert f"mask{suffix} cannot be read: " in refused(capsys, "--mask", path)


def test_a_mask_that_is_not_boolean_is_one_line(capsys, tmp_path) -> None:
    np.save(tmp_path / "mask.npy", np.ones((3, 3)))
    assert "bool" in refused(capsys, "--mask", tmp_path / "mask.npy")


def test_a_mask_file_never_runs_code(capsys, tmp_path) -> None:
    marker = tmp_path / "ran"
    # what pickle.loads would run: open(marker, "w")
    (tmp_path / "mask.pt").write_bytes(b"cio\nopen\n(S'" + str(marker).encode() + b"'\nS'w'\ntR.")
    refused(capsys, "--mask", tmp_path / "mask.pt")
    assert not marker.exists()


def test_an_unwritable_picture_is_one_line_and_leaves_nothing(capsys, tmp_path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is an extra")
    (tmp_path / "file").write_text("")
    assert "cannot write" in refused(capsys, "Causal()", "--png", tmp_path / "file" / "mask.png")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_without_matplotlib_the_way_out_is_named(capsys, monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "--png needs matplotlib: pip install matplotlib" in refused(capsys, "Causal()", "--png", "x.png")
