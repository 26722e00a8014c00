"""Overlap of training rows with evaluation questions."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence

from rocket_hub.records import Row

_NGRAM = 8  # words that a question needs to be looked for inside a longer prompt
_NOT_WORDS = re.compile(r"[\W_]+")


def normalise(text: str) -> str:
    """Bring a text into the form that is compared: lower case, one space for any punctuation and white space."""
    return _NOT_WORDS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def contaminated(rows: Sequence[Row], questions: Iterable[str]) -> dict[int, str]:
    """Find the rows whose prompt is, or holds, one of the questions.

    Prompt and question are normalised. A question of eight words or more counts wherever it stands in a prompt, word
    by word; a shorter one only as the whole prompt, because short questions stand in many texts by chance. Signs
    between numbers are punctuation, so that "3 + 4" and "3 - 4" are taken as equal: too much is left out, not too
    little. Time grows with the words of rows and questions, not with rows times questions.

    Args:
        rows: Training rows.
        questions: Bare questions of the evaluation set.

    Returns:
        Position in `rows` -> the question as it was given.
    """
    whole: dict[str, str] = {}
    # The first eight words -> number of words -> words -> question: evaluation sets often open all questions alike.
    inside: defaultdict[tuple[str, ...], dict[int, dict[tuple[str, ...], str]]] = defaultdict(dict)
    for question in questions:
        words = tuple(normalise(question).split())
        if words:
            whole.setdefault(" ".join(words), question)
        if len(words) >= _NGRAM:
            inside[words[:_NGRAM]].setdefault(len(words), {}).setdefault(words, question)
    found: dict[int, str] = {}
    for position, row in enumerate(rows):
        text = normalise(row.prompt)
        held = whole.get(text) or _held(tuple(text.split()), inside)
        if held:
            found[position] = held
    return found


def _held(words: tuple[str, ...], inside: dict[tuple[str, ...], dict[int, dict[tuple[str, ...], str]]]) -> str | None:
    """Find the first question that stands in a text."""
    for start, opening in enumerate(zip(*(words[i:] for i in range(_NGRAM)), strict=False)):
        for length, known in inside.get(opening, {}).items():
            question = known.get(words[start : start + length])
            if question:
                return question
    return None
