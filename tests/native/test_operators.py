"""The kernels as torch operators: opcheck, compiled code, autograd's corners."""

from __future__ import annotations

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import openwork as ow
from openwork.errors import BackendError, LayoutError
from openwork.ops import prepare, sparse_attention
from openwork.ops.backends.cpu import CpuBackend
from openwork.ops.backends.cpu_lower import lower
from openwork.ops.backends.cpu_native import chosen_isa
from openwork.ops.backends.cpu_operators import attention_backward, attention_forward
from openwork.ops.validation import make_call
from openwork.testing.inputs import make_inputs

pytestmark = pytest.mark.native

PATTERN = ow.Causal() & ow.Window(before=20)
LAYOUT = ow.compile_layout(PATTERN, q_len=80, kv_len=80)


def leaves(dtype=torch.float32, options=True):
    inputs = make_inputs(batch=2, q_heads=4, kv_heads=2, q_len=80, v_head_dim=5).to(dtype)
    found = [inputs.query, inputs.key, inputs.value]
    if options:
        found += [torch.linspace(-1.0, 1.0, 4), torch.linspace(0.1, 0.4, 4)]
    return [x.detach().requires_grad_() for x in found]


def loss(query, key, value, sink=None, slopes=None, *, layout=LAYOUT, backend="cpu", **options):
    options = {"sink_logits": sink, "alibi_slopes": slopes, **options}
    result = sparse_attention(query, key, value, layout, backend=backend, **options)
    return result.output.square().sum() + result.lse.sum()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("options", [True, False], ids=["options", "plain"])
def test_opcheck_passes(dtype, options):
    tensors = leaves(dtype, options) + [None] * (0 if options else 2)
    if options:
        tensors[4] = tensors[4].detach()[None].requires_grad_()
    numbers = 0.3, 2.0, 0.25, 7
    arguments = (*tensors, lower(LAYOUT), *numbers)
    torch.library.opcheck(attention_forward, (*arguments, True, chosen_isa()))
    output, lse, wide = attention_forward(*arguments, True, chosen_isa())
    grads = torch.randn_like(output), torch.randn_like(lse)
    kept = (wide if wide.numel() else output).detach()
    detached = [None if x is None else x.detach() for x in tensors]
    needed = [True, True, False, options, options]
    arguments = (*grads, *detached, kept, lse.detach(), lower(LAYOUT), *numbers, needed, chosen_isa())
    torch.library.opcheck(attention_backward, arguments)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of the tracer about its own doings
@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_a_prepared_layout_compiles_to_one_graph(compiler):
    prepared = prepare(LAYOUT)
    options = {"softcap": 3.0, "dropout_p": 0.2, "dropout_seed": 2**63 + 7}

    def attend(*tensors, layout=prepared):
        return loss(tensors[0] * 2.0, *tensors[1:], layout=layout, **options)

    tensors = leaves()
    expected = torch.autograd.grad(attend(*tensors, layout=LAYOUT), tensors)
    compiled = torch.compile(attend, fullgraph=True, backend=compiler)
    for one, other in zip(torch.autograd.grad(compiled(*tensors), tensors), expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.filterwarnings("ignore")
def test_another_layout_of_the_same_lengths_compiles_nothing_again():
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    compiled = torch.compile(lambda layout, *x: loss(*x, layout=layout), fullgraph=True, backend=counter)
    tensors = leaves()
    for pattern in (PATTERN, ow.Causal() & (ow.Window(before=3) | ow.Strided(8)), ow.Causal()):
        layout = ow.compile_layout(pattern, q_len=80, kv_len=80)
        torch.testing.assert_close(compiled(prepare(layout), *tensors), loss(*tensors, layout=layout))
    assert counter.frame_count <= 2  # once more at most, for words of another number


@pytest.mark.filterwarnings("ignore")
def test_compiled_code_says_why_a_prepared_layout_does_not_run():
    def message(query, key, **options):
        compiled = torch.compile(sparse_attention, fullgraph=True, backend="eager")
        with pytest.raises(Exception) as caught:
            compiled(query, key, key, prepare(LAYOUT), **options)
        return str(caught.value)

    query = torch.zeros(1, 2, 80, 8)
    assert "computes in float32 from float32, bfloat16 or float16, got torch.float64" in message(
        query.double(), query.double()
    )
    assert "backend='gather' was named, and a prepared layout is for 'cpu'" in message(query, query, backend="gather")
    assert "layout was prepared for q_len=80, kv_len=80, but query has q_len=80 and key has kv_len=79" in message(
        query, query[:, :, 1:]
    )


def test_a_prepared_layout_is_its_layout_outside_of_compiled_code():
    tensors = leaves()
    assert torch.equal(loss(*tensors, layout=prepare(LAYOUT)), loss(*tensors))
    query = torch.zeros(1, 2, 79, 8)
    with pytest.raises(LayoutError, match="layout was compiled for q_len=80"):
        sparse_attention(query, query, query, prepare(LAYOUT))


def test_func_grad_gives_what_autograd_gives():
    tensors = leaves()
    expected = torch.autograd.grad(loss(*tensors), tensors)
    found = torch.func.grad(loss, argnums=(0, 1, 2, 3, 4))(*[x.detach() for x in tensors])
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_double_backward_and_vmap_are_refused_in_words():
    tensors = leaves()
    (gradient,) = torch.autograd.grad(loss(*tensors), tensors[:1], create_graph=True)
    with pytest.raises(BackendError, match=r"'cpu' has no double backward; name backend='reference', which has\."):
        gradient.sum().backward()
    words = lower(LAYOUT)
    output, lse, _ = attention_forward(*tensors[:3], None, None, words, 0.3, 0.0, 0.0, 0, True, chosen_isa())
    (gradient,) = torch.autograd.grad(output.sum() + lse.sum(), tensors[:1], create_graph=True)
    with pytest.raises(BackendError, match="'cpu' has no double backward"):
        gradient.sum().backward()
    message = r"'cpu' does not run under torch\.vmap; batch is the first dimension of query\."
    for query in (tensors[0], tensors[0].detach()):
        with pytest.raises(BackendError, match=message):
            torch.vmap(lambda x: loss(x, *[t.detach() for t in tensors[1:]]))(query[None])


@pytest.mark.parametrize("chosen", [(0,), (1,), (2,), (3,), (4,), (0, 2)])
def test_gradients_that_are_wanted_do_not_depend_on_those_that_are_not(chosen):
    tensors = leaves()
    expected = torch.autograd.grad(loss(*tensors), tensors)
    given = [x if n in chosen else x.detach() for n, x in enumerate(tensors)]
    found = torch.autograd.grad(loss(*given), [tensors[n] for n in chosen])
    assert all(torch.equal(one, expected[n]) for one, n in zip(found, chosen, strict=True))


def test_a_gradient_may_reach_lse_alone_or_nothing():
    tensors = leaves()
    lse = sparse_attention(*tensors[:3], LAYOUT, backend="cpu").lse
    exact = sparse_attention(*tensors[:3], LAYOUT, backend="reference").lse
    for one, other in zip(
        torch.autograd.grad(lse.sum(), tensors[:2]), torch.autograd.grad(exact.sum(), tensors[:2]), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_checkpointing_recomputes_the_same_bits():
    tensors = leaves()
    expected = torch.autograd.grad(loss(*tensors, dropout_p=0.3, dropout_seed=3), tensors)
    again = checkpoint(lambda *x: loss(*x, dropout_p=0.3, dropout_seed=3), *tensors, use_reentrant=False)
    for one, other in zip(torch.autograd.grad(again, tensors), expected, strict=True):
        assert torch.equal(one, other)


def test_strides_change_nothing():
    tensors = leaves()
    expected = torch.autograd.grad(loss(*tensors), tensors)
    moved = [x.detach().transpose(1, 2).contiguous().transpose(1, 2) for x in tensors[:3]]
    moved[0] = torch.stack([moved[0]] * 2, dim=-1)[..., 0]
    moved = [x.requires_grad_() for x in moved]
    for one, other in zip(torch.autograd.grad(loss(*moved, *tensors[3:]), moved), expected, strict=False):
        assert torch.equal(one, other)
    # a stride of 0: one key head for all sequences
    wide = [x[:1].detach().expand(2, -1, -1, -1) for x in tensors[1:3]]
    assert torch.equal(loss(tensors[0], *wide), loss(tensors[0], *(x.contiguous() for x in wide)))


def test_memory_that_the_front_door_would_not_give_raises_instead_of_being_read():
    query = torch.zeros(1, 2, 80, 8)
    arguments = None, None, lower(LAYOUT), 0.3, 0.0, 0.0, 0, True, chosen_isa()
    with pytest.raises(ValueError, match="lengths differ from the layout's"):
        attention_forward(query[:, :, :40], query, query, *arguments)
    with pytest.raises(ValueError, match="query, key and value do not fit each other"):
        attention_forward(query, query[..., :4], query, *arguments)
    with pytest.raises(ValueError, match="sink_logits must be"):
        attention_forward(query, query, query, torch.zeros(3), *arguments[1:])
    for words, message in [
        (torch.zeros(40, dtype=torch.int64), "these words are no lowered layout"),
        (lower(LAYOUT)[:8], "cut short"),
        (lower(LAYOUT)[:-1], "these words are no lowered layout"),
    ]:
        with pytest.raises(ValueError, match=message):
            attention_forward(query, query, query, None, None, words, *arguments[3:])
    with pytest.raises(ValueError, match="this binary has no code for mmx"):
        attention_forward(query, query, query, *arguments[:-1], "mmx")


def test_refusals_say_what_is_accepted():
    def refusal(query):
        with pytest.raises(BackendError) as caught:
            sparse_attention(query, query, query, LAYOUT, backend="cpu")
        return str(caught.value)

    query = torch.zeros(1, 2, 80, 8)
    assert "computes in float32 from float32, bfloat16 or float16, got torch.float64. Can run it: gather" in refusal(
        query.double()
    )
    assert "needs a head_dim from 1 to 256, got 257; needs a v_head_dim" in refusal(torch.zeros(1, 1, 80, 257))
    assert "runs on cpu, got meta" in refusal(query.to("meta"))
    assert "needs at least one sequence, head, query and key" in refusal(query[:0])


def test_the_environment_forces_an_instruction_set(isa, monkeypatch):
    monkeypatch.setenv("OPENWORK_CPU_ISA", isa)
    assert chosen_isa() == isa
    tensors = leaves()
    call = make_call(
        *tensors[:3], LAYOUT, scale=None, softcap=None, sink_logits=tensors[3], alibi_slopes=tensors[4],
        dropout_p=0.0, dropout_seed=None,
    )  # fmt: skip
    output, lse = CpuBackend(isa=isa).run(call)
    assert torch.equal(loss(*tensors), output.square().sum() + lse.sum())


def test_an_instruction_set_that_cannot_run_is_an_error(monkeypatch):
    monkeypatch.setenv("OPENWORK_CPU_ISA", "avx1024")
    message = r"OPENWORK_CPU_ISA='avx1024': the kernels have no such variant\. Unset it, or choose from: .*plain|neon"
    query = torch.zeros(1, 2, 80, 8)
    with pytest.raises(BackendError, match=message):
        sparse_attention(query, query, query, LAYOUT, backend="cpu")
    monkeypatch.setattr("openwork.ops.backends.cpu_native.available_isas", lambda: {"avx1024": False, "plain": True})
    with pytest.raises(BackendError, match=r"'avx1024': this machine cannot run it\. .* choose from: plain\."):
        chosen_isa()
