"""Conversations: of all the forms that they have in the wild, the first question and its answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Column -> name of the shape.
DIALOGUES = {
    "messages": "messages",
    "conversations": "sharegpt",
    **dict.fromkeys(("conversation", "dialog", "dialogue", "dialogs", "dialogues", "turns", "chat"), "dialogue"),
}
USERS = ("user", "human", "prompter", "instruction", "question")
ASSISTANTS = ("assistant", "gpt", "chatgpt", "model", "bot", "ai", "answer")
TOOLS = (
    "tool",
    "function",
    "function_call",
    "tool_call",
    "observation",
    "ipython",
    "function_response",
    "tool_response",
)

_WHO = ("role", "from", "speaker", "author", "name")
_WHAT = ("content", "value", "text", "message", "utterance")
_NESTED = ("messages", "turns", "conversation", "conversations", "dialog")

Pair = tuple[str, str]
NOTHING: Pair = ("", "")


def first_exchange(value: Any, deep: int = 2) -> Pair:
    """Read the first question of a conversation and its answer.

    Args:
        value: Turns (texts, pairs of texts, or mappings of who said what), or a mapping that holds them.
        deep: How many mappings may be around them.

    Returns:
        The question, after the system's text, and the answer; two empty texts if there is none. A conversation whose
        first answer is a call of a tool has none: without the tool nobody can learn it.
    """
    if isinstance(value, Mapping):
        inner = next((value[name] for name in _NESTED if isinstance(value.get(name), (list, Mapping))), None)
        return first_exchange(inner, deep - 1) if inner is not None and deep else _both(value)
    if not isinstance(value, list) or not value:
        return NOTHING
    if isinstance(value[0], list):
        return _alternating(value[0])
    if isinstance(value[0], Mapping) and any(_both(value[0])):
        return _both(value[0])
    return _by_role(value) if all(isinstance(turn, Mapping) for turn in value) else _alternating(value)


def _alternating(turns: list[Any]) -> Pair:
    """Read turns that do not say whose they are: the first asks, the second answers."""
    first, second = (*turns[:2], None, None)[:2]
    return (first.strip(), second.strip()) if isinstance(first, str) and isinstance(second, str) else NOTHING


def _both(turn: Mapping[str, Any]) -> Pair:
    """Read one mapping that holds a question and its answer under the names of those who speak."""
    asked = next((turn[name] for name in USERS[:2] if name in turn), None)
    answered = next((turn[name] for name in ASSISTANTS[:5] if name in turn), None)
    return _alternating([asked, answered])


def _by_role(turns: list[Mapping[str, Any]]) -> Pair:
    """Read turns that say whose they are; where the names tell nothing, whoever speaks second answers."""
    roles = [_role(turn) for turn in turns[:8]]
    told = any(role in ASSISTANTS for role in roles)
    asked: list[str] = []
    for number, (turn, role) in enumerate(zip(turns, roles, strict=False)):
        text = _said(turn)
        if text is None or role in TOOLS:
            return NOTHING
        if role in ASSISTANTS if told else number > 0 and (role != roles[0] or not role):
            return ("\n\n".join(asked), text) if asked else NOTHING
        if text:
            asked.append(text)
        elif role in USERS:
            return NOTHING
    return NOTHING


def _role(turn: Mapping[str, Any]) -> str:
    """Return who speaks, in lower case; empty if that is not told."""
    role = next((turn[name] for name in _WHO if isinstance(turn.get(name), (str, int))), "")
    return str(role).strip().lower()


def _said(turn: Mapping[str, Any]) -> str | None:
    """Return what is said; None if it is no text, or not only text."""
    content = next((turn[name] for name in _WHAT if turn.get(name) is not None), None)
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        content = "\n".join(texts) if len(texts) == len(parts) else None
    return content.strip() if isinstance(content, str) else None
