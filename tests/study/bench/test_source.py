"""Where a micro-run's model comes from, and what is refused in words."""

from __future__ import annotations

import pytest
import torch

from openwork.errors import StudyError
from openwork.study.bench import BenchConfig
from openwork.study.bench.homegrown import HomeGrown
from openwork.study.bench.source import bench_model
from openwork.study.contender import contender_from_text

DECODER = """
from openwork.nn import Decoder, DecoderConfig

def make(vocab_size):
    return Decoder(DecoderConfig(vocab_size=vocab_size, dim=32, num_layers=1, q_heads=2, kv_heads=1, mlp_dim=32))

def fixed():
    return make(77)
"""
ENCODER = """
import torch
from torch import nn
import openwork as ow
from openwork.nn import SparseAttention

class Encoder(nn.Module):
    def __init__(self, vocab_size=50):
        super().__init__()
        self.table = nn.Embedding(vocab_size, 16)
        self.attention = SparseAttention(16, q_heads=2, pattern=ow.Dense())
        self.head = nn.Linear(16, vocab_size)

    def forward(self, tokens, layouts):
        return self.head(self.attention(self.table(tokens), layouts[0]))
"""


def config(model: str, **changes) -> BenchConfig:
    return BenchConfig(model=model, contenders=(contender_from_text("Window(before=3)"),), **changes)


@pytest.fixture
def written(tmp_path, monkeypatch):
    def write(text: str, name: str = "mine.py") -> None:
        (tmp_path / name).write_text(text)

    monkeypatch.chdir(tmp_path)
    return write


def test_a_function_gives_the_model(written) -> None:
    written(DECODER)
    model = bench_model(config("mine.py:make"))
    assert isinstance(model, HomeGrown) and model.vocab_size == 4096 and model.causal
    assert model.title == "Decoder of mine.py:make"
    assert bench_model(config("mine.py:fixed")).vocab_size == 77


def test_a_module_that_can_be_imported_gives_the_model(written, monkeypatch) -> None:
    written(DECODER, "bench_package_model.py")
    monkeypatch.setattr("sys.path", __import__("sys").path.copy())
    assert bench_model(config("bench_package_model:fixed")).vocab_size == 77


def test_an_encoder_stays_one(written) -> None:
    written(ENCODER)
    model = bench_model(config("mine.py:Encoder"))
    assert not model.causal
    way = model.masked(config("mine.py:Encoder").contenders[0].plan, 10)
    assert way.layouts[0].allowed_pairs == sum(min(q, 3) + 1 for q in range(10))
    assert model.dense(10).layouts[0].allowed_pairs == 100


def test_weights_are_those_of_the_seed_and_in_the_dtype() -> None:
    first, second, other = (bench_model(config("tiny", seed=seed)) for seed in (1, 1, 2))
    names = dict(first.module.named_parameters())
    assert all(value.equal(names[name]) for name, value in second.module.named_parameters())
    assert not other.module.embedding.weight.equal(first.module.embedding.weight)
    low = bench_model(config("tiny", dtype="bfloat16")).module
    assert {p.dtype for p in low.parameters()} == {torch.bfloat16} and not low.training


BROKEN = """
import torch
from torch import nn

def nothing(): return 3
def plain(): return nn.Linear(2, 2)
def frozen(): return nn.Linear(2, 2).requires_grad_(False)
def meta(): return nn.Linear(2, 2, device="meta")
def raises(): raise KeyError("no such thing")
"""


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("mine.py:nothing", "MODEL mine.py:nothing: nothing gave a value of type int; it must return a module."),
        ("mine.py:plain", "Linear is no transformers model and has no openwork.nn.SparseAttention layer"),
        ("mine.py:frozen", "MODEL mine.py:frozen: Linear has no parameter that requires a gradient."),
        (
            "mine.py:meta",
            "MODEL mine.py:meta: Linear is on torch's meta device and has no numbers; make it on the CPU.",
        ),
        ("mine.py:raises", "MODEL mine.py:raises raised KeyError at line 9 of mine.py"),
        ("mine.py:absent", "mine.py has no function 'absent'; functions and classes in it: nothing, plain"),
        ("yours.py:make", "MODEL yours.py:make: yours.py does not exist."),
        ("meta-llama/Llama-3.2-1B", "A name of a model hub is not looked up: download the model, and name its folder."),
        ("huge", "or one of tiny, small, base; got 'huge', which is none of them."),
    ],
)
def test_what_is_no_model_is_refused(written, model, message) -> None:
    written(BROKEN)
    with pytest.raises(StudyError) as error:
        bench_model(config(model))
    assert message in str(error.value)
