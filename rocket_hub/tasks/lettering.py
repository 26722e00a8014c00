"""How the options of a multiple-choice question are written below it, and read again."""

from __future__ import annotations

import re
from collections.abc import Sequence

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_DIGITS = "123456789"
_OPTIONS = tuple(
    (re.compile(rf"(?:^|(?<=\s))\(?([{labels[0]}-{labels[-1]}])[.):]\s+(?=\S)"), labels)
    for labels in (LETTERS, _DIGITS)
)


def lettered(choices: Sequence[str]) -> str:
    """Write options as OpenCompass and ROCKET do: one a line, `A. ` before the first."""
    return "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))


def split_choices(question: str) -> tuple[str, tuple[str, ...]]:
    """Part a question from the options that are written in it, one a line or in a row, as `A. `, `(A) ` or `1. `.

    Returns:
        (question without options, options); no options where there are fewer than two in order.
    """
    for pattern, labels in _OPTIONS:
        marks = list(pattern.finditer(question))
        for first in (place for place, mark in enumerate(marks) if mark[1] == labels[0]):
            run = [marks[first]]
            for mark in marks[first + 1 :]:
                if len(run) < len(labels) and mark[1] == labels[len(run)]:
                    run.append(mark)
            if len(run) > 1:
                ends = [mark.start() for mark in run[1:]] + [len(question)]
                choices = tuple(question[mark.end() : end].strip() for mark, end in zip(run, ends, strict=True))
                return question[: run[0].start()].rstrip(), choices
    return question, ()
