"""Read the K-shot: a handful of human-verified examples, in whatever common form they are."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rocket_hub.errors import KShotError
from rocket_hub.records import Example

MAX_BYTES = 64 * 2**20
_ANSWER_MARK = re.compile(r"####|[Tt]he (?:final )?answer is:?|\n(?:Final )?[Aa]nswer:")
_RATIONALES = ("rationale", "reasoning", "explanation", "chain_of_thought", "cot")
_FORMS = (
    "prompt/completion, question/answer, instruction/input/output or messages "
    f"(with the reasoning in the answer or in one of {', '.join(_RATIONALES)})"
)


def load_kshot(path: str | Path) -> tuple[Example, ...]:
    """Read K human-verified examples from a JSON Lines, JSON, CSV or Parquet file.

    Args:
        path: The file. Rows have `prompt`/`completion`, `question`/`answer`, `instruction`/`input`/`output` or
            `messages`; a rationale stands in the answer, before `####` or `The answer is`, or in a column of its own.

    Returns:
        One example a row, in the file's order: `prompt` is the bare question, `completion` the whole answer text.

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
    prompt, completion = _question_and_answer(row, where)
    for name, text in (("question", prompt), ("answer", completion)):
        if not isinstance(text, str) or not text.strip():
            raise KShotError(f"{where}: the {name} is empty or no text: {text!r:.60}")
    rationale = next((str(row[key]) for key in _RATIONALES if row.get(key)), "")
    mark = list(_ANSWER_MARK.finditer(completion))
    answer = completion[mark[-1].end() :].strip() if mark else completion
    if not rationale and mark:
        rationale = completion[: mark[-1].start()]
    return Example(prompt.strip(), completion.strip(), answer.strip(), rationale.strip())


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
