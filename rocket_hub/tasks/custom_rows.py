"""How a custom task reads its rows, and answers by a pattern."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import regex

from rocket_hub.errors import RecipeError, TaskError
from rocket_hub.records import Example
from rocket_hub.tasks.lettering import LETTERS
from rocket_hub.tasks.text import own_part

PLACEHOLDER = re.compile(r"\{(\w*)\}")
_MAX_PATTERN, _MAX_TEXT, _MAX_SECONDS = 200, 2_000, 0.5


@dataclass(frozen=True)
class Columns:
    """Names of the columns; none = there is no such column.

    Attributes:
        question: The question.
        answer: The right answer: a text, a number, true or false, or an option's letter, label, text or place (from 0).
        rationale: The reasoning before the answer, where the answer's column does not hold it.
        context: A passage that the prompt shows.
        choices: The options: a list of texts, or a mapping of `text` and `label`.
        tests: For programs: a list of statements that raise where a program is wrong.
    """

    question: str = "question"
    answer: str = "answer"
    rationale: str | None = None
    context: str | None = None
    choices: str | None = None
    tests: str | None = None


def pattern_extractor(pattern: str, where: str) -> Callable[[str], str]:
    """Make an extractor of a pattern: its last match near the end of a text, in bounded time."""
    if not pattern or len(pattern) > _MAX_PATTERN:
        raise RecipeError(f"{where}: a pattern has 1 to {_MAX_PATTERN} characters, found {len(pattern)}")
    try:
        compiled = regex.compile(pattern)
    except (regex.error, RecursionError) as error:
        raise RecipeError(f"{where}: not a pattern: {error}: {pattern!r}") from error
    if compiled.groups > 1:
        raise RecipeError(f"{where}: a pattern has at most one group, the answer; found {compiled.groups}: {pattern!r}")

    def extract(text: str) -> str:
        try:
            found = compiled.findall(own_part(text)[-_MAX_TEXT:], timeout=_MAX_SECONDS)
        except TimeoutError:  # backtracks without end on this text, which so has no answer
            return ""
        return " ".join(found[-1].split()) if found else ""

    return extract


def fill(template: str, values: Mapping[str, str]) -> str:
    """Put values in the places of a template; a value that looks like a placeholder stays as it is."""
    return PLACEHOLDER.sub(lambda match: values[match[1]], template)


def read_row(
    row: Mapping[str, Any],
    columns: Columns,
    body: str,
    extract: Callable[[str], str],
    guess: Callable[[str, tuple[str, ...]], str] | None,
) -> Example:
    """Read one row of a custom task's evaluation set; `body` is its prompt from the first placeholder to the last."""
    context = str(row[columns.context]) if columns.context else ""
    question = fill(body, {"question": str(row[columns.question]), "context": context})
    texts, labels = _options(row[columns.choices]) if columns.choices else ((), ())
    answer = _answer(row[columns.answer], labels, len(texts))
    rationale = str(row[columns.rationale]) if columns.rationale else ""
    tests = tuple(map(str, row[columns.tests])) if columns.tests else ()
    if guess and not extract(answer):
        answer = guess(answer, texts) or answer
    return Example(question, answer, answer, rationale, texts, tests)


def _options(options: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Read options: (texts, labels)."""
    if isinstance(options, Mapping) and {"text", "label"} <= set(options):
        return tuple(map(str, options["text"])), tuple(map(str, options["label"]))
    if not isinstance(options, (list, tuple)):
        raise TaskError(f"expected a list of options, or a mapping of text and label, found {options!r:.80}")
    return tuple(map(str, options)), ()


def _answer(value: Any, labels: tuple[str, ...], options: int) -> str:
    """Write the right answer as text: a label or a place among the options becomes a letter."""
    if isinstance(value, bool) and not options:
        return "yes" if value else "no"
    if str(value) in labels:
        return LETTERS[labels.index(str(value))]
    if options and isinstance(value, int):
        if not 0 <= value < options:
            raise TaskError(f"the answer {value} is not the place of one of {options} options, from 0")
        return LETTERS[value]
    return str(value)
