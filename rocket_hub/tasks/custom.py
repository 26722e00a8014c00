r"""A task of one's own, in one strict YAML file.

    name: acme_qa
    evaluation: {dataset: acme/questions, split: test}
    columns: {question: title, context: body, answer: solution, rationale: why}
    prompt: "{context}\nQuestion: {question}\nAnswer:"
    extractor: number            # number | letter | yes_no | exact | code | "regex: <pattern with one group>"

What is left out has the value below.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import regex
import yaml

from rocket_hub.errors import RecipeError, TaskError
from rocket_hub.records import Example
from rocket_hub.rows.values import passage_of, text_of
from rocket_hub.serialization import from_dict
from rocket_hub.tasks import choices, code, numeric, yes_no
from rocket_hub.tasks.answers import LETTERS, own_part
from rocket_hub.tasks.choices import read_choice
from rocket_hub.tasks.task import Task

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
    context = passage_of(row[columns.context]) if columns.context else ""
    question = fill(body, {"question": text_of(row[columns.question]), "context": context})
    texts, labels = _options(row[columns.choices]) if columns.choices else ((), ())
    answer = _answer(row[columns.answer], labels, len(texts))
    rationale = text_of(row[columns.rationale]) if columns.rationale else ""
    tests = tuple(map(str, row[columns.tests])) if columns.tests else ()
    if guess and not extract(answer):
        answer = guess(answer, texts) or answer
    return Example(question, answer, answer, rationale, texts, tests)


def _options(options: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if isinstance(options, Mapping) and {"text", "label"} <= set(options):
        return tuple(map(text_of, options["text"])), tuple(map(text_of, options["label"]))
    if not isinstance(options, (list, tuple)):
        raise TaskError(f"expected a list of options, or a mapping of text and label, found {options!r:.80}")
    return tuple(map(text_of, options)), ()


def _answer(value: Any, labels: tuple[str, ...], options: int) -> str:
    """Write the right answer as text: a label or a place among the options becomes a letter."""
    text = text_of(value)
    if text in labels:
        return LETTERS[labels.index(text)]
    if options and isinstance(value, int):
        if not 0 <= value < options:
            raise TaskError(f"the answer {value} is not the place of one of {options} options, from 0")
        return LETTERS[value]
    return text


_MAX_FILE = 64 * 2**10


@dataclass(frozen=True)
class EvaluationSet:
    """Where a task's evaluation set is: repository id, configuration, split and commit (none = the newest)."""

    dataset: str
    config: str | None = None
    split: str = "test"
    revision: str | None = None


@dataclass(frozen=True)
class Sheet:
    """What the file says.

    Attributes:
        name: Of the task.
        evaluation: Its evaluation set.
        extractor: How the answer is read out of text.
        description: One sentence for the card.
        columns: Names of the evaluation set's columns.
        prompt: With `{question}` and, if there is one, `{context}`; options come below the question.
        completion: With `{rationale}` and `{answer}`; none = the extractor's own.
        metric: `exact_match` or, with the extractor `code`, `pass_at_1`; none = the extractor's own.
        stop: Texts at which a generation is over.
        closed: Data sets that `leave_task_out` excludes.
    """

    name: str
    evaluation: EvaluationSet
    extractor: str
    description: str = "A task of one's own."
    columns: Columns = field(default_factory=Columns)
    prompt: str = "Question: {question}\nAnswer:"
    completion: str | None = None
    metric: str | None = None
    stop: tuple[str, ...] = ("\nQuestion:",)
    closed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Extractor:
    """How one kind of answer is written and read: fields of `Task`, and answers that it must be able to read back."""

    extract: Callable[[str], str]
    guess: Callable[[str, tuple[str, ...]], str] | None = None
    prepare: Callable[[Example], Example] | None = None
    completion: str = "{rationale}\n{answer}"
    metric: str = "exact_match"
    samples: tuple[str, ...] = ("42",)


def exact(text: str) -> str:
    """Read the whole text as the answer, with single spaces; what comes after a next question does not count."""
    return " ".join(own_part(text).split())


_STATED = "{rationale}\nThe answer is {answer}."
_EXTRACTORS = {
    "number": Extractor(numeric.marked_number, numeric.any_number, None, "{rationale}\n#### {answer}"),
    "letter": Extractor(choices.stated_letter, read_choice, choices.prepare, _STATED, samples=("B",)),
    "yes_no": Extractor(yes_no.stated, yes_no.read_yes_no, yes_no.prepare, _STATED, samples=("yes",)),
    "exact": Extractor(exact, None, None, "{answer}"),
    "code": Extractor(code.extract_code, code.extract_code, code.prepare, "{answer}\n[DONE]", "pass_at_1", ("x = 42",)),
}


def read_task(path: Path) -> Task:
    """Read a task from a YAML file; see this module's head for the keys."""
    try:
        if path.stat().st_size > _MAX_FILE:
            raise RecipeError(f"{path}: {path.stat().st_size:,} bytes; a task is one page of YAML")
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}; give a task's name or its file") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not YAML: {error}") from error
    return make_task(from_dict(Sheet, data, str(path)), str(path))


def make_task(sheet: Sheet, where: str) -> Task:
    """Turn what a file says into a task."""
    extractor, columns = _extractor(sheet.extractor, f"{where}: extractor"), sheet.columns
    _check_template(sheet.prompt, ("question",), ("context",) if columns.context else (), f"{where}: prompt")
    template = sheet.completion or extractor.completion
    _check_template(template, ("answer",), ("rationale",), f"{where}: completion")
    _check_metric(sheet, extractor, where)
    places = list(PLACEHOLDER.finditer(sheet.prompt))
    before, after = sheet.prompt[: places[0].start()], sheet.prompt[places[-1].end() :]
    body = sheet.prompt[places[0].start() : places[-1].end()]

    def completion(rationale: str, answer: str) -> str:
        return fill(template, {"rationale": rationale, "answer": answer}).strip()

    if not any(extractor.extract(completion("Because.", answer)) == answer for answer in extractor.samples):
        raise RecipeError(f"{where}: completion: the extractor does not find the answer in {completion('…', '42')!r}")
    return Task(
        name=sheet.name, description=sheet.description, dataset=sheet.evaluation.dataset,
        config=sheet.evaluation.config, split=sheet.evaluation.split, revision=sheet.evaluation.revision,
        question=columns.question, answer=columns.answer,
        columns=tuple(name for name in (columns.rationale, columns.context, columns.choices, columns.tests) if name),
        read_row=lambda row: read_row(row, columns, body, extractor.extract, extractor.guess), completion=completion,
        prompt=lambda question: f"{before}{question}{after}", delimiter="" if after[-1:].isspace() else " ",
        extract=extractor.extract, guess=extractor.guess, prepare=extractor.prepare, metric=extractor.metric,
        mark=template.partition("{rationale}")[2].partition("{answer}")[0].strip(),
        stop=sheet.stop, closed=(*sheet.closed, sheet.evaluation.dataset),
    )  # fmt: skip


def _extractor(name: str, where: str) -> Extractor:
    kind, colon, pattern = name.partition(":")
    if kind == "regex" and colon:
        return Extractor(pattern_extractor(pattern.strip(), where), samples=("42", "B", "yes", "word"))
    if name not in _EXTRACTORS:
        near = get_close_matches(name, _EXTRACTORS, n=1)
        meant = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(_EXTRACTORS)} and 'regex: <pattern>'"
        raise RecipeError(f"{where}: unknown extractor '{name[:40]}'; {meant}")
    return _EXTRACTORS[name]


def _check_template(template: str, needed: tuple[str, ...], possible: tuple[str, ...], where: str) -> None:
    """Refuse a template with a placeholder that is missing, unknown or twice there."""
    found = PLACEHOLDER.findall(template)
    for name in found:
        if name not in (*needed, *possible):
            near = get_close_matches(name, (*needed, *possible), n=1)
            meant = f", did you mean '{{{near[0]}}}'?" if near else ""
            raise RecipeError(f"{where}: unknown placeholder '{{{name}}}'{meant}")
    for name in needed:
        if found.count(name) != 1:
            raise RecipeError(
                f"{where}: '{{{name}}}' must be there once, found {found.count(name)} times in {template!r}"
            )


def _check_metric(sheet: Sheet, extractor: Extractor, where: str) -> None:
    """Refuse a metric that does not fit what is extracted."""
    if sheet.metric not in (None, extractor.metric):
        fits = f"the extractor '{sheet.extractor}' goes with '{extractor.metric}'"
        raise RecipeError(f"{where}: metric: {fits}, found '{sheet.metric}'")
    if (extractor.metric == "pass_at_1") != (sheet.columns.tests is not None):
        raise RecipeError(f"{where}: columns: 'tests' is for the extractor 'code', which needs it")
