"""`replace_attention` on timm itself, where it is installed: its own vision transformer and its rotary attention."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

# timm imports torchvision when it is imported, which runs only with the very build of torch that it was made for;
# nothing of it is called here, so names without content will do in a process of their own
STAND_IN = """
import importlib.abc, importlib.machinery, sys, types

try:
    import torchvision
except Exception:
    class Named(type):
        def __getattr__(cls, name):
            if name.startswith("__"):
                raise AttributeError(name)
            return name

    class Module(types.ModuleType):
        __path__ = []
        def __getattr__(self, name):
            if name.startswith("__"):
                raise AttributeError(name)
            return Named(name, (object,), {})

    class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
        def find_spec(self, name, path, target=None):
            if name.split(".")[0] == "torchvision":
                return importlib.machinery.ModuleSpec(name, self, is_package=True)
        def create_module(self, spec):
            return Module(spec.name)
        def exec_module(self, module):
            pass

    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    sys.meta_path.insert(0, Finder())
"""

SCRIPT = """
import copy, torch, timm
from timm.layers import AttentionRope
import openwork as ow
from openwork.nn import model_plan, replace_attention, restore_attention

torch.manual_seed(0)
theirs = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2, num_classes=5).eval()
image = torch.randn(2, 3, 64, 64)
near = ow.Grid((4, 4), (3, 3), causal=False, offset=1) | ow.First(keys=1) | ow.First(queries=1)
ours = replace_attention(copy.deepcopy(theirs), near)
assert list(ours.state_dict()) == list(theirs.state_dict())
assert model_plan(ours) == (ow.Plan(near), 2)
mask = torch.from_numpy(ow.bind(near, q_len=17, kv_len=17).to_dense())
expected = copy.deepcopy(theirs)
for block in expected.blocks:
    block.attn.forward = lambda x, attn=block.attn, **none: type(attn).forward(attn, x, attn_mask=mask)
torch.testing.assert_close(ours(image), expected(image))
assert not torch.allclose(theirs(image), expected(image), atol=1e-3)
ours(image).sum().backward()
ours.set_grad_checkpointing()
torch.testing.assert_close(ours.train()(image), expected.train()(image))
assert torch.equal(restore_attention(ours).eval()(image), theirs(image))

rope = AttentionRope(32, 4, num_prefix_tokens=1, qk_norm=True, norm_layer=torch.nn.LayerNorm).eval()
x, angles = torch.randn(2, 17, 32), torch.randn(16, 16)
under_mask = rope(x, angles, attn_mask=mask)
assert not torch.allclose(rope(x, angles), under_mask, atol=1e-3)
torch.testing.assert_close(replace_attention(rope, near)(x, angles), under_mask)
print("both agree")
"""


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("timm") is None,
    reason="timm is not installed: it would bring a torchvision that does not run with a CPU build of torch",
)
def test_timm_computes_its_own_attention_under_the_mask(tmp_path: Path) -> None:
    script = tmp_path / "with_timm.py"
    script.write_text(STAND_IN + SCRIPT)
    run = subprocess.run([sys.executable, "-W", "ignore", script], capture_output=True, text=True, check=False)
    assert run.stdout.split("\n")[-2:] == ["both agree", ""], run.stdout + run.stderr
