"""The column shapes that instruction data has in the wild, and how each becomes one prompt and one completion.

Pure functions; a row's columns are compared without regard to case. Rows inside of rows are unfolded first, see
`unnesting.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from rocket_hub.discovery.data.cells import first_text, lowered, passage_of, text_of
from rocket_hub.discovery.data.choices import ASKED, KEYS, LISTS, has_options, is_option, multiple_choice
from rocket_hub.discovery.data.dialogues import DIALOGUES, first_exchange
from rocket_hub.discovery.data.reading import MAX_CHARACTERS
from rocket_hub.discovery.data.unnesting import NESTED

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
CONTEXTS = (
    "context", "contexts", "passage", "article", "paragraph", "table", "paragraphs", "body", "support", "background",
    "story", "premise", "fact1", "input", "inputs",
)  # fmt: skip
LABELLED = (
    "text",
    "sentence",
    "content",
    "question",
    "premise",
    "sentence1",
    "hypothesis",
    "sentence2",
    "tweet",
    "review",
)
LABELS = ("label", "labels", "label_text", "category", "intent", "class")
TESTS = "test_list"
MOST_NAMED = 20
"""Classes up to this number are named in the prompt."""

_ANSWERS = {name for pairs in PAIRS.values() for _, names in pairs for name in names}
_READ = {
    *DIALOGUES, *ASKED, *LISTS, *KEYS, *RATIONALES, *SYSTEMS, *CONTEXTS, *LABELLED, *LABELS, *NESTED, TESTS, *_ANSWERS,
    *(asked for pairs in PAIRS.values() for asked, _ in pairs),
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


def to_prompt_completion(
    shape: str, row: Mapping[str, Any], names: Sequence[str] = (), *, first: int = 0
) -> tuple[str, str] | None:
    """Turn one row into a prompt and its completion.

    Args:
        shape: What `detect_shape` said.
        row: Column -> value, of any type.
        names: Names of the classes of its label, where it has numbers for them.
        first: The number of the first option, where the right one is told by a number; see `choices.first_number`.

    Returns:
        Prompt and completion, stripped and not empty; None if the row has none.
    """
    row = lowered(row)
    if shape in DIALOGUES.values():
        exchanges = (first_exchange(row.get(column)) for column, name in DIALOGUES.items() if name == shape)
        pair = next((exchange for exchange in exchanges if all(exchange)), ("", ""))
    elif shape == "multiple_choice":
        question, answer = multiple_choice(row, first)
        pair = _around(row, question), _reasoned(row, answer)
    elif shape == "text_label":
        pair = _labelled(row, names)
    else:
        pair = _pair(shape, row)
    return pair if all(pair) and _is_sound(*pair) else None


def _is_sound(prompt: str, completion: str) -> bool:
    """Return whether texts are of a bearable length and can be written: JSON may hold halves of characters."""
    try:
        (prompt + completion).encode()
    except UnicodeEncodeError:
        return False
    return len(prompt) + len(completion) <= MAX_CHARACTERS


def _pair(shape: str, row: Mapping[str, Any]) -> tuple[str, str]:
    """Read the shapes that have one column for the prompt and one for the completion."""
    for asked, answers in PAIRS.get(shape, ()):
        prompt, completion = text_of(row.get(asked)), _answer(row, answers)
        if prompt and completion:
            tests = row.get(TESTS) if shape == "code" else None
            prompt = _around(row, prompt, without=asked, after=shape == "alpaca")
            return "\n".join([prompt, *map(text_of, tests if isinstance(tests, list) else ())]), _reasoned(
                row, completion
            )
    return "", ""


def _answer(row: Mapping[str, Any], columns: Sequence[str]) -> str:
    """Return the first answer that is in one of the columns; of several `answers` or `outputs`, each is one."""
    several = row.get("answer")
    # Nobody says whether several things under the name of one are its parts or different ways to say it.
    unclear = isinstance(several, list) and len(several) > 1
    return first_text(row, [column for column in columns if column != "answer"] if unclear else columns)


def _around(row: Mapping[str, Any], prompt: str, *, without: str = "", after: bool = False) -> str:
    """Put the system's text and the context around a question: before it, or the context after it."""
    contexts = (passage_of(row[column]) for column in CONTEXTS if column in row and column != without)
    context = [text for text in dict.fromkeys(contexts) if text and text not in prompt]
    system = [text for text in [first_text(row, SYSTEMS)] if text]
    return "\n\n".join([*system, prompt, *context] if after else [*system, *context, prompt]) if prompt else ""


def _reasoned(row: Mapping[str, Any], answer: str) -> str:
    """Put a rationale that has its own column before the answer."""
    rationale = first_text(row, RATIONALES)
    return f"{rationale}\n{answer}" if rationale and answer and rationale != answer else answer


def _labelled(row: Mapping[str, Any], names: Sequence[str]) -> tuple[str, str]:
    """Read a text, or two, and the name of its class."""
    prompt = "\n".join(text for column in LABELLED if column in row and (text := text_of(row[column])))
    told = next((row[column] for column in LABELS if row.get(column) is not None), None)
    if isinstance(told, int) and not isinstance(told, bool):
        label = names[told] if 0 <= told < len(names) else ""
    else:
        label = text_of(told) if isinstance(told, str) and not told.strip().lstrip("-").isdecimal() else ""
    if not prompt or not label:
        return "", ""
    passages: Collection[str] = [text for column in ("passage", "context") if (text := text_of(row.get(column)))]
    choice = f"One of: {', '.join(names)}." if 2 <= len(names) <= MOST_NAMED and label in names else ""
    return "\n\n".join([*passages, prompt, *([choice] if choice else [])]), label
