"""Rows of JSON Lines, JSON and CSV files that somebody else wrote, from a bounded part of the file at a time."""

from __future__ import annotations

import codecs
import csv
import json
import re
import zlib
from collections.abc import Iterator
from itertools import islice
from typing import Any

from rocket_hub.errors import DatasetError
from rocket_hub.rows.values import MAX_ROW, ByteFile, Reading

PIECE = 64 * 2**10
MAX_OBJECT = 16 * 2**20
"""Characters of one value in a JSON file; a whole data set may be one object."""
MOST_VALUES = 10**6
"""Lists and objects inside of one value; the smallest takes two characters in the file and sixty bytes in memory."""

# Where a JSON object that is a whole data set keeps its rows.
_ROWS = ("train", "data", "rows", "examples", "items")
_BETWEEN = re.compile(r"[\s,]*")


def json_lines(file: ByteFile, reading: Reading, *, packed: bool = False) -> Iterator[dict[str, Any]]:
    """Read one JSON object a line; a line that is too long is passed over and counted.

    Args:
        file: The file, open.
        reading: The budget, in unpacked bytes.
        packed: Whether the file is compressed with gzip.

    Yields:
        Column -> value.

    Raises:
        DatasetError: `unreadable`: a line holds something else; the message names it.
        ValueError, RecursionError: A line is no JSON.
        HubError: The Hub did not give the bytes.
    """
    for number, line in enumerate(_lines(_pieces(file, reading, packed), reading), 1):
        if line is None:
            reading.too_long += 1
        elif line.strip():
            try:
                yield _object(json.loads(line.removeprefix(codecs.BOM_UTF8)))
            except (ValueError, RecursionError) as error:
                raise DatasetError("unreadable", f"line {number}: {_first_line(error)}") from error


def json_values(file: ByteFile, reading: Reading, *, packed: bool = False) -> Iterator[dict[str, Any]]:
    """Read a JSON file: a list of objects, objects one after the other, or one object that holds all rows.

    Args, yields and raises as `json_lines`.
    """
    texts = _texts(_pieces(file, reading, packed), reading)
    start = next(texts, "").lstrip()
    if start.startswith("["):
        yield from map(_object, _values(start[1:], texts, reading, inside=True))
        return
    values = _values(start, texts, reading)
    first = list(islice(values, 2))
    yield from map(_object, first if len(first) > 1 else [row for value in first for row in _rows_of(value)])
    yield from map(_object, values)


def csv_rows(
    file: ByteFile, reading: Reading, *, packed: bool = False, delimiter: str = ","
) -> Iterator[dict[str, Any]]:
    """Read a CSV file whose first line names the columns.

    Args:
        file: The file, open.
        reading: The budget, in unpacked bytes.
        packed: Whether the file is compressed with gzip.
        delimiter: What stands between two fields.

    Yields:
        Column -> text.

    Raises:
        DatasetError: `unreadable`: a line or a field does not end.
        HubError: The Hub did not give the bytes.
    """

    def lines() -> Iterator[str]:
        for number, line in enumerate(_lines(_pieces(file, reading, packed), reading), 1):
            if line is None:
                raise DatasetError("unreadable", f"line {number}: more than {MAX_ROW:,} bytes without an end")
            yield line.decode("utf-8-sig" if number == 1 else "utf-8") + "\n"

    rows = csv.reader(lines(), delimiter=delimiter)
    header = next(rows, [])
    waiting: list[str] | None = None
    try:
        for row in rows:
            if waiting:
                yield dict(zip(header, waiting, strict=False))
            waiting = row
    except csv.Error as error:
        raise DatasetError("unreadable", f"line {rows.line_num}: {error}") from error
    if waiting and not reading.stopped:  # the last row may be cut where the budget ends
        yield dict(zip(header, waiting, strict=False))


def _pieces(file: ByteFile, reading: Reading, packed: bool) -> Iterator[bytes]:
    """Read a file, unpacked, until it or the budget ends."""
    for piece in _unpacked(file) if packed else iter(lambda: file.read(PIECE), b""):
        part = piece[: reading.max_bytes - reading.bytes]
        reading.bytes += len(part)
        yield part
        if reading.spent:
            return


def _unpacked(file: ByteFile) -> Iterator[bytes]:
    """Unpack a gzip file of one part or more, a bounded piece at a time."""
    unpacker, waiting, inside = zlib.decompressobj(wbits=31), b"", False
    while waiting or (waiting := file.read(PIECE)):
        inside = True
        yield unpacker.decompress(waiting, PIECE)
        waiting = unpacker.unconsumed_tail
        if unpacker.eof:
            waiting = unpacker.unused_data.lstrip(b"\0")
            unpacker, inside = zlib.decompressobj(wbits=31), False
    if inside:
        raise EOFError("the gzip file ends before its data do")


def _lines(pieces: Iterator[bytes], reading: Reading) -> Iterator[bytes | None]:
    """Cut pieces into lines without their ends; None stands for a line that is too long."""
    rest, passing = b"", False
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if not passing:
                yield line if len(line) <= MAX_ROW else None
            passing = False
        if not passing and len(rest) > MAX_ROW:
            yield None
            passing = True
        rest = b"" if passing else rest
    if rest and not reading.stopped:
        yield rest


def _texts(pieces: Iterator[bytes], reading: Reading) -> Iterator[str]:
    """Decode pieces of UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    for piece in pieces:
        yield decoder.decode(piece)
    if not reading.stopped:
        yield decoder.decode(b"", final=True)


def _values(text: str, texts: Iterator[str], reading: Reading, *, inside: bool = False) -> Iterator[Any]:
    """Read JSON values to the end of the text, or of the list that they are inside of, holding one at a time."""
    decoder = json.JSONDecoder()
    at = 0
    while True:
        at = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]
        if text.startswith("]", at):
            return
        try:
            value, at = decoder.raw_decode(text, at)
        except ValueError:
            text, at = text[at:], 0
            if len(text) > MAX_OBJECT or text.count("[") + text.count("{") > MOST_VALUES:
                size = f"{MAX_OBJECT:,} characters, or {MOST_VALUES:,} lists and objects"
                raise DatasetError("unreadable", f"one value of more than {size}") from None
            more = _at_least(len(text), texts)
            if not more and (reading.stopped or not (text or inside)):
                return
            if not more:
                raise
            text += more
        else:
            yield value


def _at_least(length: int, texts: Iterator[str]) -> str:
    """Take texts until they are as long as what is there already, so that a long value is not parsed too often."""
    found: list[str] = []
    have = 0
    while have <= length and (text := next(texts, None)) is not None:
        found.append(text)
        have += len(text)
    return "".join(found)


def _rows_of(value: Any) -> list[Any]:
    """Find the rows in one object that holds a whole data set; itself, if it is a row."""
    if not isinstance(value, dict):
        return [value]
    inner = next((value[name] for name in _ROWS if isinstance(value.get(name), (list, dict))), value)
    if isinstance(inner, list):
        return inner
    if inner and all(isinstance(row, dict) for row in inner.values()):  # rows by their ids
        return list(inner.values())
    columns = list(value.values())
    if len(columns) > 1 and all(_is_column(column) and len(column) == len(columns[0]) for column in columns):
        return [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]
    return [value]


def _is_column(value: Any) -> bool:
    """Return whether a value is a list of plain values."""
    return isinstance(value, list) and bool(value) and not any(isinstance(item, (list, dict)) for item in value)


def _object(value: Any) -> dict[str, Any]:
    """Return a value that is an object."""
    if not isinstance(value, dict):
        raise DatasetError("unreadable", f"a {type(value).__name__} where a row with columns must be")
    return value


def _first_line(error: Exception) -> str:
    """Return the first line of a message, bounded."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
