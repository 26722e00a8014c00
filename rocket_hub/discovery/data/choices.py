"""Questions with options: of all the forms that they have in the wild, the question, its options and the right one."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from rocket_hub.discovery.data.cells import first_text, text_of

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ASKED = ("question", "query", "stem", "goal", "problem", "sentence", "ctx", "premise", "prompt", "input", "instruction")
LISTS = ("choices", "options", "endings", "candidates", "answer_choices", "mcq_options")
KEYS = (
    "answer", "answerkey", "answer_key", "correct", "label", "answer_idx", "answer_index", "correct_answer", "gold",
    "correct_option", "correct_choice", "correct_idx", "answer_id", "gold_index", "cop", "target", "labels",
)  # fmt: skip

_NUMBERED = re.compile(r"\(?([A-Z])\s?[).:]\s*")
_LETTER = re.compile(r"\(?([A-Za-z])\)?[).:]?")
_WITHIN = re.compile(r"(?:^|[\s,;])\(?([A-Ja-j])\s?[).:]\s*")
_SERIES = re.compile(r"(option|choice|sol|ans|answer|ending|opt|op|candidate|)[_ ]?([a-j]|\d)")


def has_options(columns: Collection[str]) -> bool:
    """Return whether columns, in lower case, hold options and say which is right."""
    listed = any(column in columns for column in LISTS) or bool(series(columns))
    return listed and any(key in columns for key in KEYS) and any(column in columns for column in ASKED)


def is_option(column: str) -> bool:
    """Return whether a column, in lower case, may hold one option."""
    return bool(_SERIES.fullmatch(column))


def series(columns: Iterable[str]) -> list[str]:
    """Find the options that have a column each: `a b c`, `option1 option2`, `sol1 sol2`, `choice_a choice_b`, ..."""
    groups: dict[str, dict[str, str]] = {}
    for column in columns:
        if (match := _SERIES.fullmatch(column)) and (match[1] or match[2].isalpha()):
            groups.setdefault(match[1], {})[match[2]] = column
    for group in groups.values():
        ends = sorted(group)
        first = ends[0]
        if len(ends) > 1 and first in "a01" and ends == [chr(ord(first) + step) for step in range(len(ends))]:
            return [group[end] for end in ends]
    return []


def multiple_choice(row: Mapping[str, Any], first: int = 0) -> tuple[str, str]:
    """Write the options below the question, and the right one as the answer.

    Args:
        row: Column, in lower case -> value.
        first: The number of the first option, where the right one is told by a number.

    Returns:
        Question and answer; two empty texts if one of them is not told.
    """
    question = first_text(row, ASKED)
    labels, texts = options_of(row)
    position = next(
        (at for column in KEYS if (at := _position(row.get(column), labels, texts, first)) is not None), None
    )
    if not question or position is None or not all(texts):
        return "", ""
    lines = [f"{letter}. {text}" for letter, text in zip(LETTERS, texts, strict=False)]
    return "\n".join([question, *lines]), lines[position]


def first_number(rows: Iterable[Mapping[str, Any]]) -> int:
    """Decide from the data whether the numbers of the right options start with 0 or with 1.

    Args:
        rows: Some rows, columns in lower case; the more, the surer.

    Returns:
        1 if the number of the last option occurs as if it were counted from 1, and 0 does not occur; else 0.
    """
    zero = last = False
    for row in rows:
        labels, texts = options_of(row)
        for number in (_number(row[key]) for key in KEYS if texts and key in row):
            zero = zero or number == 0
            last = last or (number == len(texts) and str(number) not in labels and str(number) not in texts)
    return int(last and not zero)


def options_of(row: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Read the labels and the texts of the options of a row; empty if it has none, or too many."""
    value = next((row[column] for column in LISTS if row.get(column)), None)
    if value is None:
        value = [row[column] for column in series(row) if row[column] is not None]
    labels: Any = None
    if isinstance(value, str):
        labels, value = _split(value)
    elif isinstance(value, Mapping):
        told = isinstance(value.get("text"), list)
        labels, value = (value.get("label"), value["text"]) if told else (list(value), list(value.values()))
    elif isinstance(value, list) and value and all(isinstance(option, Mapping) for option in value):
        labels = [option.get("label", option.get("key")) for option in value]
    if not isinstance(value, list) or not 2 <= len(value) <= len(LETTERS):
        return [], []
    if not isinstance(labels, list) or len(labels) != len(value) or None in labels:
        labels = list(LETTERS[: len(value)])
    return [text_of(label) for label in labels], _bare([text_of(text) for text in value])


def _bare(texts: list[str]) -> list[str]:
    """Take letters away that stand before options, if each option has its own; `A. Smith` may be a name."""
    marks = [_NUMBERED.match(text) for text in texts]
    if any(mark is None or mark[1] != letter for mark, letter in zip(marks, LETTERS, strict=False)):
        return texts
    return [text[mark.end() :] for text, mark in zip(texts, marks, strict=True) if mark]


def _split(text: str) -> tuple[list[str], list[str]]:
    """Split options that are one text: `a ) 38 , b ) 27.5 , c ) 30`."""
    marks = [mark for mark in _WITHIN.finditer(text[:10_000])]
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    labels = [mark[1].upper() for mark in marks]
    if labels != list(LETTERS[: len(labels)]):
        return [], []
    return labels, [text[mark.end() : end].strip(" ,;\n") for mark, end in zip(marks, ends, strict=True)]


def _number(key: Any) -> int | None:
    """Return a key that is a number."""
    if isinstance(key, str) and key.strip().isdecimal() and len(key.strip()) < 3:
        return int(key)
    return key if isinstance(key, int) and not isinstance(key, bool) else None


def _position(key: Any, labels: Sequence[str], texts: Sequence[str], first: int) -> int | None:
    """Find the right option: by label, by its text, by its number, by one mark in a list; None if it is not told."""
    if isinstance(key, list):
        marked = [at for at, mark in enumerate(key) if mark in (1, True)]
        if len(key) == len(texts) and len(marked) == 1 and all(mark in (0, 1) for mark in key):
            return marked[0]
        return _position(key[0], labels, texts, first) if len(key) == 1 and not isinstance(key[0], list) else None
    number, text = _number(key), text_of(key)
    if text in labels:
        return labels.index(text)
    if number is not None and not isinstance(key, str):
        return number - first if 0 <= number - first < len(texts) else None
    if text and text in texts:
        return texts.index(text)
    if number is not None:
        return number - first if 0 <= number - first < len(texts) else None
    if (letter := _LETTER.fullmatch(text)) and letter[1].upper() in labels:
        return labels.index(letter[1].upper())
    mark = _NUMBERED.match(text)
    return texts.index(text[mark.end() :]) if mark and text[mark.end() :] in texts else None
