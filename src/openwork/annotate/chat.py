"""Chats: messages as one text, and the turns of that text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from openwork.annotate.base import TextAnnotator
from openwork.annotate.characters import CharacterFacts, to_tokens
from openwork.errors import AnnotationError
from openwork.patterns.annotations import Annotations, IntArray
from openwork.patterns.declarations import Declarations

__all__ = ["SPEAKERS", "chat_turns", "render_chat"]

SPEAKERS = {"system": 0, "user": 1, "assistant": 2, "tool": 3}
"""Value of label `speaker` by role; any other role is 4."""

_OTHER = len(SPEAKERS)
_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "developer": "system",
    "function": "tool",
    "function_call": "assistant",
    "observation": "tool",
    "tool_response": "tool",
}
"""Names that others give to the roles: ShareGPT and its kin."""

_START, _END = "<|im_start|>", "<|im_end|>"
_TURN = re.compile(r"<\|im_start\|>(?:([^\n<]{1,64})(?:\n|<\|im_end\|>))?")


def render_chat(conversation: Mapping[str, Any]) -> str:
    r"""A conversation as one text, by the template of ChatML: `<|im_start|>role\ncontent<|im_end|>\n` for each turn.

    Read are `{"messages": [{"role": ..., "content": ...}]}` and `{"conversations": [{"from": ..., "value": ...}]}`.
    Names of roles become `system`, `user`, `assistant`, `tool` where they mean these. Content in parts is joined, a
    part that is no text becomes its type in brackets; calls of tools follow the content as JSON. A mark of the template
    inside a message is parted by a blank, so that no message can pretend to be another's turn.

    Raises:
        AnnotationError: It is no such conversation; the message names the turn.

    Examples:
        >>> render_chat({"messages": [{"role": "user", "content": "hi"}]})
        '<|im_start|>user\nhi<|im_end|>\n'
    """
    turns = conversation.get("messages", conversation.get("conversations")) if isinstance(conversation, dict) else None
    if not isinstance(turns, list) or not turns:
        raise AnnotationError(
            'a conversation is an object with a list "messages" of {"role", "content"}, or "conversations" of '
            f'{{"from", "value"}}; got {_shown(conversation)}.'
        )
    return "".join(_rendered(turn, number) for number, turn in enumerate(turns))


def _rendered(turn: Any, number: int) -> str:
    role = turn.get("role", turn.get("from")) if isinstance(turn, dict) else None
    if not isinstance(role, str) or not role.strip() or len(role) > 64 or any(sign in role for sign in "\n<"):
        raise AnnotationError(f'turn {number} has no "role" (or "from") that names a speaker; got {_shown(turn)}.')
    role = role.strip()
    content = _content(turn.get("content", turn.get("value")), number)
    if turn.get("tool_calls"):
        content += json.dumps(turn["tool_calls"], ensure_ascii=False)
    for mark in (_START, _END):
        content = content.replace(mark, mark.replace("|", "| ", 1))
    return f"{_START}{_ROLES.get(role.lower(), role)}\n{content}{_END}\n"


def _content(content: Any, number: int) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence) and all(isinstance(part, str | dict) for part in content):
        return "".join(
            part if isinstance(part, str) else str(part["text"]) if "text" in part else f"[{part.get('type', 'part')}]"
            for part in content
        )
    raise AnnotationError(f"turn {number} has a content that is neither text nor parts; got {_shown(content)}.")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _annotate(text: str, offsets: IntArray) -> Annotations:
    found = list(_TURN.finditer(text))
    # a turn is certain with the last sign of its mark, its speaker with what ends the name
    starts = [match.start() + len(_START) - 1 for match in found]
    ends = [*starts[1:], len(text)][: len(starts)]
    spoken = [
        (match.end() - 1, stop, match.group(1).strip())
        for match, stop in zip(found, ends, strict=True)
        if match.group(1)
    ]
    facts = CharacterFacts(
        flags={role: [(first, stop) for first, stop, name in spoken if name == role] for role in SPEAKERS},
        labels={
            "turn": [(first, stop, number) for number, (first, stop) in enumerate(zip(starts, ends, strict=True))],
            "speaker": [(first, stop, SPEAKERS.get(name, _OTHER)) for first, stop, name in spoken],
        },
    )
    return to_tokens(facts, text, offsets)


chat_turns = TextAnnotator("chat", _annotate, causal=True, declares=Declarations(nondecreasing_labels={"turn"}))
"""Turns of a chat in the template of `render_chat`: labels `turn` and `speaker`, a flag for each of `SPEAKERS`.

`turn` counts from 0 and begins with the last sign of `<|im_start|>`; `speaker` (a value of `SPEAKERS`, 4 for others)
and its flag begin with the end of the line that names it. All last to the next turn. What stands before the first turn
has no label.
"""
