"""The plan in `config.json`: written so that a saved model comes back sparse, or not at all."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

from transformers import PreTrainedModel

from openwork.errors import OpenworkError
from openwork.hf.layers import Stack
from openwork.hf.state import NAME, implementation_of
from openwork.plan import Plan

__all__ = ["forget_plan", "install_loader", "saved_plan", "write_plan"]

_LOG = logging.getLogger("openwork.hf")
_PLAN, _IMPLEMENTATION = "openwork_plan", "attn_implementation"
"""Public attributes of a configuration are saved and come back: the plan, and the name that only `import openwork.hf`
makes known, so that a load without it raises."""


def write_plan(model: PreTrainedModel, stacks: list[Stack], plan: Plan) -> None:
    """Puts the plan, and which parts of the model follow it, where `save_pretrained` finds them."""
    config = model.config
    setattr(config, _PLAN, json.loads(plan.to_json()))
    sparse = [stack.module.config for stack in stacks]
    whole = any(own is config for own in sparse)
    setattr(config, _IMPLEMENTATION, NAME if whole else _parts_of(config, sparse) or NAME)


def _parts_of(config: Any, sparse: list[Any]) -> dict[str, str]:
    """The parts of a configuration that are sparse, as `attn_implementation` names them."""
    return {key: NAME for key in config.sub_configs if any(getattr(config, key, None) is own for own in sparse)}


def forget_plan(model: Any) -> None:
    """Takes away what `write_plan` wrote."""
    for name in (_PLAN, _IMPLEMENTATION):
        model.config.__dict__.pop(name, None)


def saved_plan(model: PreTrainedModel) -> Plan | None:
    """The plan in the model's configuration; None where there is none.

    Raises:
        PlanError: It cannot be read, for instance because it holds a boolean tensor or a function of the user's.
    """
    content = getattr(model.config, _PLAN, None)
    return None if content is None else Plan.from_json(json.dumps(content))


def _is_sparse(model: PreTrainedModel) -> bool:
    return any(implementation_of(part.config) == NAME for part in model.modules() if isinstance(part, PreTrainedModel))


def _parts(model: PreTrainedModel) -> list[PreTrainedModel]:
    """The outermost parts of a model that have a configuration of their own with a plan in it."""
    found: dict[str, PreTrainedModel] = {}
    for path, part in model.named_modules():
        if not isinstance(part, PreTrainedModel) or part.config is model.config or not hasattr(part.config, _PLAN):
            continue
        if not any(path.startswith(f"{outer}.") for outer in found):
            found[path] = part
    return list(found.values())


def _restore(model: PreTrainedModel, plug: Callable[[PreTrainedModel, Plan], Any], whole: bool = True) -> None:
    """Makes a loaded model sparse where its configuration says so; `whole` is False for a part of one."""
    try:
        plan = saved_plan(model)
    except OpenworkError as error:
        # its layers have no plan now, so a call raises: nothing runs dense in silence
        _LOG.warning(
            "the plan of this checkpoint cannot be read: %s Call openwork.hf.sparsify(model, plan) before the model.",
            error,
        )
        return
    if plan is None:
        # a part that was made sparse alone; the whole says nothing of it, and resets the name in its configuration
        for part in _parts(model):
            _restore(part, plug, whole=False)
        return
    if not whole and not _is_sparse(model):
        model.set_attn_implementation(NAME)
    if not _is_sparse(model):
        _LOG.warning(
            "this checkpoint has the plan %r, but was loaded with attn_implementation=%r and runs dense.",
            plan,
            implementation_of(model.config),
        )
        return
    plug(model, plan)


@contextlib.contextmanager
def _parts_named(model: PreTrainedModel) -> Iterator[None]:
    """While a model is saved, its configuration names the parts that were made sparse alone.

    They do not know the model around them, and their own configurations cannot stop a load without `openwork.hf`.
    """
    config = model.config
    parts = {} if hasattr(config, _PLAN) else _parts_of(config, [part.config for part in _parts(model)])
    if not parts:
        yield
        return
    setattr(config, _IMPLEMENTATION, parts)
    try:
        yield
    finally:
        config.__dict__.pop(_IMPLEMENTATION, None)


def install_loader(plug: Callable[[PreTrainedModel, Plan], Any]) -> None:
    """Lets `from_pretrained` give a loaded model its plan, and `save_pretrained` name its sparse parts.

    transformers calls nothing of ours when a model is built or saved, and an attention function sees one module, not
    the model around it, so the methods are wrapped: what they do and return stays as it was.
    """
    original = PreTrainedModel.from_pretrained.__func__  # type: ignore[attr-defined]
    if getattr(original, "_openwork", False):
        return

    @functools.wraps(original)
    def from_pretrained(cls: Any, *args: Any, **kwargs: Any) -> Any:
        loaded = original(cls, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if isinstance(model, PreTrainedModel):
            _restore(model, plug)
        return loaded

    original_save = PreTrainedModel.save_pretrained

    @functools.wraps(original_save)
    def save_pretrained(self: PreTrainedModel, *args: Any, **kwargs: Any) -> Any:
        with _parts_named(self):
            return original_save(self, *args, **kwargs)

    from_pretrained._openwork = True  # type: ignore[attr-defined]
    PreTrainedModel.from_pretrained = classmethod(from_pretrained)  # type: ignore[assignment]
    PreTrainedModel.save_pretrained = save_pretrained  # type: ignore[method-assign]
