"""Pictures show the mask: drawings, assert_mask, and what a notebook gets."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

import openwork as ow
from openwork.errors import LayoutError, PatternError
from openwork.layout.draw import SHADES, draw, draw_mask, shade_cells
from openwork.layout.show import layout_html, layout_text, pattern_html, plane_svg
from openwork.patterns import Annotations, Causal, Custom, Dense, Grid, Keys, Linked, PerHead, Same, Window, zoo
from openwork.patterns.names import LEAVES
from openwork.testing import assert_mask, read_drawing
from openwork.testing.strategies import LEAF_STRATEGIES


def test_square_wide_and_empty_masks_are_drawn() -> None:
    assert draw(Causal(), 2) == "# .\n# #"
    assert draw(Causal(), 2, 4) == "# # # .\n# # # #"
    assert draw(~Dense(), 1, 2) == ". ."
    notes = Annotations(3, flags={"heading": [0, 1, 0]})
    assert draw(Keys("heading"), 2, 3, notes) == ". # .\n. # ."


def test_heads_are_drawn_once_each() -> None:
    picture = draw(PerHead(Causal(), Dense(), Causal()), 2)
    assert picture == "head 0, 2: Causal()\n# .\n# #\nhead 1: Dense()\n# #\n# #"


def test_long_sequences_are_drawn_in_cells() -> None:
    rows = draw(Causal() & Window(before=99), 6400).splitlines()
    assert len(rows) == 65 and rows[-1].startswith("(a cell is 100 x 100 pairs")
    # the first cell holds half of its pairs and one, the next row a half and a half
    assert [row.split() for row in rows[:3]] == [
        ["*"] + ["."] * 63,
        ["+", "*"] + ["."] * 62,
        [".", "+", "*"] + ["."] * 61,
    ]


def test_shades_count_pairs() -> None:
    layout = ow.compile_layout(ow.Strided(64), q_len=128, kv_len=256)
    shades = shade_cells(layout.plane(), 2)
    share = layout.to_dense()[0, 0].reshape(2, 64, 2, 128).mean(axis=(1, 3))
    assert np.allclose(share, 1 / 64) and shades.tolist() == [[SHADES.index("-")] * 2] * 2


def test_drawing_refuses_what_is_no_pattern() -> None:
    with pytest.raises(PatternError, match=r"draw takes a pattern; got ndarray. draw_mask draws a boolean array"):
        draw(np.eye(3), 3)  # type: ignore[arg-type]
    with pytest.raises(LayoutError, match="longer than kv_len=2"):
        draw(Causal(), 3, 2)


def test_a_drawing_is_read_as_it_is_drawn() -> None:
    for mask in (np.eye(3, dtype=bool), np.ones((1, 4), dtype=bool), np.zeros((2, 3), dtype=bool)):
        assert np.array_equal(read_drawing(draw_mask(mask)), mask)


def test_assert_mask_shows_where_masks_differ() -> None:
    assert_mask(Causal(), "# # . \n # # #")
    with pytest.raises(AssertionError) as failure:
        assert_mask(Window(before=1), "# . .\n# . .\n# # #")
    assert str(failure.value) == (
        "Window(before=1, after=0) differs from the drawing in 2 of 9 pairs "
        "(+ allowed, not drawn; - drawn, not allowed):\n# . .\n# + .\n- # #"
    )
    notes = Annotations(2, labels={"document": [0, 1]})
    assert_mask(Same("document"), "# .\n. #", notes)


@pytest.mark.parametrize(
    ("drawing", "message"),
    [
        ("", r"a drawing needs lines of equal length; got lengths \[\]"),
        ("# .\n#", r"got lengths \[2, 1\]"),
        ("# x\n# #", r"a drawing is made of '#' and '.'; got 'x'"),
        ("#\n#", r"has 2 queries \(lines\) and 1 keys \(characters\); the last query is the last key"),
    ],
)
def test_drawings_that_cannot_be_read_say_why(drawing: str, message: str) -> None:
    with pytest.raises(PatternError, match=message):
        assert_mask(Causal(), drawing)


def test_assert_mask_wants_one_head() -> None:
    with pytest.raises(PatternError, match=r"takes the pattern of one head: pattern.head\(h\)"):
        assert_mask(PerHead(Causal()), "#")


def drawn_share(svg: str) -> float:
    """Area of the dark rectangles, weighted by their opacity, over the whole."""
    root = ElementTree.fromstring(svg)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    (group,) = [child for child in root if child.tag.endswith("g")]
    area = sum(float(r.attrib["width"]) * float(r.attrib["height"]) * float(r.attrib["opacity"]) for r in group)
    return area / width / height


def test_the_picture_of_a_layout_has_its_density() -> None:
    for pattern, share in ((Dense(), 1.0), (~Dense(), 0.0), (Causal(), 0.5)):
        layout = ow.compile_layout(pattern, q_len=48, kv_len=48)
        assert abs(drawn_share(plane_svg(layout.plane())) - share) < 0.02


@pytest.mark.parametrize("name", [leaf.__name__ for leaf in LEAVES])
def test_every_pattern_shows_itself_in_a_notebook(name: str) -> None:
    from hypothesis import HealthCheck, Phase, given, settings

    leaf = next(leaf for leaf in LEAVES if leaf.__name__ == name)

    @settings(max_examples=2, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(LEAF_STRATEGIES[leaf])
    def shows(pattern: ow.Pattern) -> None:
        text = pattern._repr_html_()
        ElementTree.fromstring(text)  # well-formed
        assert f"{name}(" in text and "<svg" in text
        assert ("made-up annotations" in text) == bool(pattern.needs)

    shows()


def test_the_zoo_and_heads_show_themselves() -> None:
    for pattern in (zoo.source_code(), zoo.block_diffusion(), zoo.sparse_transformer_strided(), Grid((9, 9), 3)):
        ElementTree.fromstring(pattern_html(pattern))
    heads = PerHead(*(Window(before=n % 10) for n in range(12)))
    text = pattern_html(heads)
    assert "head 0, 10:" in text and "and 2 more kinds of head" in text
    custom = Causal() & Custom(lambda q, k: (q - k) % 3 == 0, "<b>thirds</b>")
    assert "on 64 positions" in pattern_html(custom) and "<b>" not in pattern_html(custom)


def test_a_layout_says_what_it_is() -> None:
    layout = ow.compile_layout(zoo.sparse_transformer_strided(128), q_len=8192, kv_len=8192)
    text = layout_text(layout)
    assert repr(layout) == text and text.count("\n") == 5
    assert re.search(r"8,192 queries x 8,192 keys, blocks 64 x 64, batch 1, heads 1, [\d.]+ [KM]iB", text)
    allowed = sum(min(q + 1, 128) + q // 128 for q in range(8192))
    assert f"density {allowed / 8192**2:.4g}" in text and f"{allowed:,} of 67,108,864 pairs allowed" in text
    assert f"executed over useful {layout.executed_over_useful:.3g}" in text
    assert "as plain blocks executed over useful would be 13.6" in text
    assert "natural order | 128 x 128 blocks" in text and "sorted: Strided(stride=128) |" in text
    html = layout_html(layout)
    ElementTree.fromstring(html)
    assert layout._repr_html_() == html and "block density" in html


def test_odd_layouts_say_what_they_are() -> None:
    empty = ow.compile_layout(~Dense(), q_len=3, kv_len=3)
    assert "undefined (no pair is allowed)" in repr(empty) and "3 empty rows" in repr(empty)
    nothing = ow.compile_layout(Causal(), q_len=0, kv_len=0)
    assert "0 queries x 0 keys" in repr(nothing)
    masked = ow.BlockLayout.from_mask(np.tri(5, dtype=bool))
    assert "15 of 25 pairs allowed" in repr(masked)
    many = ow.compile_layout(PerHead(*(Window(before=n) for n in range(10))), q_len=64, kv_len=64)
    assert "plane 9:" in repr(many) and "and 2 more planes" in layout_html(many)
    for layout in (empty, nothing, masked, many):
        ElementTree.fromstring(layout_html(layout))
    notes = Annotations(6, links={"use": [[3, 5, 0, 2]]})
    linked = ow.compile_layout(Linked("use"), q_len=6, kv_len=6, annotations=notes)
    assert "4 of 36 pairs allowed, 4 empty rows" in repr(linked)
