"""The column shapes that instruction data has in the wild, and how each becomes one prompt and one completion.

Pure functions; a row's columns are compared without regard to case.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

# Each shape lists its (prompt column, completion column) pairs, the likeliest first.
PAIRS: dict[str, tuple[tuple[str, str], ...]] = {
    "alpaca": (("instruction", "output"), ("instruction", "response"), ("instruction", "completion")),
    "prompt_completion": (("prompt", "completion"), ("prompt", "response"), ("prompt", "output")),
    "question_answer": (
        ("question", "answer"),
        ("problem", "solution"),
        ("problem", "answer"),
        ("query", "response"),
        ("query", "answer"),
        ("question", "response"),
        ("question", "solution"),
    ),
}
CHOICES = ("choices", "options")
KEYS = ("answer", "answerkey", "answer_key", "correct", "label", "answer_idx")
RATIONALES = ("rationale", "reasoning", "explanation", "chain_of_thought", "cot")
CONTEXTS = ("input", "context", "passage")
TURNS = {"messages": ("role", "content"), "conversations": ("from", "value")}
USERS, ASSISTANTS = ("user", "human"), ("assistant", "gpt", "model", "bot")

_NUMBERED = re.compile(r"\s*\(?[A-Z][).:]\s*")


def detect_shape(columns: Collection[str]) -> str | None:
    """Name the shape of a data set.

    Args:
        columns: Its column names.

    Returns:
        `messages`, `sharegpt`, `multiple_choice`, `alpaca`, `prompt_completion` or `question_answer`; None for none.
    """
    names = {str(column).lower() for column in columns}
    if "messages" in names:
        return "messages"
    if "conversations" in names:
        return "sharegpt"
    if "question" in names and names & set(CHOICES) and names & set(KEYS):
        return "multiple_choice"
    return next((shape for shape, pairs in PAIRS.items() if any(set(pair) <= names for pair in pairs)), None)


def to_prompt_completion(shape: str, row: Mapping[str, Any]) -> tuple[str, str] | None:
    """Turn one row into a prompt and its completion.

    Args:
        shape: What `detect_shape` said.
        row: Column -> value, of any type.

    Returns:
        Prompt and completion, stripped and not empty; None if the row has none.
    """
    readers: dict[str, Callable[[Mapping[str, Any]], tuple[str, str]]] = {
        "messages": lambda lowered: _first_exchange(lowered.get("messages"), *TURNS["messages"]),
        "sharegpt": lambda lowered: _first_exchange(lowered.get("conversations"), *TURNS["conversations"]),
        "multiple_choice": _multiple_choice,
    }
    lowered = {str(column).lower(): value for column, value in row.items()}
    prompt, completion = readers[shape](lowered) if shape in readers else _pair(shape, lowered)
    return (prompt, completion) if prompt and completion else None


def _text(value: Any) -> str:
    """Return a value as text: strings, numbers and truth values; of a list, its first item; nothing else."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return f"{value:g}" if isinstance(value, float) else str(value)[:100]
    return _text(value[0]) if isinstance(value, list) and value and not isinstance(value[0], list) else ""


def _first(row: Mapping[str, Any], columns: Collection[str]) -> str:
    """Return the first text that is in one of the columns."""
    return next((text for column in columns if (text := _text(row.get(column)))), "")


def _pair(shape: str, row: Mapping[str, Any]) -> tuple[str, str]:
    """Read the shapes that have one column for the prompt and one for the completion."""
    asked, answered = next((pair for pair in PAIRS.get(shape, ()) if set(pair) <= set(row)), ("", ""))
    prompt, completion = _text(row.get(asked)), _text(row.get(answered))
    if not prompt or not completion:
        return "", ""
    context = _first(row, CONTEXTS)
    if context:
        prompt = f"{prompt}\n\n{context}" if shape == "alpaca" else f"{context}\n\n{prompt}"
    return prompt, _reasoned(row, completion)


def _reasoned(row: Mapping[str, Any], answer: str) -> str:
    """Put a rationale that has its own column before the answer."""
    rationale = _first(row, RATIONALES)
    return f"{rationale}\n{answer}" if rationale and answer and rationale != answer else answer


def _first_exchange(turns: Any, who: str, what: str) -> tuple[str, str]:
    """Read the first question and its answer from a conversation, with the system's text before the question."""
    asked: list[str] = []
    for turn in turns if isinstance(turns, list) else ():
        role, text = (turn.get(who), turn.get(what)) if isinstance(turn, Mapping) else (None, None)
        if not isinstance(text, str):
            return "", ""
        if role in ASSISTANTS:
            return "\n\n".join(asked) if len(asked) else "", text.strip()
        if text.strip():
            asked.append(text.strip())
        if role in USERS and not text.strip():
            return "", ""
    return "", ""


def _multiple_choice(row: Mapping[str, Any]) -> tuple[str, str]:
    """Write the options below the question, and the right one as the completion."""
    question = _text(row.get("question"))
    labels, texts = _options(next((row[column] for column in CHOICES if row.get(column)), None))
    position = next((at for column in KEYS if (at := _position(row.get(column), labels, texts)) is not None), None)
    if not question or position is None:
        return "", ""
    lines = [f"{letter}. {text}" for letter, text in zip(LETTERS, texts, strict=False)]
    return "\n".join([question, *lines]), _reasoned(row, lines[position])


def _options(value: Any) -> tuple[list[str], list[str]]:
    """Read the options' labels and texts from a list, from ARC's two lists, or from a mapping of label to text."""
    if isinstance(value, Mapping) and isinstance(value.get("text"), list):
        texts, labels = value["text"], value.get("label")
    elif isinstance(value, Mapping):
        texts, labels = list(value.values()), list(value)
    else:
        texts, labels = value, None
    if not isinstance(texts, list) or not 2 <= len(texts) <= len(LETTERS):
        return [], []
    if not isinstance(labels, list) or len(labels) != len(texts):
        labels = list(LETTERS[: len(texts)])
    return [_text(label) for label in labels], [_NUMBERED.sub("", _text(text), count=1) for text in texts]


def _position(key: Any, labels: list[str], texts: list[str]) -> int | None:
    """Find the right option: by label, by its text, or by its number from 0; None if it is not told."""
    text = _text(key)
    if isinstance(key, int) and not isinstance(key, bool):
        return key if 0 <= key < len(texts) else None
    if text in labels:
        return labels.index(text)
    if text in texts:
        return texts.index(text) if text else None
    return int(text) if text.isdecimal() and len(text) < 3 and int(text) < len(texts) else None
