"""One contract for every architecture of the catalogue; see support/architectures.py to add one."""

from __future__ import annotations

import contract
import pytest
import torch
from architectures import DECODER, PAIR, REFUSED, SUPPORTED, Architecture
from inputs import plan_for, sequences

from openwork import hf
from openwork.errors import OpenworkError


def present(entries: tuple[Architecture, ...], *kinds: str) -> list:
    """Parameters of the entries; what the running transformers lacks is skipped with that reason."""
    chosen = [entry for entry in entries if not kinds or entry.kind in kinds]
    lacking = pytest.mark.skip(reason="the running transformers has no such model")
    return [pytest.param(entry, id=entry.name, marks=[lacking] * entry.missing) for entry in chosen]


@pytest.fixture
def usable(entry: Architecture) -> Architecture:
    """The entry, where the running version sends its attention through the interface."""
    if not contract.goes_through(entry):
        pytest.skip("in the running transformers this model computes its attention itself; sparsify refuses it")
    return entry


@pytest.mark.parametrize("entry", present(SUPPORTED))
def test_values_are_those_of_the_masked_model(usable: Architecture) -> None:
    contract.check_values(usable)


@pytest.mark.parametrize("entry", present(SUPPORTED))
def test_gradients_are_those_of_the_masked_model(usable: Architecture) -> None:
    contract.check_gradients(usable)


@pytest.mark.parametrize("entry", present(SUPPORTED))
def test_what_a_token_may_not_see_changes_no_bit(usable: Architecture) -> None:
    contract.check_leaks(usable)


@pytest.mark.parametrize("entry", present(SUPPORTED, DECODER, PAIR))
def test_a_cache_gives_what_the_whole_sequence_gives(usable: Architecture) -> None:
    contract.check_cached(usable)


@pytest.mark.parametrize("entry", present(SUPPORTED, DECODER, PAIR))
def test_generation_writes_what_the_masked_model_writes(usable: Architecture) -> None:
    contract.check_generation(usable)


@pytest.mark.parametrize("entry", present(SUPPORTED))
def test_densify_gives_the_model_back(usable: Architecture) -> None:
    contract.check_restored(usable)


@pytest.mark.parametrize("entry", present(SUPPORTED + REFUSED))
def test_what_bypasses_the_interface_is_refused_by_name(entry: Architecture) -> None:
    if entry not in REFUSED and contract.goes_through(entry):
        pytest.skip("this model goes through the attention interface")
    model, given = entry.build(), sequences(entry)[0]
    with torch.no_grad():
        before = model(**given)
        with pytest.raises(OpenworkError, match=type(model).__name__) as refusal:
            hf.sparsify(model, plan_for(entry))
        after = model(**given)
    assert len(str(refusal.value)) > 60, "the reason and the way out belong in the message"
    assert before[0].equal(after[0]), "a refusal changes nothing"
