"""Sequences for a model of each kind, whole and as padded batches."""

from __future__ import annotations

from typing import Any

import torch
from architectures import AUDIO, DECODER, GRID, IMAGE, PAIR, VISION, VOCAB, Architecture
from torch import Tensor

from openwork import Causal, Chunk, Dilated, First, Grid, PerHead, Plan, Strided, Window

LENGTHS = (29, 17, 24)
"""Tokens of the three sequences of a batch."""
TARGETS = (21, 13, 9)
"""Tokens that the decoder of an encoder-decoder reads."""

DECODER_PLAN = Plan(
    default=Causal() & (Window(before=5) | First(keys=1)),
    layers={
        1: PerHead(
            Causal() & Window(before=3),
            Causal() & (Window(before=7) | First(keys=2)),
            Causal() & (Strided(stride=4) | Window(before=1)),
            Causal() & (Chunk(size=8) | Dilated(before=12, step=3)),
        )
    },
)
ENCODER_PLAN = Plan(
    default=Window(before=4, after=3) | First(keys=1),
    layers={
        1: PerHead(
            Window(before=2, after=2),
            Window(before=6, after=0) | First(queries=1),
            Strided(stride=3) | Window(before=1, after=1),
            Chunk(size=6, before=1),
        )
    },
)


def plan_for(entry: Architecture) -> Plan:
    """A plan that gives every layer, and in one layer every head, something of its own."""
    if entry.kind == DECODER:
        return DECODER_PLAN
    if entry.kind == PAIR:
        return Plan(default=DECODER_PLAN.default, encoder=ENCODER_PLAN, decoder=DECODER_PLAN)
    if entry.kind == VISION:
        near = Grid(shape=(GRID, GRID), kernel=3, offset=entry.prefix)
        wide = Grid(shape=(GRID, GRID), kernel=(1, 3), offset=entry.prefix)
        if entry.prefix:
            ends = First(keys=entry.prefix) | First(queries=entry.prefix)
            near, wide = near | ends, wide | First(keys=entry.prefix) | First(queries=entry.prefix)
        return Plan(default=near, layers={1: PerHead(near, wide, near, wide)})
    if entry.name == "albert":  # one module serves every layer
        return Plan(default=ENCODER_PLAN.default)
    return ENCODER_PLAN


def tokens(length: int, seed: int) -> Tensor:
    """Token ids `[1, length]`, none of them special."""
    return torch.randint(4, VOCAB, (1, length), generator=torch.Generator().manual_seed(seed))


def sequences(entry: Architecture) -> list[dict[str, Any]]:
    """What a model of this kind reads: one dictionary for each sequence, unpadded."""
    generator = torch.Generator().manual_seed(5)
    if entry.kind == VISION:
        return [{"pixel_values": torch.randn(1, 3, IMAGE, IMAGE, generator=generator)} for _ in range(2)]
    if entry.kind == AUDIO:
        return [{"input_values": torch.randn(1, 400, generator=generator)} for _ in range(2)]
    if entry.kind == PAIR:
        given = []
        for seed, (source, target) in enumerate(zip(LENGTHS, TARGETS, strict=True)):
            if entry.name == "whisper":
                inputs = {"input_features": torch.randn(1, 8, 64, generator=generator)}
            else:
                inputs = {"input_ids": tokens(source, seed)}
            given.append({**inputs, "decoder_input_ids": tokens(target, 50 + seed)})
        return given
    return [{"input_ids": tokens(length, seed)} for seed, length in enumerate(LENGTHS)]


def padded(rows: list[Tensor], side: str) -> tuple[Tensor, Tensor]:
    """Token ids `[batch, longest]` with 0 as padding, and the attention mask."""
    longest = max(row.shape[1] for row in rows)
    ids, mask = torch.zeros(len(rows), longest, dtype=torch.long), torch.zeros(len(rows), longest, dtype=torch.long)
    for number, row in enumerate(rows):
        part = slice(0, row.shape[1]) if side == "right" else slice(longest - row.shape[1], longest)
        ids[number, part], mask[number, part] = row[0], 1
    return ids, mask


def batch(entry: Architecture, given: list[dict[str, Any]], side: str = "right") -> dict[str, Any]:
    """The sequences as one batch, padded on `side`."""
    if entry.kind in (VISION, AUDIO):
        return {name: torch.cat([row[name] for row in given]) for name in given[0]}
    made: dict[str, Any] = {}
    if "input_ids" in given[0]:
        made["input_ids"], made["attention_mask"] = padded([row["input_ids"] for row in given], side)
    if "input_features" in given[0]:
        made["input_features"] = torch.cat([row["input_features"] for row in given])
    if "decoder_input_ids" in given[0]:
        made["decoder_input_ids"], _ = padded([row["decoder_input_ids"] for row in given], "right")
    if side == "left" and entry.kind == DECODER:
        made["position_ids"] = (made["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    return made


def real(entry: Architecture, made: Tensor, row: int, given: dict[str, Any], side: str = "right") -> Tensor:
    """The rows of an output `[batch, length, width]` that belong to the tokens of sequence `row`."""
    if entry.kind in (VISION, AUDIO):
        return made[row]
    length = given["decoder_input_ids" if entry.kind == PAIR else "input_ids"].shape[1]
    return made[row, :length] if side == "right" else made[row, -length:]


def output(entry: Architecture, result: Any) -> Tensor:
    """Logits or last hidden states `[batch, length, width]`."""
    return result.logits if entry.kind in (DECODER, PAIR) else result.last_hidden_state
