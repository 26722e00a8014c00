"""Read the K-shot: a handful of human-verified examples, in whatever common form they are."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from rocket_hub.errors import KShotError
from rocket_hub.records import Example

MAX_BYTES = 64 * 2**20
_ANSWER_MARK = re.compile(r"####|[Tt]he (?:final )?answer is:?|\n(?:Final )?[Aa]nswer:")
_RATIONALES = ("rationale", "reasoning", "explanation", "chain_of_thought", "cot")
_FORMS = (
    "prompt/completion, question/answer, instruction/input/output, messages or the columns of ARC, PIQA, BoolQ or MBPP "
    f"(with the reasoning in the answer or in one of {', '.join(_RATIONALES)})"
)


def load_kshot(path: str | Path) -> tuple[Example, ...]:
    """Read K human-verified examples from a JSON Lines, JSON, CSV or Parquet file.

    Args:
        path: The file. Rows have `prompt`/`completion`, `question`/`answer`, `instruction`/`input`/`output` or
            `messages`; a rationale stands in the answer, before `####` or `The answer is`, or in a column of its own.
            Or they have a benchmark's own columns: ARC's `question`, `choices` (text, label) and `answerKey`; PIQA's
            `goal`, `sol1`, `sol2` and `label`; BoolQ's `passage`, `question` and `answer`; MBPP's `text`, `code` and
            `test_list`.

    Returns:
        One example a row, in the file's order: `prompt` is the bare question, `completion` the whole answer text; with
        `choices` or `tests` where the columns hold them.

    Raises:
        KShotError: The file is missing, empty, not UTF-8, half-written, or a row has another shape; the message names
            file and line (or row), what was found and what is expected.
    """
    path = Path(path)
    examples = tuple(_example(row, where) for where, row in _rows(path))
    if not examples:
        raise KShotError(f"{path}: holds no examples; expected at least one row with {_FORMS}")
    seen: dict[tuple[str, str], int] = {}
    for number, example in enumerate(examples, 1):
        first = seen.setdefault((example.prompt, example.completion), number)
        if first != number:
            raise KShotError(f"{path}: rows {first} and {number} are the same example; remove one of them")
    return examples


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (where, row) for each row of the file."""
    readers = {".jsonl": _json_lines, ".json": _json, ".csv": _csv, ".parquet": _parquet}
    if path.suffix not in readers:
        raise KShotError(f"{path}: unknown kind of file '{path.suffix}'; expected {', '.join(readers)}")
    if not path.is_file():
        raise KShotError(f"{path}: no such file; give the K-shot examples with --kshot FILE")
    if path.stat().st_size > MAX_BYTES:
        raise KShotError(f"{path}: {path.stat().st_size:,} bytes; a K-shot file is a handful of examples")
    yield from readers[path.suffix](path)


def _text(path: Path) -> str:
    """Read UTF-8 text, naming the line of the first byte that is not."""
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise KShotError(f"{path}:{line}: not UTF-8 (byte {data[error.start]:#04x}); save the file as UTF-8") from error


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(_text(path).split("\n"), 1):
        if line.strip():
            try:
                yield f"{path}:{number}", json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                raise KShotError(f"{path}:{number}: not JSON ({error}): {line[:60]!r}; is the file cut off?") from error


def _json(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        data = json.loads(_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise KShotError(f"{path}:{line}: not JSON ({error}); is the file cut off?") from error
    if not isinstance(data, list):
        raise KShotError(f"{path}: expected a list of rows, found {type(data).__name__}")
    for number, row in enumerate(data, 1):
        yield f"{path}: row {number}", row


def _csv(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        reader = csv.DictReader(_text(path).splitlines(keepends=True), strict=True)
        for row in reader:
            if None in row or None in row.values():
                columns = f"the header has {len(reader.fieldnames or ())} columns"
                raise KShotError(f"{path}:{reader.line_num}: another number of columns than expected: {columns}")
            yield f"{path}:{reader.line_num}", row
    except csv.Error as error:
        raise KShotError(f"{path}: not CSV ({error}); is the file cut off?") from error


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise KShotError(f"{path}: not Parquet ({error}); is the file cut off?") from error
    for number, row in enumerate(rows, 1):
        yield f"{path}: row {number}", row


def _example(row: Any, where: str) -> Example:
    """Read one row in any of the known forms."""
    if not isinstance(row, Mapping):
        raise KShotError(f"{where}: expected an object with {_FORMS}, found {row!r:.60}")
    for columns, read in _NATIVE:
        if columns <= row.keys():
            return read(row, _rationale(row), where)
    prompt, completion = _question_and_answer(row, where)
    for name, text in (("question", prompt), ("answer", completion)):
        if not isinstance(text, str) or not text.strip():
            raise KShotError(f"{where}: the {name} is empty or no text: {text!r:.60}")
    rationale = _rationale(row)
    mark = list(_ANSWER_MARK.finditer(completion))
    answer = completion[mark[-1].end() :].strip() if mark else completion
    if not rationale and mark:
        rationale = completion[: mark[-1].start()]
    return Example(prompt.strip(), completion.strip(), answer.strip(), rationale.strip())


def _rationale(row: Mapping[str, Any]) -> str:
    """Find the reasoning in a column of its own."""
    return next((str(row[key]).strip() for key in _RATIONALES if row.get(key)), "")


def _arc(row: Mapping[str, Any], rationale: str, where: str) -> Example:
    """Read a row with ARC's columns."""
    options = row["choices"]
    if not isinstance(options, Mapping) or not all(isinstance(options.get(key), list) for key in ("text", "label")):
        raise KShotError(f"{where}: 'choices' must hold two lists, text and label; found {options!r:.80}")
    texts, labels = [str(text) for text in options["text"]], [str(label) for label in options["label"]]
    if not 2 <= len(texts) == len(labels) <= len(ascii_uppercase):
        raise KShotError(f"{where}: 'choices' has {len(texts)} texts and {len(labels)} labels; give 2 to 26 of each")
    if str(row["answerKey"]) not in labels:
        raise KShotError(f"{where}: 'answerKey' must be one of {', '.join(labels)}, found {row['answerKey']!r:.20}")
    return _choice(_said(row, "question", where), labels.index(str(row["answerKey"])), texts, rationale)


def _piqa(row: Mapping[str, Any], rationale: str, where: str) -> Example:
    """Read a row with PIQA's columns."""
    if str(row["label"]) not in ("0", "1"):
        raise KShotError(f"{where}: 'label' must be 0 (sol1) or 1 (sol2), found {row['label']!r:.20}")
    texts = [_said(row, "sol1", where), _said(row, "sol2", where)]
    return _choice(_said(row, "goal", where), int(row["label"]), texts, rationale)


def _choice(question: str, right: int, texts: list[str], rationale: str) -> Example:
    """Put a question with options together; the answer is the letter of the right one."""
    letter = ascii_uppercase[right]
    return Example(question, f"{rationale}\nThe answer is {letter}.".strip(), letter, rationale, tuple(texts))


def _boolq(row: Mapping[str, Any], rationale: str, where: str) -> Example:
    """Read a row with BoolQ's columns."""
    said = str(row["answer"]).strip().lower()
    answer = {"true": "yes", "1": "yes", "yes": "yes", "false": "no", "0": "no", "no": "no"}.get(said)
    if answer is None:
        raise KShotError(f"{where}: 'answer' must be true or false, found {row['answer']!r:.40}")
    question = f"{_said(row, 'passage', where)}\nQuestion: {_said(row, 'question', where).rstrip('?')}?"
    completion = f"{rationale}\nThe answer is {answer}.".strip()
    return Example(question, completion, answer, rationale, choices=("no", "yes"))


def _mbpp(row: Mapping[str, Any], rationale: str, where: str) -> Example:
    """Read a row with MBPP's columns; what prepares the tests comes before them."""
    tests, before = row["test_list"], row.get("test_setup_code")
    if not isinstance(tests, list) or not tests or not all(isinstance(test, str) and test.strip() for test in tests):
        raise KShotError(f"{where}: 'test_list' must be a list of assert statements, found {tests!r:.80}")
    code, setup = _said(row, "code", where), (str(before),) if before else ()
    return Example(_said(row, "text", where), code, code, rationale, tests=(*setup, *tests))


def _said(row: Mapping[str, Any], column: str, where: str) -> str:
    """Return the text of a column."""
    text = row[column]
    if not isinstance(text, str) or not text.strip():
        raise KShotError(f"{where}: '{column}' is empty or no text: {text!r:.60}")
    return text


_NATIVE = (
    ({"question", "choices", "answerKey"}, _arc),
    ({"goal", "sol1", "sol2", "label"}, _piqa),
    ({"passage", "question", "answer"}, _boolq),
    ({"text", "code", "test_list"}, _mbpp),
)


def _question_and_answer(row: Mapping[str, Any], where: str) -> tuple[Any, Any]:
    """Find the two texts by the names of the columns."""
    if "prompt" in row and "completion" in row:
        return row["prompt"], row["completion"]
    if "question" in row and "answer" in row:
        return row["question"], row["answer"]
    if "instruction" in row and "output" in row:
        parts = (str(row["instruction"]), str(row.get("input") or ""))
        return "\n".join(part for part in parts if part), row["output"]
    if "messages" in row:
        return _messages(row["messages"], where)
    raise KShotError(f"{where}: unknown columns {', '.join(map(str, row)) or '(none)'}; expected {_FORMS}")


def _messages(messages: Any, where: str) -> tuple[Any, Any]:
    """Read one turn of a dialogue: what the user says, then what the assistant answers."""
    if not isinstance(messages, list) or not all(isinstance(m, Mapping) for m in messages):
        raise KShotError(f"{where}: 'messages' must be a list of objects with role and content")
    said = {role: [m.get("content") for m in messages if m.get("role") == role] for role in ("user", "assistant")}
    if len(said["user"]) != 1 or len(said["assistant"]) != 1:
        found = ", ".join(str(m.get("role")) for m in messages)
        raise KShotError(f"{where}: expected one user and one assistant message, found {found}")
    system = [str(m.get("content")) for m in messages if m.get("role") == "system"]
    return "\n".join([*system, str(said["user"][0])]), said["assistant"][0]
