from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

# Column -> name of the shape.
DIALOGUES = {
    "messages": "messages",
    "conversations": "sharegpt",
    **dict.fromkeys(("conversation", "dialog", "dialogue", "dialogs", "dialogues", "turns", "chat"), "dialogue"),
}
USERS = ("user", "human", "prompter", "instruction", "question")
ASSISTANTS = ("assistant", "gpt", "chatgpt", "model", "bot", "ai", "answer")
SYSTEM = ("system", "developer")
TOOLS = (
    "tool", "function", "function_call", "tool_call", "observation", "ipython", "function_response", "tool_response",
)  # fmt: skip

_WHO = ("role", "from", "speaker", "author", "name")
_WHAT = ("content", "value", "text", "message", "utterance")
_NESTED = ("messages", "turns", "conversation", "conversations", "dialog")


class Exchange(NamedTuple):
    """A question and its answer; all empty if there is none."""

    system: str = ""
    question: str = ""
    answer: str = ""


def first_exchange(value: Any, deep: int = 2) -> Exchange:
    """Read the first question of a conversation and its answer.

    Args:
        value: Turns (texts, pairs of texts, or mappings of who said what), or a mapping that holds them.
        deep: How many mappings may be around them.

    Returns:
        The system's text, the question and the answer. A conversation whose first answer is a call of a tool has none:
        without the tool nobody can learn it.
    """
    if isinstance(value, Mapping):
        inner = next((value[name] for name in _NESTED if isinstance(value.get(name), (list, Mapping))), None)
        return first_exchange(inner, deep - 1) if inner is not None and deep else _both(value)
    if not isinstance(value, list) or not value:
        return Exchange()
    if isinstance(value[0], list):
        return _alternating(value[0])
    if isinstance(value[0], Mapping) and any(_both(value[0])):
        return _both(value[0])
    return _by_role(value) if all(isinstance(turn, Mapping) for turn in value) else _alternating(value)


def _alternating(turns: list[Any]) -> Exchange:
    """Read turns that do not say whose they are: the first asks, the second answers."""
    first, second = (*turns[:2], None, None)[:2]
    both = isinstance(first, str) and isinstance(second, str)
    return Exchange("", first.strip(), second.strip()) if both else Exchange()


def _both(turn: Mapping[str, Any]) -> Exchange:
    """Read one mapping that holds a question and its answer under the names of those who speak."""
    if "input" in turn and "output" in turn:
        return _alternating([turn["input"], turn["output"]])
    asked = next((turn[name] for name in USERS[:2] if name in turn), None)
    answered = next((turn[name] for name in ASSISTANTS[:5] if name in turn), None)
    return _alternating([asked, answered])


def _by_role(turns: list[Mapping[str, Any]]) -> Exchange:
    """Read turns that say whose they are; where the names tell nothing, whoever speaks second answers."""
    roles = [(turn, _role(turn)) for turn in turns[:8]]
    system = [_said(turn) for turn, role in roles if role in SYSTEM and not _is_silent(turn)]
    spoken = [(turn, role) for turn, role in roles if role not in SYSTEM]
    told = any(role in ASSISTANTS for _, role in spoken)
    asked: list[str] = []
    for number, (turn, role) in enumerate(spoken):
        text = _said(turn)
        if text is None or role in TOOLS:
            return Exchange()
        if None in system or turn.get("tool_calls") or turn.get("function_call"):
            return Exchange()
        if role in ASSISTANTS if told else number > 0 and (role != spoken[0][1] or not role):
            before = "\n\n".join(text for text in system if text)
            return Exchange(before, "\n\n".join(asked), text) if asked else Exchange()
        if text:
            asked.append(text)
        elif role in USERS:
            return Exchange()
    return Exchange()


def _role(turn: Mapping[str, Any]) -> str:
    """Return who speaks, in lower case; empty if that is not told."""
    role = next((turn[name] for name in _WHO if isinstance(turn.get(name), (str, int))), "")
    return str(role).strip().lower()


def _is_silent(turn: Mapping[str, Any]) -> bool:
    """Return whether a turn has no content at all."""
    return all(turn.get(name) is None for name in _WHAT)


def _said(turn: Mapping[str, Any]) -> str | None:
    """Return what is said; None if it is no text, or not only text."""
    content = next((turn[name] for name in _WHAT if turn.get(name) is not None), None)
    content = text_of_parts(content) if isinstance(content, list) else content
    return content.strip() if isinstance(content, str) else None


def text_of_parts(parts: list[Any]) -> str | None:
    """Return the texts of content parts, one a line; None if one of them is no text."""
    found = [part.get("text") if isinstance(part, Mapping) else part for part in parts]
    texts = [text for text in found if isinstance(text, str)]
    return "\n".join(texts).strip() if len(texts) == len(found) else None


def text_of_turns(value: Any) -> str:
    """Return what was said before a question, one turn a line: turns, pairs of texts or one text."""
    if isinstance(value, Mapping):
        return _said(value) or ""
    if isinstance(value, list):
        return "\n".join(text for turn in value if (text := text_of_turns(turn)))
    return value.strip() if isinstance(value, str) else ""
