"""What people put around a model: pipelines, copies, pickles, several processes."""

from __future__ import annotations

import copy
import io
import pickle
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import contract
import pytest
import torch
from architectures import LAYERS, by_name
from inputs import DECODER_PLAN, ENCODER_PLAN, plan_for, sequences, tokens
from oracle import Oracle
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertForMaskedLM, PreTrainedTokenizerFast, pipeline

from openwork import hf
from openwork.testing import assert_no_worse_than

WORDS = ("a quick fox jumped over the lazy dog while nine old owls sang low songs about rain",) * 2
SUPPORT = Path(__file__).parent / "support"


@pytest.fixture(scope="module")
def tokenizer():
    """Words of one sentence, with the special tokens that the catalogue's configurations name."""
    known = ["[PAD]", "[BOS]", "[EOS]", "[UNK]", "[MASK]", *dict.fromkeys(WORDS[0].split())]
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(known)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "[PAD]", "bos_token": "[BOS]", "eos_token": "[EOS]", "unk_token": "[UNK]"}
    return PreTrainedTokenizerFast(tokenizer_object=made, mask_token="[MASK]", padding_side="left", **special)


def test_a_text_generation_pipeline_batches_texts_of_different_length(tokenizer):
    entry = by_name("llama")
    sparse = hf.sparsify(entry.build(), DECODER_PLAN)
    oracle = Oracle(entry.build(), DECODER_PLAN, torch.float32, LAYERS).model
    texts = ["a quick fox jumped over the lazy dog while nine old owls sang", "the lazy dog sang low", "a quick fox"]
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    write = pipeline("text-generation", model=sparse, tokenizer=tokenizer, device="cpu")
    made = write(texts, batch_size=3, return_tensors=True, **options)
    for text, one in zip(texts, made, strict=True):
        ids = tokenizer(text, return_tensors="pt").input_ids
        wanted = oracle.generate(input_ids=ids, **options, use_cache=False)[0]
        wrote = one[0]["generated_token_ids"]
        assert list(wrote)[-6:] == wanted[-6:].tolist(), text


def test_a_fill_mask_pipeline_reads_through_the_plan(tokenizer):
    entry = by_name("bert")
    torch.manual_seed(0)
    model = BertForMaskedLM(entry.build().config).eval()
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0.0, 0.25, generator=generator)
    model.tie_weights()
    oracle = Oracle(model, ENCODER_PLAN, torch.float32, LAYERS).model
    exact = Oracle(model, ENCODER_PLAN, torch.float64, LAYERS).model
    text = "a quick fox jumped over the [MASK] dog while nine old owls sang low songs"
    guess = pipeline("fill-mask", model=hf.sparsify(model, ENCODER_PLAN), tokenizer=tokenizer, device="cpu")
    made = guess(text, top_k=20)
    ids = tokenizer(text, return_tensors="pt").input_ids
    place = (ids[0] == tokenizer.mask_token_id).nonzero()[0, 0]
    with torch.no_grad():
        wanted, precise = (one(input_ids=ids).logits[0, place].softmax(-1) for one in (oracle, exact))
    numbers = [one["token"] for one in made]
    scores = torch.tensor([one["score"] for one in made])
    assert_no_worse_than(scores, wanted[numbers], precise[numbers], name="scores", multiple=4.0, ulps=64.0)


def saved(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda model: pickle.loads(pickle.dumps(model)), "torch.save": saved}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("name", ["llama", "gemma2", "bert", "bart", "vit"])
def test_a_copy_is_sparse_and_of_its_own(name, way):
    entry = by_name(name)
    sparse, given = hf.sparsify(entry.build(), plan_for(entry)), sequences(entry)[0]
    twin = COPIES[way](sparse)
    with torch.no_grad():
        before = contract.output(entry, sparse(**given))
        assert contract.output(entry, twin(**given)).equal(before)
        hf.densify(twin)
        assert not contract.output(entry, twin(**given)).equal(before)
        assert contract.output(entry, sparse(**given)).equal(before), "the copy and the model share their state"


RANK = """
    import sys
    sys.path.insert(0, {support!r})
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel
    from architectures import by_name
    from inputs import DECODER_PLAN, tokens
    from openwork import hf

    rank = int(sys.argv[1])
    dist.init_process_group("gloo", init_method="tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    model = DistributedDataParallel(hf.sparsify(by_name("llama").build(), DECODER_PLAN))
    if {checkpointed}:
        model.module.gradient_checkpointing_enable({{"use_reentrant": False}})
    model.train()
    ids = tokens(24, rank + 1)
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    torch.save({{name: p.grad for name, p in model.module.named_parameters()}}, {folder!r} + f"/{{rank}}.pt")
    dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("checkpointed", [False, True])
def test_two_processes_train_on_the_mean_gradient_of_the_masked_model(tmp_path, checkpointed):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = tmp_path / "rank.py"
    values = {"support": str(SUPPORT), "port": port, "folder": str(tmp_path), "checkpointed": checkpointed}
    script.write_text(textwrap.dedent(RANK).format(**values))
    ranks = [
        subprocess.Popen([sys.executable, str(script), str(rank)], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    errors = [rank.communicate(timeout=300)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], errors
    made = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    oracles = [
        Oracle(by_name("llama").build(), DECODER_PLAN, dtype, LAYERS) for dtype in (torch.float32, torch.float64)
    ]
    for oracle in oracles:
        for seed in (1, 2):
            ids = tokens(24, seed)
            (oracle(input_ids=ids, labels=ids, use_cache=False).loss / 2).backward()
    reference, exact = (dict(oracle.model.named_parameters()) for oracle in oracles)
    for name, grad in made[0].items():
        assert grad.equal(made[1][name]), name
        assert_no_worse_than(grad, reference[name].grad, exact[name].grad, name=name, multiple=6.0, ulps=64.0)
