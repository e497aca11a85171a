"""A model of the user's own: trained like the study's, refused in one line where it cannot be."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from openwork.check import reachability
from openwork.cli.main import main
from openwork.errors import OpenworkError, PlanError, StudyError
from openwork.nn import Decoder
from openwork.patterns import Causal, PerHead, Window
from openwork.plan import Plan
from openwork.study import Contender, StudyConfig, StudyResult, contender_from_text, run
from openwork.study.corpus import read_corpus
from openwork.study.folder import StudyFolder
from openwork.study.model import StudyModel, make_model, model_facts
from openwork.study.model_source import model_source
from openwork.study.prepare import prepare_data
from openwork.study.report.reach import model_reach
from openwork.study.shapes import MODEL_SHAPES, ModelFacts, facts_of_shape
from openwork.study.state import load_checkpoint
from openwork.study.trainer import Interrupted, StudyData, Trainer

WINDOW = contender_from_text("window: Causal() & Window(before=7)")
Tiny = Callable[..., StudyConfig]

MINE = """
import torch
from openwork.nn import SparseAttention

class Model(torch.nn.Module):
    def __init__(self, vocab_size, dim=32):
        super().__init__()
        self.embedding = torch.nn.Embedding(vocab_size, dim)
        self.layers = torch.nn.ModuleList(SparseAttention(dim, q_heads=4) for _ in range(3))
        self.dropout = torch.nn.Dropout(0.2)
        self.head = torch.nn.Linear(dim, vocab_size)

    def forward(self, tokens, layouts):
        hidden = self.embedding(tokens)
        for layer, layout in zip(self.layers, layouts, strict=True):
            hidden = hidden + self.dropout(layer(hidden, layout))
        return self.head(hidden)
"""
TINY_AS_A_FILE = """
from dataclasses import asdict
from openwork.nn import Decoder, DecoderConfig
from openwork.study import MODEL_SHAPES

def make(vocab_size):
    return Decoder(DecoderConfig(vocab_size=vocab_size, **asdict(MODEL_SHAPES["tiny"])))
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


@pytest.fixture(scope="module")
def data(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyData:
    config = StudyConfig(data=texts, tokenizer="bytes", seq_len=96)
    return prepare_data(config, read_corpus(texts), StudyFolder(tmp_path_factory.mktemp("data")), lambda event: None)


@pytest.mark.parametrize("name", MODEL_SHAPES)
def test_a_shape_is_what_is_counted_in_its_model(name: str, tmp_path: Path) -> None:
    (tmp_path / "shape.py").write_text(TINY_AS_A_FILE.replace('"tiny"', repr(name)))
    config = StudyConfig(data="texts", seq_len=8, device="cpu", model=f"{tmp_path}/shape.py:make")
    facts = facts_of_shape(name, 300)
    assert model_facts(config, 300) == facts == ModelFacts.from_dict(json.loads(json.dumps(facts.to_dict())))
    module = make_model(replace(config, model=name), 300).module
    assert isinstance(module, Decoder) and module.num_parameters == facts.num_parameters


def test_a_table_that_is_only_looked_up_in_is_no_matrix(mine: Path) -> None:
    config = StudyConfig(data="texts", seq_len=8, device="cpu", model=f"{mine}:Model")
    facts = model_facts(config, 100)
    assert facts.matrix_numbers == 3 * 4 * 32 * 32 + 32 * 100
    assert facts.num_parameters == facts.matrix_numbers + 100 * 32 + 100
    assert facts.heads == (4,) and facts.num_layers == 3 and facts.mixes == (0, 0, 0, 0)


def test_a_decoder_from_a_file_trains_like_the_studys_own(tiny: Tiny, data: StudyData, tmp_path: Path) -> None:
    (tmp_path / "again.py").write_text(TINY_AS_A_FILE)
    losses = []
    for model in ("tiny", f"{tmp_path}/again.py:make"):
        place = tmp_path / str(len(losses))
        place.mkdir()
        losses.append(Trainer(tiny(model=model, checkpointing=True), WINDOW, 0, data, place).run().losses)
    assert losses[0] == losses[1]


def test_a_run_that_was_stopped_ends_like_an_unbroken_one(
    mine: Path, tiny: Tiny, data: StudyData, tmp_path: Path
) -> None:
    config = tiny(model=f"{mine}:Model", dense_steps=2, eval_every=2, checkpoint_seconds=0.0)
    ends = []
    for name, stops in (("whole", ()), ("broken", (2, 3, 4))):
        place = tmp_path / name
        place.mkdir()
        for pieces in stops:
            left = iter(range(pieces))
            with pytest.raises(Interrupted):
                Trainer(config, WINDOW, 0, data, place, stop=lambda left=left: next(left, None) is None).run()
        state = Trainer(config, WINDOW, 0, data, place).run()
        loaded = load_checkpoint(place / "checkpoint.pt")
        assert loaded is not None
        ends.append((state, loaded[1]["model"]))
    (whole, weights), (broken, others) = ends
    assert (whole.sessions, broken.sessions) == (1, 4)
    assert whole.losses == broken.losses and whole.final == broken.final
    assert all(torch.equal(tensor, others[name]) for name, tensor in weights.items())


def test_quality_is_measured_without_dropout(mine: Path, tiny: Tiny, data: StudyData, tmp_path: Path) -> None:
    trainer = Trainer(tiny(model=f"{mine}:Model", eval_every=2), WINDOW, 0, data, tmp_path)
    modes: list[tuple[bool, bool]] = []
    real = trainer._loss

    def watched(*arguments: Any) -> torch.Tensor:
        modes.append((trainer.model.training, torch.is_grad_enabled()))
        return real(*arguments)

    trainer._loss = watched  # type: ignore[method-assign]
    trainer.run()
    assert set(modes) == {(True, True), (False, False)}


def test_a_part_that_is_kept_without_dropout_stays_so_after_an_evaluation() -> None:
    module = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Dropout()))
    module[1].eval()
    module[1][1].train()
    model, before = StudyModel(module), [part.training for part in module.modules()]
    with model.evaluating():
        assert not any(part.training for part in module.modules())
    assert [part.training for part in module.modules()] == before == [True, True, False, False, True]


def test_a_study_of_the_users_model_has_all_that_a_study_has(mine: Path, tiny: Tiny, tmp_path: Path) -> None:
    np.save(tmp_path / "mask.npy", np.random.default_rng(0).random((4, 96, 96)) < 0.5)
    heads = PerHead(*(Causal() & Window(before=n) for n in (3, 3, 15, 15)))
    plans = (
        WINDOW,
        Contender(name="heads", plan=Plan(default=heads, layers={2: Causal()})),
        Contender(name="mask", mask=tmp_path / "mask.npy"),
    )
    config = tiny(model=f"{mine}:Model", contenders=plans, steps=3)
    result = run(config)
    assert [row.name for row in result.rows] == ["dense", "window", "heads", "mask"]
    assert len({record.losses[0] for record in result.records}) > 1
    window = result.rows[1]
    dense_flops, flops = (
        6 * 96 * result.model.matrix_numbers + 3.5 * 4 * density * 96 * 97 / 2 * 32 * 3
        for density in (1, window.causal_density)
    )
    assert window.step_ideal == pytest.approx(dense_flops / flops)
    page = (config.out / "report.html").read_text()
    assert "heads: layer 0 head 2, layer 0 head 3" in page and "heads: layer 2" in page and "after 3 layers" in page
    record = json.loads((config.out / "record.json").read_text())
    assert StudyResult.from_dict(record).model == result.model
    assert record["config"]["model"] == f"{mine}:Model" and len(record["config"]["model_sha256"]) == 64
    with pytest.raises(PlanError, match="names layer 5, but the model has 3 layers"):
        run(replace(config, contenders=(Contender(name="x", plan=Plan(default=Causal(), layers={5: Causal()})),)))
    np.save(tmp_path / "two.npy", np.ones((2, 96, 96), dtype=bool))
    with pytest.raises(OpenworkError, match="is for 2 heads, but the model has 4 query heads"):
        run(replace(config, contenders=(Contender(name="x", mask=tmp_path / "two.npy"),)))


def test_a_worker_has_the_model_and_a_changed_file_is_refused(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("beside.py").write_text(MINE)
    # what it prints is no event of the study, and what stands beside it is found
    Path("pack").mkdir()
    Path("pack/mine.py").write_text(
        "from beside import Model\ndef make(n):\n    print('{no event')\n    return Model(n)"
    )
    options = "--tokenizer bytes --seq-len 96 --batch-size 2 --steps 2 --device cpu --json --out out".split()
    arguments = ["study", "--data", str(texts), "--pattern", "Causal() & Window(before=7)", *options]
    arguments += ["--model", "pack.mine:make"]
    assert main(arguments) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert all(row["peak_bytes"] for row in result["rows"]) and result["config"]["model"] == "pack.mine:make"
    Path("pack/mine.py").write_text("from beside import Model as make")
    assert main(arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "holds a study with other options: --model (the file of pack.mine:make has changed)" in error


def test_a_file_that_changes_under_a_study_is_refused(mine: Path, tiny: Tiny, data: StudyData, tmp_path: Path) -> None:
    config = tiny(model=f"{mine}:Model", model_sha256="0" * 64)
    with pytest.raises(StudyError, match=r"mine.py has changed since the study began; change it back"):
        Trainer(config, WINDOW, 0, data, tmp_path).run()


def test_what_the_model_raises_while_it_trains_is_one_line(
    mine: Path, tiny: Tiny, data: StudyData, tmp_path: Path
) -> None:
    late = "        if self.training: raise ValueError('too late')\n        hidden = self.embedding(tokens)\n"
    mine.write_text(MINE.replace("        hidden = self.embedding(tokens)\n", late))
    with pytest.raises(StudyError, match=r"mine.py:Model raised ValueError at line 14 of mine.py: too late\."):
        Trainer(tiny(model=f"{mine}:Model"), WINDOW, 0, data, tmp_path).run()


def body(**changes: str) -> str:
    """The model with some of its text replaced."""
    text = MINE
    for old, new in changes.items():
        parts = {
            "call": "self.dropout(layer(hidden, layout))",
            "head": "return self.head(hidden)",
            "takes": "def forward(self, tokens, layouts):",
            "embedding": "self.embedding = torch.nn.Embedding(vocab_size, dim)",
            "order": "zip(self.layers, layouts, strict=True)",
        }
        assert parts[old] in text
        text = text.replace(parts[old], new)
    return text


REFUSALS = {
    "no file": (None, "mine.py does not exist."),
    "no function": ("def make(n): pass", "mine.py has no function 'Model'; functions and classes in it: make."),
    "syntax": ("x = 1\ndef Model(:", "raised SyntaxError at line 2 of mine.py: invalid syntax"),
    "import": ("import nothing_like_it", "raised ModuleNotFoundError at line 1 of mine.py: No module named"),
    "raises": ("\ndef Model(n):\n    return {}['dim']", "raised KeyError at line 3 of mine.py: 'dim'."),
    "leaves": ("def Model(n):\n    raise SystemExit(3)", "raised SystemExit at line 2 of mine.py: 3."),
    "no module": ("def Model(n): return n", "Model(vocab_size) gave a value of type int; it must return a torch.nn"),
    "a class": ("def Model(n): return dict", "Model(vocab_size) gave the class dict; it must return a torch.nn"),
    "no attention": (
        "import torch\ndef Model(n): return torch.nn.Linear(2, n)",
        "Linear has no openwork.nn.SparseAttention layer, so a plan cannot be plugged in; use it for the attention.",
    ),
    "frozen": (
        MINE + "\nmake = Model\ndef Model(n): return make(n).requires_grad_(False)",
        "Model has no parameter that requires a gradient, so there is nothing to train.",
    ),
    "chance": (
        MINE.replace("import torch\n", "import torch, random\n").replace(
            "        self.dropout",
            "        self.head_gain = torch.nn.Parameter(torch.tensor(random.random()))\n        self.dropout",
        ),
        "two calls after the same torch.manual_seed gave other weights (head_gain), and every plan must start from",
    ),
    "no layouts": (
        body(takes="def forward(self, tokens):"),
        "Model.forward(tokens) does not take (tokens, layouts); write forward(self, tokens, layouts)",
    ),
    "layouts not used": (
        body(call="layer(hidden)"),
        "SparseAttention layer 0 was not given layouts[0] by forward(tokens, layouts)",
    ),
    "layouts mixed up": (
        body(order="zip(self.layers, (layouts[0], layouts[2], layouts[1]), strict=True)"),
        "SparseAttention layer 1 was not given layouts[1] by forward(tokens, layouts)",
    ),
    "layer not used": (body(order="zip(self.layers[:2], layouts)"), "SparseAttention layer 2 was not called by"),
    "logits": (
        body(head="return self.head(hidden)[..., :9]"),
        "forward(tokens, layouts) gave [2, 96, 9] for tokens [2, 96]; it must give logits [batch, seq_len, "
        "vocab_size], here [2, 96, 257].",
    ),
    "no tensor": (body(head="return self.head(hidden), 1"), "gave tuple for tokens [2, 96]; it must give logits"),
    "too short": (
        body(embedding="self.embedding = torch.nn.Embedding(vocab_size - 200, dim)"),
        "raised IndexError at line 14 of mine.py: index out of range",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_studied_is_one_line_and_a_code(
    case: str, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text, message = REFUSALS[case]
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("mine.py").write_text(text)
    options = "--tokenizer bytes --seq-len 96 --batch-size 2 --steps 2 --device cpu --model mine.py:Model".split()
    assert main(["study", "--data", str(texts), *options]) == 2
    output = capsys.readouterr()
    lines = output.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: --model mine.py:Model") and message in lines[0], lines
    assert output.out == "" and {path.name for path in tmp_path.iterdir()} <= {"mine.py"}


def test_checkpointing_asks_the_model(mine: Path) -> None:
    config = StudyConfig(data="texts", model=f"{mine}:Model", checkpointing=True)
    with pytest.raises(StudyError, match=r"--checkpointing: Model has no attribute `checkpointing`; give it one"):
        make_model(config, 100)


@pytest.mark.parametrize(
    "text", ["huge", "mine.py", "mine.py:", ":make", "a b:make", "mine.py:not it", "a/mine.py", "a/mine.py:", ""]
)
def test_a_text_that_names_no_model_is_refused(text: str) -> None:
    words = re.escape("--model must be one of tiny, small, base, FILE.py:FUNCTION (or package.module:FUNCTION)")
    rest = r"for a model of your own, a folder with a Hugging Face checkpoint .*, or a config.json"
    with pytest.raises(StudyError, match=rf"{words} {rest}; got '{text}'\."):
        model_source(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no_such_package.model:make", "there is no module no_such_package in .* name the file instead, FILE.py"),
        ("json.no_such:make", r"there is no module json.no_such in "),
        ("math:sqrt", "math is no Python file; name the module that is one"),
    ],
)
def test_a_module_that_is_not_there_is_named(text: str, message: str) -> None:
    source = model_source(text)
    assert source is not None
    with pytest.raises(StudyError, match=message):
        source.load()


CONVOLVED = """
import torch
from openwork.nn import ShortConvolution, SparseAttention

class Model(torch.nn.Module):
    def __init__(self, vocab_size, dim=32):
        super().__init__()
        self.embedding = torch.nn.Embedding(vocab_size, dim)
        self.layers = torch.nn.ModuleList(SparseAttention(dim, q_heads=2) for _ in range(2))
        self.first, self.last = ShortConvolution(dim, 3), ShortConvolution(dim, 6)

    def forward(self, tokens, layouts):
        hidden = self.first(self.embedding(tokens))
        for layer, layout in zip(self.layers, layouts, strict=True):
            hidden = hidden + layer(hidden, layout)
        return torch.nn.functional.linear(self.last(hidden), self.embedding.weight)
"""


def test_a_convolution_counts_for_reach_where_the_model_has_it(mine: Path) -> None:
    # found in the order of calls, not in that of the modules
    convolved = mine.with_name("convolved.py")
    convolved.write_text(CONVOLVED)
    config = StudyConfig(data="texts", seq_len=64, device="cpu")
    seen = {}
    for path in (mine, convolved):
        facts = model_facts(replace(config, model=f"{path}:Model"), 100)
        seen[path.stem] = facts.mixes, model_reach(facts, WINDOW, 64, None)

    def within(before: int) -> float:
        return reachability(Causal() & Window(before=before), 64, 1).coverage[0]

    assert seen["mine"][0] == (0, 0, 0, 0)
    assert seen["mine"][1].coverage == pytest.approx([within(7), within(14), within(21)])
    assert seen["convolved"][0] == (2, 0, 5)
    assert seen["convolved"][1].coverage == pytest.approx([within(2 + 7), within(2 + 14 + 5)])
    assert seen["convolved"][1].hops is None
    assert model_reach(facts, StudyConfig(data="texts").everyone[0], 64, None).hops == 1
