"""Evaluations: what is summed where, when a curve gets its points, and which tokens are uses."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from openwork.annotate import byte_offsets
from openwork.study import StudyConfig, contender_from_text
from openwork.study.batches import Batch, Batches
from openwork.study.corpus import Document
from openwork.study.evaluate import Evaluator, evaluation_due
from openwork.study.record import USE_CLASSES, position_edges
from openwork.study.state import RunState
from openwork.study.tokenizer import load_tokenizer
from openwork.study.tokens import TokenStream
from openwork.study.uses import UseTokens, find_uses, narrowest_window, use_window

Tiny = Callable[..., StudyConfig]
SEQ_LEN, AVAILABLE = 12, 20

CODE = """\
def area(w, h):
    return w * h

class Box:
    def size(self):
        return area(self.w, 3)

x = Box
print(area(1, 2))
"""


@pytest.fixture(autouse=True)
def small_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves of four sequences here, not of 4,096 tokens."""
    monkeypatch.setattr("openwork.study.config._FEWEST_CURVE_TOKENS", 4 * SEQ_LEN)


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def stream_of(*texts: str, root: Path) -> TokenStream:
    """A byte stream over Python files with these texts."""
    tokenizer, documents, ids, firsts = load_tokenizer(None), [], [], []
    for number, text in enumerate(texts):
        (root / f"{number}.py").write_text(text)
        documents.append(Document(f"{number}.py", len(text), digest_of(text)))
        firsts.append(sum(map(len, ids)))
        ids.append(np.concatenate([[tokenizer.separator], *tokenizer.encode([text])]).astype(np.int32))
    return TokenStream(np.concatenate(ids), np.array(firsts), tuple(documents))


def evaluate(config: StudyConfig, state: RunState, *, stop: int | None = None, whole: bool = True) -> None:
    """An evaluation of made losses that differ at every token; stopped after `stop` batches."""
    stream = TokenStream(np.arange(SEQ_LEN * AVAILABLE + 1, dtype=np.int32), np.array([0]), ())
    batches = Batches(stream, seq_len=SEQ_LEN, batch_size=config.batch_size, seed=0)
    done = 0

    def after(first: int, total: int) -> None:
        nonlocal done
        done += 1
        if done == stop:
            raise InterruptedError

    def losses(batch: Batch) -> torch.Tensor:
        return torch.from_numpy(batch.targets).float().mul(0.1).sin()

    Evaluator(config, batches, AVAILABLE).run(state, losses, after, whole=whole)


def expected(first: int, stop: int) -> np.ndarray:
    """The made losses of these sequences, [sequences, SEQ_LEN]."""
    targets = torch.arange(first * SEQ_LEN + 1, stop * SEQ_LEN + 1).view(-1, SEQ_LEN)
    return targets.float().mul(0.1).sin().double().numpy()


def test_nats_are_summed_over_all_over_the_first_and_by_position(tiny: Tiny) -> None:
    config, state = tiny(seq_len=SEQ_LEN, batch_size=3, eval_tokens=SEQ_LEN * 17), RunState(step=5, spent_s=2.0)
    evaluate(config, state)
    assert config.num_curve_sequences(AVAILABLE) == 6
    assert state.final["nats"] == pytest.approx(expected(0, 17).sum(), rel=1e-12)
    ((step, spent_s, curve),) = state.evaluated
    assert (step, spent_s) == (5, 2.0) and curve == pytest.approx(expected(0, 6).sum(), rel=1e-12)
    edges = position_edges(SEQ_LEN)
    for nats, low, high in zip(state.final["position_nats"], edges, edges[1:], strict=False):
        assert nats == pytest.approx(expected(0, 17)[:, low:high].sum(), abs=1e-9)
    assert len(state.final["position_nats"]) == len(edges) - 1
    on_the_way = RunState(step=5, spent_s=2.0)
    evaluate(config, on_the_way, whole=False)
    assert on_the_way.evaluated == state.evaluated and not on_the_way.final


@pytest.mark.parametrize("stop", [1, 2, 5])
def test_a_stopped_evaluation_ends_with_the_same_bits(tiny: Tiny, stop: int) -> None:
    config = tiny(seq_len=SEQ_LEN, batch_size=3, eval_tokens=SEQ_LEN * 17)
    whole, broken = RunState(step=5), RunState(step=5)
    evaluate(config, whole)
    with pytest.raises(InterruptedError):
        evaluate(config, broken, stop=stop)
    assert broken.tally["sequences"] == 3 * stop and not broken.final
    evaluate(config, broken)
    assert (broken.final, broken.evaluated) == (whole.final, whole.evaluated)


def test_a_curve_takes_an_eighth_of_the_text_but_enough_of_it(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    # the demo's: 4 sequences at the end, one on the way
    assert tiny(seq_len=8192, batch_size=1, eval_tokens=32768).num_curve_sequences(99) == 1
    assert tiny(seq_len=1024, batch_size=4, eval_tokens=262144).num_curve_sequences(999) == 32
    assert tiny(seq_len=1024, batch_size=3, eval_tokens=8192).num_curve_sequences(999) == 6
    assert tiny(seq_len=96, batch_size=2, eval_tokens=400).num_curve_sequences(999) == 4


def test_a_last_step_that_was_measured_on_the_way_gets_no_second_point(tiny: Tiny) -> None:
    config, state = tiny(seq_len=SEQ_LEN), RunState(step=5)
    evaluate(config, state, whole=False)
    evaluate(config, state)
    assert len(state.evaluated) == 1 and state.final


@pytest.mark.parametrize("seq_len", [2, 96, 1000, 4096, 131072])
def test_buckets_divide_every_length(seq_len: int) -> None:
    edges = position_edges(seq_len)
    assert edges[0] == 0 and edges[-1] == seq_len and list(edges) == sorted(set(edges))
    assert len(edges) <= 33 and (seq_len < 1000 or len(edges) > 17)


def points(config: StudyConfig, steps: int, seconds: float) -> list[int]:
    """The steps at which a run of so many equal steps would be measured on the way."""
    state, found = RunState(), []
    for step in range(1, steps):
        state.step, state.spent_s = step, step * seconds / steps
        if evaluation_due(config, state):
            found.append(step)
            state.evaluated.append((step, state.spent_s, 1.0))
            assert not evaluation_due(config, state)
    return found


def test_curves_have_points_under_steps_and_under_seconds(tiny: Tiny) -> None:
    steps, seconds = tiny(steps=80, eval_every=None), replace(tiny(eval_every=None), steps=None, seconds=4.0)
    assert points(steps, 80, 99.0) == points(seconds, 80, 4.0) == [10, 20, 30, 40, 50, 60, 70]
    # whichever is further; and slow steps give fewer points, never two at one step
    assert points(replace(seconds, steps=1000), 80, 4.0) == [10, 20, 30, 40, 50, 60, 70]
    assert points(replace(seconds, steps=40), 40, 0.1) == [5, 10, 15, 20, 25, 30, 35]
    assert points(seconds, 6, 4.0) == [1, 2, 3, 4, 5]
    assert points(tiny(steps=80, eval_every=30), 80, 1.0) == [30, 60]
    assert points(tiny(steps=80, eval_every=0), 80, 1.0) == []


def text_of(text: str, classes: np.ndarray, name: str) -> str:
    """The predicted bytes of one class, others as dots; the first byte of a text follows the separator."""
    wanted = classes == USE_CLASSES.index(name)
    return "".join(char if is_wanted else "." for char, is_wanted in zip(text, wanted, strict=True))


def test_uses_are_their_names_and_what_follows_them(tmp_path: Path) -> None:
    stream = stream_of(CODE, root=tmp_path)
    uses = UseTokens(stream, tmp_path, load_tokenizer(None), window=500, stop=len(stream.ids))
    classes = uses.classes(0, len(CODE))
    names, after = text_of(CODE, classes, "name_inside"), text_of(CODE, classes, "after_inside")
    assert uses.available and not np.isin(classes, [2, 4]).any()
    # a called name ends with its bracket; what the queries in the brackets predict follows it, and one token more
    call, end = CODE.index("area(self"), CODE.index("\n\nx = Box") + 1
    assert (names[call : end + 1], after[call : end + 1]) == ("area(" + "." * 12, "....." + "self.w, 3)\n.")
    # a name that is not called ends with the next character, and one more token is predicted from there
    box = CODE.index("Box\n")
    assert (names[box : box + 5], after[box : box + 5]) == ("Box\n.", "....p")
    # the definitions' own names are no uses
    assert set(names[: CODE.index(":")]) == {"."}


def test_a_definition_is_outside_from_the_first_key_that_the_window_misses(tmp_path: Path) -> None:
    stream = stream_of(CODE, root=tmp_path)
    # token 0 is the separator; `last` is the key of the first line's colon, `call` that of the first call's bracket
    last, call = CODE.index(":") + 1, CODE.index("area(self") + 5
    uses = UseTokens(stream, tmp_path, load_tokenizer(None), window=call - last, stop=len(stream.ids))
    classes = uses.classes(0, len(CODE))
    # the query at the bracket sees the colon and predicts the `s`; the next one does not
    first = CODE.index("self.w")
    assert classes[first - 5 : first + 4].tolist() == [1, 1, 1, 1, 1, 3, 4, 4, 4]
    allowed = contender_from_text(f"Causal() & Window(before={call - last})").plan
    assert allowed is not None and allowed.default.allows(call, last) and not allowed.default.allows(call + 1, last)


def test_a_definition_before_the_sequence_counts_for_nothing(tmp_path: Path) -> None:
    stream = stream_of(CODE, root=tmp_path)
    uses = UseTokens(stream, tmp_path, load_tokenizer(None), window=3, stop=len(stream.ids))
    first = CODE.index("area(1") - 4
    assert not uses.classes(first, 16).any()
    assert uses.classes(0, first + 16)[first:].any()


def test_a_use_ends_with_its_document(tmp_path: Path) -> None:
    text = "def f():\n    pass\nf(1"
    stream = stream_of(text, "x = 1\n", root=tmp_path)
    uses = UseTokens(stream, tmp_path, load_tokenizer(None), window=99, stop=len(stream.ids))
    classes = uses.classes(0, len(stream.ids) - 1)
    assert classes[len(text) - 3 : len(text)].tolist() == [1, 1, 3] and not classes[len(text) :].any()


@pytest.mark.parametrize(
    ("cuts", "classes"),
    [
        (("f", "oo", "(", "1"), [1, 1, 1, 3]),
        ((" ", "foo", "(1"), [0, 1, 1]),
        ((" foo", "(", "1"), [1, 1, 3]),
        ((" foo(", "1"), [1, 3]),
        (("foo(", "1"), [1, 3]),
    ],
)
def test_names_are_found_whatever_the_tokens(cuts: tuple[str, ...], classes: list[int], tmp_path: Path) -> None:
    head = "def foo(a):\n  pass\n"
    text = head + "if a:\n" + "".join(cuts)

    class Cut:
        """Bytes up to the use, then the tokens that the test names."""

        separator, vocab_size = 256, 257

        def offsets(self, text: str) -> np.ndarray:
            before = len(text) - sum(map(len, cuts))
            ends = before + np.cumsum([len(cut) for cut in cuts])
            return np.concatenate([byte_offsets(text[:before]), np.stack([ends - [len(c) for c in cuts], ends], 1)])

    (tmp_path / "0.py").write_text(text)
    num_tokens = len(Cut().offsets(text))
    stream = TokenStream(
        np.zeros(num_tokens + 1, np.int32), np.array([0]), (Document("0.py", len(text), digest_of(text)),)
    )
    uses = UseTokens(stream, tmp_path, Cut(), window=99, stop=num_tokens + 1)
    assert uses.classes(0, num_tokens)[-len(cuts) :].tolist() == classes


def test_the_narrowest_window_divides_uses(tiny: Tiny) -> None:
    def windows(*patterns: str) -> int | None:
        return narrowest_window([contender_from_text(pattern) for pattern in patterns])

    assert windows("Causal() & (Window(before=255) | First(keys=4))", "Causal() & Dilated(before=63, step=2)") == 63
    assert windows("Causal() & PerHead(Window(before=9), Causal())") == 9
    assert windows("Causal() - Window(before=3)", "Causal() & Window(before=None, after=0)") is None
    assert use_window(tiny(seq_len=96)) == 12


def test_text_without_uses_has_none(tiny: Tiny, tmp_path: Path) -> None:
    stream = stream_of("plain text " * 30, root=tmp_path)
    (tmp_path / "0.txt").write_text("plain text " * 30)
    plain = TokenStream(stream.ids, stream.firsts, (Document("0.txt", 330, digest_of("plain text " * 30)),))
    assert find_uses(tiny(seq_len=32), plain, tmp_path, load_tokenizer(None)) is None
    assert find_uses(tiny(seq_len=32), stream, tmp_path, load_tokenizer(None)) is not None


def test_positions_say_whether_context_still_helps() -> None:
    assert math.isclose(position_edges(4096)[-2], 4096 / 2**0.5, rel_tol=1e-3)
