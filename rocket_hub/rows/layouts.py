"""The layouts of columns that K-shots and instruction data have, and how a row is read in each.

Columns are compared without regard to case. Rows inside of rows are unfolded first, see `values.flat_rows`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rocket_hub.rows.dialogues import DIALOGUES, first_exchange, text_of_turns
from rocket_hub.rows.values import MAX_CHARACTERS, NESTED, first_text, is_parts, lowered, passage_of, said, text_of

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ASKED = (
    "question", "query", "stem", "question_stem", "goal", "problem", "sentence", "ctx", "premise", "prompt", "input",
    "instruction",
)  # fmt: skip
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


def first_number(rows: Iterable[Mapping[str, Any]]) -> int:
    """Decide from rows, columns in lower case, whether the numbers of the right options start with 0 or with 1.

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
    marks = [mark for mark in _WITHIN.finditer(text[:10_000])]
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    labels = [mark[1].upper() for mark in marks]
    if not labels or labels != list(LETTERS[: len(labels)]):
        return [], []
    return labels, [text[mark.end() : end].strip(" ,;\n") for mark, end in zip(marks, ends, strict=True)]


def _number(key: Any) -> int | None:
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


# Each shape lists its (prompt column, completion columns), the likeliest first.
PAIRS: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "alpaca": (
        ("instruction", ("output", "response", "completion", "answer", "outputs", "target", "targets")),
        ("definition", ("output", "response", "outputs", "target", "targets")),
    ),
    "prompt_completion": (("prompt", ("completion", "response", "output", "answer", "target")),),
    "code": tuple(
        (asked, ("code", "canonical_solution")) for asked in ("prompt", "instruction", "text", "question", "problem")
    ),
    "question_answer": (
        ("problem", ("solution", "answer", "generated_solution")),
        ("question", ("answer", "answers", "response", "solution", "correct_answer", "best_answer", "final_answer",
                      "final_decision", "output", "long_answer")),
        ("query", ("response", "answer", "answers", "output")),
    ),
    "input_output": (("input", ("output", "outputs", "target", "response")), ("inputs", ("targets", "outputs"))),
}  # fmt: skip
RATIONALES = (
    "rationale", "reasoning", "explanation", "chain_of_thought", "cot", "solution", "derivation", "equation",
    "long_answer",
)  # fmt: skip
SYSTEMS = ("system", "system_prompt")
HISTORIES = ("history", "chat_history", "conversation_history")
CONTEXTS = (
    "context", "contexts", "passage", "article", "paragraph", "table", "paragraphs", "body", "support", "background",
    "story", "premise", "fact1", "input", "inputs",
)  # fmt: skip
LABELLED = (
    "text", "sentence", "content", "question", "premise", "sentence1", "hypothesis", "sentence2", "tweet", "review",
)  # fmt: skip
LABELS = ("label", "labels", "label_text", "category", "intent", "class")
TESTS = "test_list"
MOST_NAMED = 20
"""Classes up to this number are named in the prompt."""

_ANSWERS = {name for pairs in PAIRS.values() for _, names in pairs for name in names}
_READ = {
    *DIALOGUES, *ASKED, *LISTS, *KEYS, *RATIONALES, *SYSTEMS, *HISTORIES, *CONTEXTS, *LABELLED, *LABELS, *NESTED,
    TESTS, *_ANSWERS, *(asked for pairs in PAIRS.values() for asked, _ in pairs),
}  # fmt: skip


def is_read(column: str) -> bool:
    """Return whether any shape has use for a column."""
    return column.lower() in _READ or is_option(column.lower())


def shapes_of(columns: Iterable[str]) -> list[str]:
    """Name the shapes that columns may have, the likeliest first."""
    names = {str(column).lower() for column in columns}
    found = [shape for column, shape in DIALOGUES.items() if column in names][:1]
    found += ["multiple_choice"] if has_options(names) else []
    found += [
        shape
        for shape, pairs in PAIRS.items()
        if any(asked in names and not names.isdisjoint(answers) for asked, answers in pairs)
    ]
    labelled = not names.isdisjoint(LABELLED) and not names.isdisjoint(LABELS)
    return [*found, *(["text_label"] if labelled else [])]


def detect_shape(rows: Sequence[Mapping[str, Any]], names: Sequence[str] = ()) -> str | None:
    """Name the shape of a data set.

    Args:
        rows: Its first rows, flat.
        names: Names of the classes of its label, where it has numbers for them.

    Returns:
        `messages`, `sharegpt`, `dialogue`, `multiple_choice`, `text_label` or a key of `PAIRS`: the likeliest in which
        one of the rows has a prompt and a completion; None for none.
    """
    columns = dict.fromkeys(column for row in rows for column in row)
    return next(
        (shape for shape in shapes_of(columns) if any(to_prompt_completion(shape, row, names) for row in rows)), None
    )


@dataclass(frozen=True)
class Parts:
    """What a row says."""

    question: str  # what is asked
    answer: str  # the answer, without its rationale; the text of the right one of the options
    system: str = ""  # the system's text
    history: str = ""  # what was said before, one turn a line
    context: str = ""  # A passage that belongs to the question
    after: bool = False  # whether the context stands after the question, as an input after its instruction
    rationale: str = ""  # the reasoning before the answer, where it has a column of its own
    options: tuple[str, ...] = ()  # texts of the options
    right: int = 0  # place of the right one, from 0
    tests: tuple[str, ...] = ()  # statements that a program must pass

    def prompt(self) -> str:
        """Write what a model is asked: parts with an empty line between them, options by their letters."""
        asked = "\n".join([self.question, *self._lettered(), *self.tests])
        before = [text for text in (self.system, self.history) if text]
        context = [self.context] if self.context else []
        return "\n\n".join([*before, asked, *context] if self.after else [*before, *context, asked])

    def completion(self) -> str:
        """Write what it should answer: the rationale, and the answer on a line of its own."""
        answer = self._lettered()[self.right] if self.options else self.answer
        return f"{self.rationale}\n{answer}" if self.rationale else answer

    def _lettered(self) -> list[str]:
        return [f"{letter}. {text}" for letter, text in zip(LETTERS, self.options, strict=False)]


def to_prompt_completion(
    shape: str, row: Mapping[str, Any], names: Sequence[str] = (), *, first: int = 0
) -> tuple[str, str] | None:
    """Turn one row into a prompt and its completion, stripped and not empty; None if it has none. See `read_parts`."""
    parts = read_parts(shape, row, names, first=first)
    pair = (parts.prompt(), parts.completion()) if parts else ("", "")
    return pair if all(pair) and is_writable("".join(pair)) and sum(map(len, pair)) <= MAX_CHARACTERS else None


def is_writable(text: str) -> bool:
    """Return whether a text can be written: JSON may hold halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_parts(shape: str, row: Mapping[str, Any], names: Sequence[str] = (), *, first: int = 0) -> Parts | None:
    """Read one row.

    Args:
        shape: What `detect_shape` said.
        row: Column -> value, of any type.
        names: Names of the classes of its label, where it has numbers for them.
        first: The number of the first option, where the right one is told by a number; see `first_number`.

    Returns:
        Its parts; None if it has no question or no answer.
    """
    row = lowered(row)
    if shape in DIALOGUES.values():
        return _dialogue(shape, row)
    if shape == "multiple_choice":
        return _multiple_choice(row, first)
    return _labelled(row, names) if shape == "text_label" else _pair(shape, row)


def _dialogue(shape: str, row: Mapping[str, Any]) -> Parts | None:
    """Read the first question and answer of a conversation, and the system's text beside it."""
    exchanges = (first_exchange(row.get(column)) for column, name in DIALOGUES.items() if name == shape)
    found = next((exchange for exchange in exchanges if exchange.question and exchange.answer), None)
    if found is None:
        return None
    system = [text for text in (_system(row), found.system) if text]
    return Parts(found.question, found.answer, system="\n\n".join(dict.fromkeys(system)))


def _multiple_choice(row: Mapping[str, Any], first: int) -> Parts | None:
    """Read a question with options, if it tells which is right."""
    labels, texts = options_of(row)
    places = (_position(row.get(column), labels, texts, first) for column in KEYS)
    right = next((place for place in places if place is not None), None)
    question = first_text(row, ASKED)
    if not question or right is None or not all(texts):
        return None
    shown = Parts(question, texts[right], options=tuple(texts), right=right)
    return _with_others(row, shown, shown.completion())


def _pair(shape: str, row: Mapping[str, Any]) -> Parts | None:
    """Read the shapes that have one column for the prompt and one for the completion, but no options."""
    if has_options(row) and options_of(row)[1]:
        return None
    for asked, answers in PAIRS.get(shape, ()):
        question, answer = text_of(row.get(asked)), _answer(row, answers)
        if question and answer:
            tests = row.get(TESTS) if shape == "code" else None
            told = tuple(map(text_of, tests)) if isinstance(tests, list) else ()
            return _with_others(row, Parts(question, answer, after=shape == "alpaca", tests=told), answer, asked)
    return None


def _answer(row: Mapping[str, Any], columns: Sequence[str]) -> str:
    """Return the first answer that is in one of the columns; of several `answers` or `outputs`, each is one."""
    several = row.get("answer")
    # Nobody says whether several things under the name of one are its parts or different ways to say it.
    unclear = isinstance(several, list) and len(several) > 1 and not is_parts(several)
    return first_text(row, [column for column in columns if column != "answer"] if unclear else columns)


def _with_others(row: Mapping[str, Any], parts: Parts, answer: str, asked: str = "") -> Parts:
    """Add what other columns than those of question and answer say; what is there already is not said twice."""
    known = "\n".join([parts.question, *parts.options])
    passages = (said(passage_of(row[column])) for column in CONTEXTS if column in row and column != asked)
    rationale = said(first_text(row, RATIONALES))
    return replace(
        parts,
        system=_system(row),
        history=next((text for column in HISTORIES if (text := said(text_of_turns(row.get(column))))), ""),
        context="\n\n".join(text for text in dict.fromkeys(passages) if text and text not in known),
        rationale=rationale if rationale != answer else "",
    )


def _system(row: Mapping[str, Any]) -> str:
    return said(first_text(row, SYSTEMS))


def _labelled(row: Mapping[str, Any], names: Sequence[str]) -> Parts | None:
    question = "\n".join(text for column in LABELLED if column in row and (text := text_of(row[column])))
    told = next((row[column] for column in LABELS if row.get(column) is not None), None)
    if isinstance(told, int) and not isinstance(told, bool):
        label = names[told] if 0 <= told < len(names) else ""
    else:
        label = text_of(told) if isinstance(told, str) and not told.strip().lstrip("-").isdecimal() else ""
    if not question or not label:
        return None
    if 2 <= len(names) <= MOST_NAMED and label in names:
        question += f"\n\nOne of: {', '.join(names)}."
    passages = [text for column in ("passage", "context") if (text := text_of(row.get(column)))]
    return Parts(question, label, context="\n\n".join(passages))
