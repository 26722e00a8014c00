"""What one cell of a table says, as text. Cells of somebody else's data are of any type, at any depth."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from rocket_hub.discovery.data.reading import MAX_CHARACTERS

_DEEPEST = 6
_LONGEST_CELL = 40
"""Characters; what is shorter, on average, is a cell of a table and no sentence."""


def lowered(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a row with its columns' names in lower case."""
    return {str(column).lower(): value for column, value in row.items()}


def text_of(value: Any, deep: int = 3) -> str:
    """Return a cell as one text.

    Args:
        value: The cell.
        deep: How many lists and mappings are opened at most.

    Returns:
        Text, stripped; a number without a needless `.0`; `yes` and `no`; of a list its first item, of a mapping what it
        calls `text` or `value`; else nothing.
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
    if isinstance(value, dict) and deep:
        return text_of(value.get("text") or value.get("value"), deep - 1)
    if isinstance(value, list) and value and not isinstance(value[0], list) and deep:
        return text_of(value[0], deep - 1)
    return ""


def first_text(row: Mapping[str, Any], columns: Collection[str]) -> str:
    """Return the first text that is in one of the columns."""
    return next((text for column in columns if column in row and (text := text_of(row[column]))), "")


def passage_of(value: Any) -> str:
    """Return all the text of a cell: of paragraphs one a line, of a table one row a line.

    What is longer than a row may be is cut off a little above that, so that the row is seen to be too long.
    """
    if not isinstance(value, (list, dict)):
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
