"""What is text in a cell, and which rows a record holds: the same rules for a K-shot and for data of the Hub."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from rocket_hub.rows.dialogues import DIALOGUES, text_of_parts

MAX_CHARACTERS = 100_000
"""Characters of any text of a row; a longer row is dropped."""

MAX_ROW = 4 * 2**20
"""Bytes of a row with everything in it, as it is written in the file; a larger row is dropped, or is no row at all."""


class ByteFile(Protocol):
    """What rows are read from: a file of this machine, or the parts of one on the Hub."""

    def read(self, size: int = -1, /) -> bytes:
        """Read so many bytes, or what is left."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go to a place."""

    def tell(self) -> int:
        """Return the place."""


@dataclass
class Reading:
    """The budget of one data set, and what was read so far; the functions that read keep it.

    Attributes:
        max_bytes: When so many bytes are read, no further row is.
        bytes: Bytes of the data files that were read; of a gzip file, after unpacking.
        rows: Rows that were read.
        too_long: Of these and of those that were passed over, rows that are larger than a row may be.
        unused: Rows without a prompt or without a completion, and rows of a CSV file that are longer than its header.
        stopped: Which budget ended it, `max_rows` or `max_bytes`; empty if the data did.
        columns: Columns of the last Parquet file, and the names of their classes where it has them.
    """

    max_bytes: int
    bytes: int = 0
    rows: int = 0
    too_long: int = 0
    unused: int = 0
    stopped: str = ""
    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def spent(self) -> bool:
        """Whether the bytes are spent."""
        if self.bytes >= self.max_bytes:
            self.stopped = "max_bytes"
        return self.bytes >= self.max_bytes


_DEEPEST = 6
_NOTHING = ("none", "nan", "null", "<noinput>")
_LONGEST_CELL = 40
"""Characters; what is shorter, on average, is a cell of a table and no sentence."""


def lowered(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a row with its columns' names in lower case."""
    return {str(column).lower(): value for column, value in row.items()}


def text_of(value: Any, deep: int = 3) -> str:
    """Return a cell as one text; null, NaN and what is no text are the empty text.

    Text is stripped; a number has no needless `.0`; of truth values `yes` and `no`; of content parts all texts, one a
    line, if all of them are text; of another list its first item, of a mapping what it calls `text` or `value`, at most
    `deep` of them inside each other; else nothing.
    """
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value) if value.bit_length() < 300 else ""
    if isinstance(value, float):
        whole = math.isfinite(value) and value.is_integer() and abs(value) < 1e15
        return str(int(value)) if whole else repr(value) if math.isfinite(value) else ""
    if isinstance(value, Mapping) and deep:
        return text_of(value.get("text") or value.get("value"), deep - 1)
    if isinstance(value, list) and value and not isinstance(value[0], list) and deep:
        return text_of_parts(value) or "" if is_parts(value) else text_of(value[0], deep - 1)
    return ""


def is_parts(value: Any) -> bool:
    """Return whether a cell is content parts, as chat models are given them: `[{"type": "text", "text": ...}]`."""
    return isinstance(value, list) and any(isinstance(part, Mapping) and "type" in part for part in value)


def said(text: str) -> str:
    """Return the text of a column that may be empty: nothing for the words that programs write for nothing."""
    return "" if text.lower() in _NOTHING else text


def first_text(row: Mapping[str, Any], columns: Collection[str]) -> str:
    """Return the first text that is in one of the columns."""
    return next((text for column in columns if column in row and (text := text_of(row[column]))), "")


def passage_of(value: Any) -> str:
    """Return all the text of a cell: of paragraphs one a line, of a table one row a line.

    What is longer than a row may be is cut off a little above that, so that the row is seen to be too long.
    """
    if not isinstance(value, (list, dict)) or is_parts(value):
        return text_of(value)
    lines: list[str] = []
    length = 0
    for line in _lines(value, _DEEPEST):
        lines.append(line)
        length += len(line)
        if length > MAX_CHARACTERS:
            break
    return "\n".join(lines)


def _lines(value: Any, deep: int) -> Iterator[str]:
    """Yield the texts inside a cell; the items of an innermost list are one line if they are cells of a table."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if deep and key not in ("id", "uid", "order"):
                yield from _lines(inner, deep - 1)
    elif isinstance(value, list) and value and deep < _DEEPEST and not any(isinstance(x, (list, dict)) for x in value):
        texts = [text_of(item) for item in value]
        table = sum(map(len, texts)) < _LONGEST_CELL * len(texts)
        yield (" | " if table else " ").join(texts) if any(texts) else ""
    elif isinstance(value, list):
        for inner in value if deep else ():
            yield from _lines(inner, deep - 1)
    elif text := text_of(value):
        yield text


NESTED = ("instances", "questions", "qas", "qa_pairs", "examples")


def flat_rows(row: Mapping[Any, Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows that a record holds: column, in lower case -> value.

    What the record says once is in every one of its rows.
    """
    outer = lowered(row)
    for column in DIALOGUES:
        if isinstance(outer.get(column), str):
            outer[column] = _unpacked(outer[column])
    question, prompt = outer.get("question"), outer.get("prompt")
    if isinstance(question, Mapping) and "stem" in question:  # {"question": {"stem", "choices"}, "answerKey"}
        outer |= {**lowered(question), "question": question["stem"]}
    if (asked := _turns(prompt)) and (answered := _turns(outer.get("completion"))):
        outer["messages"] = [*asked, *answered]
    if isinstance(prompt, Mapping) and isinstance(prompt.get("replies"), list):  # a tree of messages, best reply first
        outer["messages"] = [{"role": "user", "content": prompt.get("text")}, *_answers(prompt["replies"][:1])]
    inner = next((items for column in NESTED if (items := _items(outer.get(column)))), None)
    if inner is None or not set(DIALOGUES).isdisjoint(outer):
        yield outer
        return
    outer = {column: value for column, value in outer.items() if column not in NESTED}
    for item in inner:
        yield {**outer, **lowered(item)}


def _unpacked(text: str) -> Any:
    """Return what a text of JSON holds; the text itself if it is none."""
    try:
        return json.loads(text) if text.lstrip()[:1] in ("[", "{") else text
    except (ValueError, RecursionError):
        return text


def _turns(value: Any) -> list[Any]:
    """Return a list of turns that say whose they are; empty if it is none."""
    turns = value if isinstance(value, list) else []
    return turns if all(isinstance(turn, Mapping) and "role" in turn for turn in turns) else []


def _items(value: Any) -> list[Mapping[Any, Any]] | None:
    """Return the records in a cell: a list of them, or a mapping of them by number or name."""
    items = list(value.values()) if isinstance(value, Mapping) else value
    return items if isinstance(items, list) and items and all(isinstance(item, Mapping) for item in items) else None


def _answers(replies: list[Any]) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": reply.get("text")} for reply in replies if isinstance(reply, Mapping)]
