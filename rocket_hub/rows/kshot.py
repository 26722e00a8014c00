from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from rocket_hub.errors import DatasetError, KShotError
from rocket_hub.records import Example
from rocket_hub.rows import layouts
from rocket_hub.rows.files import rows_of
from rocket_hub.rows.json_csv import BadLineError, csv_rows, json_lines
from rocket_hub.rows.layouts import LETTERS, RATIONALES, Parts, has_options, options_of
from rocket_hub.rows.values import MAX_ROW, Reading, flat_rows, text_of

MAX_BYTES = 64 * 2**20
_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
_ANSWER_MARK = re.compile(r"####|[Tt]he (?:final )?answer is:?|\n(?:Final )?[Aa]nswer:")
_BOOLEAN = ("no", "yes")
_TRUTHS = {"true": "yes", "1": "yes", "yes": "yes", "false": "no", "0": "no", "no": "no"}
_QUESTIONS = ("question", "prompt", "instruction", "problem", "query")
_ANSWERS = ("answer", "completion", "output", "solution", "response")
_FORMS = (
    "prompt/completion, question/answer, instruction/input/output, messages or the columns of ARC, PIQA, BoolQ or MBPP "
    f"(with the reasoning in the answer or in one of {', '.join(RATIONALES[:5])})"
)


def load_kshot(path: str | Path) -> tuple[Example, ...]:
    """Read K human-verified examples from a JSON Lines, JSON, CSV or Parquet file.

    Args:
        path: The file. Rows have the columns of one of the layouts that data of the Hub may have, see `layouts`: for
            example `prompt`/`completion`, `question`/`answer`, `instruction`/`input`/`output`, `messages`, or options.
            A rationale stands in the answer, before `####` or `The answer is`, or in a column of its own. The columns
            of ARC, PIQA, BoolQ and MBPP are checked strictly.

    Returns:
        One example a row, in the file's order: `prompt` is the bare question, `completion` the whole answer text; with
        `choices` or `tests` where the columns hold them.

    Raises:
        KShotError: The file is missing, empty, not UTF-8, half-written, or a row has another shape; the message names
            file and line (or row), what was found and what is expected.
    """
    path = Path(path)
    rows = [(where, row, _flat(row, where)) for where, row in _rows(path)]
    first = layouts.first_number(flat for _, _, flat in rows)
    examples = tuple(_example(row, flat, first, where) for where, row, flat in rows)
    if not examples:
        raise KShotError(f"{path}: holds no examples; expected at least one row with {_FORMS}")
    seen: dict[tuple[str, str], int] = {}
    for number, example in enumerate(examples, 1):
        same = seen.setdefault((example.prompt, example.completion), number)
        if same != number:
            raise KShotError(f"{path}: rows {same} and {number} are the same example; remove one of them")
    return examples


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (where, row) for each row of the file."""
    if path.suffix not in _SUFFIXES:
        raise KShotError(f"{path}: unknown kind of file '{path.suffix}'; expected {', '.join(_SUFFIXES)}")
    if not path.is_file():
        raise KShotError(f"{path}: no such file; give the K-shot examples with --kshot FILE")
    if path.stat().st_size > MAX_BYTES:
        raise KShotError(f"{path}: {path.stat().st_size:,} bytes; a K-shot file is a handful of examples")
    data = path.read_bytes()
    if path.suffix != ".parquet":
        _check_text(path, data)
    reading = Reading(2 * MAX_BYTES)
    if path.suffix == ".jsonl":
        yield from _json_lines(path, data, reading)
    elif path.suffix == ".csv":
        yield from _csv(path, data, reading)
    else:
        yield from _parsed(path, data, reading)


def _check_text(path: Path, data: bytes) -> None:
    """Refuse what is not UTF-8, naming the line of the first byte that is not."""
    try:
        data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise KShotError(f"{path}:{line}: not UTF-8 (byte {data[error.start]:#04x}); save the file as UTF-8") from error


def _json_lines(path: Path, data: bytes, reading: Reading) -> Iterator[tuple[str, Any]]:
    try:
        for number, row in json_lines(BytesIO(data), reading, longest=MAX_BYTES):
            yield f"{path}:{number}", row
    except BadLineError as error:
        line = data.decode("utf-8-sig").split("\n")[error.line - 1]
        advice = "is the file cut off?" if line.strip() != "[" else "a list of rows belongs in a '.json' file"
        raise KShotError(f"{path}:{error.line}: not JSON ({error.fault}): {line[:60]!r}; {advice}") from error


def _csv(path: Path, data: bytes, reading: Reading) -> Iterator[tuple[str, Any]]:
    try:
        for number, row in csv_rows(BytesIO(data), reading, strict=True):
            yield f"{path}:{number}", row
    except BadLineError as error:
        if "columns" in error.fault:
            raise KShotError(f"{path}:{error.line}: {error.fault}") from error
        raise KShotError(f"{path}: not CSV ({error.fault}); is the file cut off?") from error


def _parsed(path: Path, data: bytes, reading: Reading) -> Iterator[tuple[str, Any]]:
    try:
        rows = list(rows_of(BytesIO(data), path.name, reading, str(path)))
    except DatasetError as error:
        fault = str(error).removeprefix(f"{path}: ")
        if fault.endswith("where a row with columns must be"):
            raise KShotError(f"{path}: expected a list of rows, found {fault}") from error
        kind = "JSON" if path.suffix == ".json" else "Parquet"
        raise KShotError(f"{path}: not {kind} ({fault}); is the file cut off?") from error
    if path.suffix == ".json" and len(rows) == 1 and not data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        raise KShotError(f"{path}: expected a list of rows, found {type(rows[0]).__name__}")
    if reading.too_long:
        raise KShotError(f"{path}: a row of more than {MAX_ROW:,} bytes; a K-shot file is a handful of examples")
    yield from ((f"{path}: row {number}", row) for number, row in enumerate(rows, 1))


def _flat(row: Any, where: str) -> dict[str, Any]:
    """Return a row with its columns in lower case; it is one example, not a record of several."""
    if not isinstance(row, Mapping):
        raise KShotError(f"{where}: expected an object with {_FORMS}, found {row!r:.60}")
    flat = list(flat_rows(row))
    if len(flat) != 1:
        raise KShotError(f"{where}: holds {len(flat)} examples; expected one a row, with {_FORMS}")
    return flat[0]


def _example(row: Mapping[str, Any], flat: dict[str, Any], first: int, where: str) -> Example:
    """Read one row in any of the known layouts."""
    checks = [check for columns, check in _STRICT if columns <= row.keys()]
    options = checks[0](row, where) if checks else ()
    shapes = layouts.shapes_of(flat)
    if not shapes:
        raise KShotError(f"{where}: unknown columns {', '.join(map(str, row)) or '(none)'}; expected {_FORMS}")
    if "messages" in row:
        _check_messages(row["messages"], where)
    asked = next((flat[column] for column in _QUESTIONS if column in flat), None)
    if isinstance(asked, (int, float)) and text_of(asked):
        raise KShotError(f"{where}: the question is empty or no text: {asked!r:.60}")
    parts = next((found for shape in shapes if (found := layouts.read_parts(shape, flat, first=first))), None)
    if parts is None:
        raise KShotError(f"{where}: {_why_nothing(row, flat)}")
    if not layouts.is_writable(parts.prompt() + parts.completion()):
        raise KShotError(f"{where}: holds half of a character (a lone surrogate); write the character out")
    return _written(parts, row, options or parts.options)


def _why_nothing(row: Mapping[str, Any], flat: Mapping[str, Any]) -> str:
    """Say which part of a row is no text."""
    for name, columns in (("question", _QUESTIONS), ("answer", _ANSWERS)):
        for column in columns:
            if column in flat and not text_of(flat[column]):
                return f"the {name} is empty or no text: {flat[column]!r:.60}"
    if has_options(flat) and options_of(flat)[1]:
        return "there are options, but no column says which of them is right"
    return f"no question with an answer in the columns {', '.join(map(str, row))}; expected {_FORMS}"


def _written(parts: Parts, row: Mapping[str, Any], options: tuple[str, ...]) -> Example:
    """Write the parts of a row as an example; no line is empty, for empty lines stand between shots."""
    question = f"{parts.question.rstrip('?')}?" if options == _BOOLEAN else parts.question
    asked = f"Question: {question}" if parts.context and not parts.after else question
    around = [asked, parts.context] if parts.after else [parts.context, asked]
    prompt = "\n".join(text for text in (parts.system, parts.history, *around) if text)
    rationale, completion = parts.rationale, parts.answer
    if options:
        answer = _TRUTHS[completion.lower()] if options == _BOOLEAN else LETTERS[parts.right]
        return Example(prompt, f"{rationale}\nThe answer is {answer}.".strip(), answer, rationale, options)
    if parts.tests:
        tests = [row.get("test_setup_code"), *row["test_list"]]  # as they are written, what prepares them first
        return Example(prompt, completion, completion, rationale, tests=tuple(test for test in tests if text_of(test)))
    answer = completion
    if mark := list(_ANSWER_MARK.finditer(completion)):
        answer = completion[mark[-1].end() :].strip()
        rationale = rationale or completion[: mark[-1].start()].strip()
    return Example(prompt, completion, answer, rationale)


def _arc_options(row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    options = row["choices"]
    if not isinstance(options, Mapping) or not all(isinstance(options.get(key), list) for key in ("text", "label")):
        raise KShotError(f"{where}: 'choices' must hold two lists, text and label; found {options!r:.80}")
    texts, labels = options["text"], [str(label) for label in options["label"]]
    if not 2 <= len(texts) == len(labels) <= len(LETTERS):
        raise KShotError(f"{where}: 'choices' has {len(texts)} texts and {len(labels)} labels; give 2 to 26 of each")
    if str(row["answerKey"]) not in labels:
        raise KShotError(f"{where}: 'answerKey' must be one of {', '.join(labels)}, found {row['answerKey']!r:.20}")
    _check_text_of(row, ("question",), where)
    return tuple(map(str, texts))


def _piqa_options(row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    if str(row["label"]) not in ("0", "1"):
        raise KShotError(f"{where}: 'label' must be 0 (sol1) or 1 (sol2), found {row['label']!r:.20}")
    _check_text_of(row, ("sol1", "sol2", "goal"), where)
    return row["sol1"], row["sol2"]


def _boolq_options(row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    if str(row["answer"]).strip().lower() not in _TRUTHS:
        raise KShotError(f"{where}: 'answer' must be true or false, found {row['answer']!r:.40}")
    _check_text_of(row, ("passage", "question"), where)
    return _BOOLEAN


def _no_options(row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    tests = row["test_list"]
    if not isinstance(tests, list) or not tests or not all(isinstance(test, str) and test.strip() for test in tests):
        raise KShotError(f"{where}: 'test_list' must be a list of assert statements, found {tests!r:.80}")
    _check_text_of(row, ("code", "text"), where)
    return ()


def _check_text_of(row: Mapping[str, Any], columns: Collection[str], where: str) -> None:
    for column in columns:
        if not isinstance(row[column], str) or not row[column].strip():
            raise KShotError(f"{where}: '{column}' is empty or no text: {row[column]!r:.60}")


def _check_messages(messages: Any, where: str) -> None:
    """Refuse a dialogue of more than one question and its answer: which of the answers was verified is not told."""
    if not isinstance(messages, list) or not all(isinstance(turn, Mapping) for turn in messages):
        raise KShotError(f"{where}: 'messages' must be a list of objects with role and content")
    roles = [turn.get("role") for turn in messages]
    if roles.count("user") != 1 or roles.count("assistant") != 1:
        raise KShotError(f"{where}: expected one user and one assistant message, found {', '.join(map(str, roles))}")


# The columns of a benchmark -> what checks them, and returns the options as they are written.
_STRICT = (
    ({"question", "choices", "answerKey"}, _arc_options),
    ({"goal", "sol1", "sol2", "label"}, _piqa_options),
    ({"passage", "question", "answer"}, _boolq_options),
    ({"text", "code", "test_list"}, _no_options),
)
