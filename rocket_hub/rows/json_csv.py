from __future__ import annotations

import codecs
import csv
import json
import zlib
from collections.abc import Iterator
from itertools import islice
from typing import Any

from rocket_hub.errors import DatasetError
from rocket_hub.rows.values import MAX_ROW, ByteFile, Reading

PIECE = 64 * 2**10
MAX_OBJECT = 16 * 2**20
"""Bytes of one value in a JSON file; a whole data set may be one object."""
MAX_AGAIN = 64 * 2**20
"""Bytes of a JSON file that ijson refuses and Python's own parser is asked about."""

# Where a JSON object that is a whole data set keeps its rows.
_ROWS = ("train", "data", "rows", "examples", "items")


class BadLineError(DatasetError):
    """A line of a file cannot be read.

    Attributes:
        line: Its number, from 1.
        fault: What is wrong with it.
    """

    def __init__(self, line: int, fault: str) -> None:
        super().__init__("unreadable", f"line {line}: {fault}")
        self.line, self.fault = line, fault


def json_lines(
    file: ByteFile, reading: Reading, *, packed: bool = False, longest: int = MAX_ROW
) -> Iterator[tuple[int, Any]]:
    """Read one JSON value a line, within a budget of unpacked bytes; too long a line is passed over and counted.

    Yields:
        Number of the line, from 1, and its value.

    Raises:
        BadLineError: `unreadable`: a line is no JSON.
        HubError: The Hub did not give the bytes.
    """
    for number, line in enumerate(_lines(_pieces(file, reading, packed), reading, longest), 1):
        if line is None:
            reading.too_long += 1
        elif line.strip():
            try:
                yield number, json.loads(line.removeprefix(codecs.BOM_UTF8))
            except (ValueError, RecursionError) as error:
                raise BadLineError(number, (str(error).splitlines() or [type(error).__name__])[0][:200]) from error


def json_values(file: ByteFile, reading: Reading, *, packed: bool = False) -> Iterator[Any]:
    """Read a JSON file, perhaps packed with gzip, within a budget of unpacked bytes.

    Yields:
        Rows: of a list, one after the other, or of one object that holds all rows.
    """
    import ijson

    stream = _Stream(_pieces(file, reading, packed))
    start = stream.start()
    given = 0
    if not start:
        return
    try:
        for row in _streamed(stream, listed=start == b"["):
            given += 1
            yield row
    except ijson.JSONError:
        if not reading.stopped:
            yield from islice(_by_python(file, packed), given, None)


def csv_rows(
    file: ByteFile, reading: Reading, *, packed: bool = False, delimiter: str = ",", strict: bool = False
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read a CSV file whose first line names the columns.

    Args:
        file: The file, open.
        reading: The budget, in unpacked bytes.
        packed: Whether the file is compressed with gzip.
        delimiter: What stands between two fields.
        strict: Whether a row that is shorter or longer than the header, or does not end, is an error. If not, a longer
            row is counted as unused, and what a shorter one lacks is None.

    Yields:
        Number of the line and column -> text.
    """

    def lines() -> Iterator[str]:
        for number, line in enumerate(_lines(_pieces(file, reading, packed), reading, MAX_ROW), 1):
            if line is None:
                raise BadLineError(number, f"more than {MAX_ROW:,} bytes without an end")
            yield line.decode("utf-8-sig" if number == 1 else "utf-8") + "\n"

    rows = csv.DictReader(lines(), delimiter=delimiter, strict=strict)
    waiting: tuple[int, dict[str, Any]] | None = None
    try:
        for row in rows:
            if waiting:
                yield waiting
            waiting = None
            if strict and (None in row or None in row.values()):
                columns = f"the header has {len(rows.fieldnames or ())} columns"
                raise BadLineError(rows.line_num, f"another number of columns than expected: {columns}")
            if None in row:  # commas that nobody quoted: nobody knows which text is in which column
                reading.unused += 1
            else:
                waiting = (rows.line_num, row)
    except csv.Error as error:
        raise BadLineError(rows.reader.line_num, str(error)) from error
    if waiting and not reading.stopped:  # the last row may be cut where the budget ends
        yield waiting


def _pieces(file: ByteFile, reading: Reading, packed: bool) -> Iterator[bytes]:
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


def _lines(pieces: Iterator[bytes], reading: Reading, longest: int) -> Iterator[bytes | None]:
    """Cut pieces into lines without their ends; None stands for a line that is too long."""
    rest, passing = b"", False
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if not passing:
                yield line if len(line) <= longest else None
            passing = False
        if not passing and len(rest) > longest:
            yield None
            passing = True
        rest = b"" if passing else rest
    if rest and not reading.stopped:
        yield rest


class _Stream:
    """Pieces of a JSON file, as ijson reads them."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.since = 0
        self._pieces = pieces
        self._first = b""

    def start(self) -> bytes:
        """Return the first byte that is no blank; empty if there is none."""
        for piece in self._pieces:
            self._first = (self._first + piece).removeprefix(codecs.BOM_UTF8).lstrip()
            if len(self._first) >= len(codecs.BOM_UTF8):
                break
        return self._first[:1]

    def read(self, size: int = -1) -> bytes:
        """Return the next piece; `since` counts the bytes of the present value."""
        if not size:
            return b""
        piece, self._first = self._first or next(filter(None, self._pieces), b""), b""
        self.since += len(piece)
        if self.since > MAX_OBJECT:
            raise DatasetError("unreadable", f"one value of more than {MAX_OBJECT:,} bytes")
        return piece


def _streamed(stream: _Stream, *, listed: bool) -> Iterator[Any]:
    """Read the rows of a JSON file, holding one value at a time."""
    import ijson

    found = ijson.items(stream, "item" if listed else "", multiple_values=True, use_float=True, buf_size=PIECE)

    def values() -> Iterator[Any]:
        for value in found:
            stream.since = 0
            yield value

    rest = values()
    first = [] if listed else list(islice(rest, 2))
    yield from first if len(first) != 1 else _rows_of(first[0])
    yield from rest


def _by_python(file: ByteFile, packed: bool) -> Iterator[Any]:
    """Read a whole JSON file: Python knows NaN and numbers of any length, and says where a fault is."""
    file.seek(0)
    again = Reading(MAX_AGAIN)
    value = json.loads(b"".join(_pieces(file, again, packed)).removeprefix(codecs.BOM_UTF8))
    yield from value if isinstance(value, list) else _rows_of(value)


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
    return isinstance(value, list) and bool(value) and not any(isinstance(item, (list, dict)) for item in value)
