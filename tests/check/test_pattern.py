"""`check_pattern`: every violation is found, pair by pair, and nothing else is."""

from __future__ import annotations

import _pydecimal
import inspect
import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import openwork as ow
from openwork.annotate import annotator, byte_offsets, combine, documents, html_headings, python_source
from openwork.check import CheckReport, check_pattern
from openwork.check.pairs import ACROSS, FUTURE, count_pairs, first_pairs, keys_of
from openwork.errors import AnnotationError, ArgumentError, LayoutError
from openwork.patterns import zoo
from openwork.testing.strategies import facts as drawn_facts
from openwork.testing.strategies import patterns

SOURCE = inspect.getsource(_pydecimal)[:9_000]
OFFSETS = byte_offsets(SOURCE)


def kinds(report: CheckReport) -> dict[str, int]:
    return {finding.kind: finding.count for finding in report.findings}


def examples(report: CheckReport, kind: str) -> list[tuple[int | None, int | None]]:
    (finding,) = (finding for finding in report.findings if finding.kind == kind)
    return [(example.query, example.key) for example in finding.examples]


@pytest.mark.filterwarnings("ignore::openwork.errors.AnnotationWarning")
@settings(max_examples=80)
@given(data=st.data(), pattern=patterns(), n=st.integers(1, 130))
def test_violations_are_those_of_the_dense_mask(oracle, data, pattern, n) -> None:
    notes = data.draw(drawn_facts(n))
    (plane,) = ow.compile_layout(pattern, q_len=n, kv_len=n, annotations=notes).planes
    allowed = oracle.mask(pattern, n, notes)
    position = np.arange(n)
    labels = next(iter(notes.labels.values()))
    q, k = labels[:, None], labels[None]
    for rule, values, broken in (
        (FUTURE, position, allowed & (position[None] > position[:, None])),
        (ACROSS, labels, allowed & (q != k) & (q >= 0) & (k >= 0)),
    ):
        counts = count_pairs(plane, rule, values, values)
        assert counts.tolist() == broken.sum(axis=1).tolist()
        assert first_pairs(plane, rule, values, values, counts, 4) == [
            (int(a), int(b)) for a, b in np.argwhere(broken)[:4]
        ]
    query = data.draw(st.integers(0, n - 1))
    assert keys_of(plane, query).tolist() == np.flatnonzero(allowed[query]).tolist()


@pytest.mark.parametrize(
    "text", ["Dense()", "~Causal()", "~Same('document')", "Chunk(128) | Strided(7)", "Keys('error')"]
)
def test_whole_blocks_are_counted_as_their_pairs_are(oracle, text) -> None:
    n, pattern = 600, ow.parse_pattern(text)
    notes = oracle.facts(n)
    labels = np.where(np.arange(n) % 300 < 20, -1, np.arange(n) // 200)
    notes = ow.Annotations(n, flags=notes.flags, labels={"document": labels})
    report = check_pattern(pattern, annotations=notes, layers=1)
    allowed = oracle.mask(pattern, n, notes)
    q, k = labels[:, None], labels[None]
    assert kinds(report).get("future", 0) == np.triu(allowed, 1).sum()
    assert kinds(report).get("across", 0) == (allowed & (q != k) & (q >= 0) & (k >= 0)).sum()


@pytest.mark.parametrize("place", [(0, 299), (63, 64), (130, 131), (298, 299)])
def test_a_single_leak_is_found_and_named(place) -> None:
    mask = np.tril(np.ones((300, 300), dtype=bool))
    mask[place] = True
    report = check_pattern(ow.BlockLayout.from_mask(mask), layers=1)
    assert kinds(report) == {"future": 1}
    assert examples(report, "future") == [place]
    assert not report.ok and report.problems() == ("1 pair of a query and a later key",)


def test_a_single_pair_across_documents_is_found_and_named() -> None:
    notes = documents([100, 150, 50])
    pattern = ow.Causal() & ow.Same("document")
    clean = check_pattern(pattern, annotations=notes, layers=1)
    assert clean.ok and clean.findings == () and clean.documents
    mask = ow.compile_layout(pattern, q_len=300, kv_len=300, annotations=notes).to_dense()[0, 0]
    mask[100, 99] = True
    report = check_pattern(ow.BlockLayout.from_mask(mask), annotations=notes, layers=1)
    assert kinds(report) == {"across": 1}
    assert examples(report, "across") == [(100, 99)]


def test_a_window_over_packed_documents_crosses_them() -> None:
    report = check_pattern(ow.Causal() & ow.Window(before=3), annotations=documents([5, 6]), layers=1)
    assert kinds(report) == {"across": 6}
    assert examples(report, "across") == [(5, 2), (5, 3), (5, 4), (6, 3), (6, 4)]
    assert "query 5 sees key 2" in repr(report)


def test_padding_is_neither_empty_nor_crossed() -> None:
    report = check_pattern(ow.Causal() & ow.Same("document"), annotations=documents([5, 6], padded_to=20), layers=1)
    assert report.findings == ()
    crossed = check_pattern(ow.Causal(), annotations=documents([5, 6], padded_to=20), layers=1)
    assert kinds(crossed) == {"across": 30}


def test_without_documents_nothing_is_said_of_them() -> None:
    report = check_pattern(ow.Causal(), 10)
    assert not report.documents
    assert "no label `document`: documents are not told apart" in repr(report)


def test_empty_rows_and_keys_nobody_reads_are_found() -> None:
    report = check_pattern(ow.Causal() - ow.Window(before=2), 10, layers=1)
    assert kinds(report) == {"empty": 3, "unread": 3}
    assert examples(report, "empty") == [(0, None), (1, None), (2, None)]
    assert examples(report, "unread") == [(None, 7), (None, 8), (None, 9)]
    assert report.problems() == ("3 queries that see no key",)
    assert report.problems(["unread"]) == ("3 queries that see no key", "3 keys that no query reads")


def test_heads_are_told_apart() -> None:
    heads = ow.Causal() & ow.PerHead(ow.Dense(), ow.Strided(5) - ow.Window(before=0), ow.Dense())
    (finding,) = check_pattern(heads, 100, layers=1).findings
    assert (finding.kind, finding.heads, finding.count) == ("empty", (1,), 5)
    # what one head leaves unread, another reads
    assert check_pattern(ow.PerHead(ow.First(keys=1), ow.Causal()), 10, layers=1, bidirectional=True).ok


def test_a_plan_is_checked_layer_by_layer() -> None:
    plan = ow.Plan(default=ow.Causal(), layers={1: ow.Window(before=2, after=1), 3: ow.Causal() - ow.Window(before=0)})
    report = check_pattern(plan, 50, layers=5)
    assert [(facts.layers, kinds_of(facts)) for facts in report.facts] == [
        ((0, 2, 4), set()),
        ((1,), {"future"}),
        ((3,), {"empty", "unread"}),
    ]
    assert "layers 0, 2, 4: Causal()" in repr(report)


def kinds_of(facts) -> set[str]:
    return {finding.kind for finding in facts.findings}


def test_an_encoder_is_asked_for() -> None:
    encoder = zoo.block_sparse(16)
    report = check_pattern(encoder, 100, layers=2)
    assert report.problems() == (f"{kinds(report)['future']:,} pairs of a query and a later key",)
    allowed = check_pattern(encoder, 100, layers=2, bidirectional=True)
    assert allowed.ok and allowed.reach == report.reach and not allowed.reach.causal


def test_density_is_that_of_the_layout() -> None:
    pattern = zoo.sparse_transformer_fixed(16, c=2)
    report = check_pattern(pattern, 200, layers=1)
    layout = ow.compile_layout(pattern, q_len=200, kv_len=200)
    assert report.facts[0].density == layout.density
    assert report.facts[0].causal_density == pytest.approx(layout.allowed_pairs / (200 * 201 / 2))
    assert report.reach.after(1) == report.facts[0].causal_density


def peeking(text, offsets):
    """Flags the last character of each line, which only the next character shows to be one."""
    return ow.Annotations(len(offsets), flags={"heading": [text[b : b + 1] == "\n" for _, b in offsets]})


HEADINGS = ow.Causal() & (ow.Window(before=63) | ow.Keys("heading"))


def test_an_annotator_that_knows_the_future_is_a_leak() -> None:
    claims = annotator(peeking, causal=True)
    report = check_pattern(HEADINGS, layers=2, text=SOURCE, offsets=OFFSETS, annotator=claims)
    assert report.future is not None and not report.future.declared
    (problem,) = report.problems()
    assert problem.startswith("annotator 'peeking' knows the future: cut after token ")
    assert "flag 'heading' of token" in problem
    token = report.future.token
    assert SOURCE[:token].count("\n") + 1 == report.future.line
    assert check_pattern(HEADINGS, layers=2, text=SOURCE, offsets=OFFSETS, annotator=claims, bidirectional=True).ok


def test_an_annotator_that_says_so_is_a_leak_though_no_cut_shows_it() -> None:
    honest = annotator(python_source, causal=False)
    report = check_pattern(zoo.source_code(), layers=2, text=SOURCE, offsets=OFFSETS, annotator=honest)
    assert report.problems() == ("annotator 'python' says that it is not causal: its facts may name later tokens",)


def test_facts_that_no_pattern_reads_may_know_the_future() -> None:
    both = combine(annotator(peeking, causal=True), python_source)
    code = zoo.source_code()
    assert check_pattern(code, layers=2, text=SOURCE, offsets=OFFSETS, annotator=both).ok
    assert check_pattern(ow.Causal(), layers=2, text=SOURCE, offsets=OFFSETS, annotator=annotator(peeking)).ok
    assert not check_pattern(code | HEADINGS, layers=2, text=SOURCE, offsets=OFFSETS, annotator=both).ok


@pytest.mark.parametrize("own", [python_source, html_headings], ids=str)
def test_our_own_annotators_pass(own) -> None:
    name = next(iter(own(SOURCE, OFFSETS).flags))
    pattern = ow.Causal() & (ow.Window(before=63) | ow.Keys(name))
    report = check_pattern(pattern, layers=2, text=SOURCE, offsets=OFFSETS, annotator=own)
    assert report.future is None and report.ok


def test_links_are_listed_by_line() -> None:
    report = check_pattern(
        ow.Causal() & ow.Window(before=255), layers=2, text=SOURCE, offsets=OFFSETS, annotator=python_source
    )
    assert report.links is not None and len(report.missed) > 2
    assert report.ok
    assert report.problems(["missed"]) == (f"{len(report.missed)} links not reached in 2 layers",)
    link = report.missed[0]
    assert link.hops is not None
    line = (
        f"  line {link.query_line} uses `{link.name}`, defined at line {link.key_line}: not reached in 2 layers "
        f"({link.hops} needed)"
    )
    assert line in repr(report).splitlines()
    assert (
        check_pattern(zoo.source_code(), layers=2, text=SOURCE, offsets=OFFSETS, annotator=python_source).problems(
            ["missed"]
        )
        == ()
    )


def test_findings_on_a_text_name_lines() -> None:
    text = "one\ntwo\nthree\n"
    report = check_pattern(ow.Window(before=0, after=1), layers=1, text=text, offsets=byte_offsets(text))
    assert "query 3 (line 1) sees key 4 (line 2)" in repr(report)
    assert report.links is None


def test_a_single_pattern_is_followed_past_the_models_layers() -> None:
    report = check_pattern(ow.Causal() & ow.Window(before=10), 101, layers=2)
    assert (report.num_layers, report.reach.hops, len(report.reach.coverage)) == (2, 10, 64)
    assert report.facts[0].layers == (0, 1)
    assert report.problems(["unreached"]) == ("not every pair is connected in 2 layers",)
    assert check_pattern(ow.Causal() & ow.Window(before=10), 101, layers=10).problems(["unreached"]) == ()
    plan = ow.Plan(default=ow.Causal() & ow.Window(before=10), layers={1: ow.Causal()})
    assert len(check_pattern(plan, 101, layers=2).reach.coverage) == 2


def test_an_empty_annotation_is_noted() -> None:
    notes = ow.Annotations(20, flags={"heading": np.zeros(20, dtype=bool)})
    report = check_pattern(HEADINGS, annotations=notes)
    assert report.length == 20
    assert any("is empty in annotations" in note for note in report.notes)


def test_a_report_is_json() -> None:
    report = check_pattern(HEADINGS, layers=2, text=SOURCE, offsets=OFFSETS, annotator=annotator(peeking, causal=True))
    read = json.loads(json.dumps(report.to_dict(["missed"])))
    assert read["ok"] is False and read["problems"] == list(report.problems(["missed"]))
    assert read["layers"][0]["density"] == report.facts[0].density
    assert read["reach"]["coverage"] == list(report.reach.coverage)
    assert read["future_knowledge"]["annotator"] == "peeking"
    assert hash(report) == hash(report) and report == report


def test_nothing_of_all_pairs_is_ever_held() -> None:
    n = 30_000
    pattern = ow.Causal() & (ow.Window(before=100) | ow.First(keys=8)) | ow.Window(before=0, after=1)
    layout = ow.compile_layout(pattern, q_len=n, kv_len=n)
    tracemalloc.start()
    for plane in layout.planes:
        counts = count_pairs(plane, FUTURE, np.arange(n), np.arange(n))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert counts.sum() == n - 1
    assert peak < n * n / 8


def test_what_cannot_be_checked_is_said() -> None:
    with pytest.raises(ArgumentError, match="check_pattern needs offsets with text"):
        check_pattern(ow.Causal(), text="ab")
    with pytest.raises(ArgumentError, match="length=3, but the text has 2 tokens; leave length out"):
        check_pattern(ow.Causal(), 3, text="ab", offsets=byte_offsets("ab"))
    with pytest.raises(ArgumentError, match="a plan whose layers differ needs to know how many there are: layers=12"):
        check_pattern(ow.Plan(default=ow.Causal(), layers={1: ow.Dense()}), 9)
    with pytest.raises(ArgumentError, match="length must be 1 or more tokens; got None"):
        check_pattern(ow.Causal())
    with pytest.raises(ArgumentError, match="layers must be 1 to 4096; got 0"):
        check_pattern(ow.Causal(), 4, layers=0)
    with pytest.raises(ArgumentError, match="there is no 'leaks' to fail on; there are missed, unread, unreached"):
        check_pattern(ow.Causal(), 4).problems(["leaks"])
    with pytest.raises(AnnotationError, match="reads the flag 'heading'"):
        check_pattern(HEADINGS, 4)
    with pytest.raises(LayoutError, match="q_len=2 and kv_len=3"):
        check_pattern(ow.BlockLayout.from_mask(np.ones((2, 3), dtype=bool)))
