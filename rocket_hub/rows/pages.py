"""A Parquet file whose page headers are read before its pages are: nothing is unpacked that could fill the memory.

A Parquet reader believes the header of a page: how large it is when unpacked, how many values it holds. A file of some
kilobytes can claim gigabytes, in its pages though its footer is harmless. So the reader gets its bytes through
`GuardedFile`, which follows the headers (https://github.com/apache/parquet-format, `PageHeader`) and stops before it
passes on a page that is too large.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rocket_hub.errors import DatasetError
from rocket_hub.rows.values import ByteFile

I32, I64 = 5, 6
_STRUCT = 12
_LISTS = (9, 10)
_DEEPEST = 16

Wanted = Mapping[int, Any]
"""Number of a field -> `I32`, `I64`, what is wanted of a struct, or a list with what is wanted of its structs."""


def read_struct(data: bytes, wanted: Wanted, at: int = 0, deep: int = 0) -> tuple[dict[int, Any], int]:
    """Read a struct.

    Args:
        data: Bytes.
        wanted: What is wanted of it.
        at: Where it begins.
        deep: How many structs it is in.

    Returns:
        Number of a field -> its value, of those that are wanted and there; and where the struct ends.

    Raises:
        IndexError: The bytes end before it does.
        ValueError: It is none.
    """
    if deep > _DEEPEST:
        raise ValueError("too many structs in one another")
    found: dict[int, Any] = {}
    number = 0
    while data[at]:
        step, kind = data[at] >> 4, data[at] & 15
        at += 1
        if step == 0:
            number, at = _signed(data, at, 32)
        else:
            number += step
        number = (number + 2**15) % 2**16 - 2**15
        want = wanted.get(number)
        if kind == want and kind in (I32, I64):
            found[number], at = _signed(data, at, 32 if kind == I32 else 64)
        elif kind == _STRUCT and isinstance(want, Mapping):
            found[number], at = read_struct(data, want, at, deep + 1)
        elif kind in _LISTS and isinstance(want, list):
            found[number], at = _read_list(data, want[0], at, deep + 1)
        else:
            at = _pass_over(data, kind, at, deep + 1)
    return found, at + 1


def _read_list(data: bytes, wanted: Wanted, at: int, deep: int) -> tuple[list[dict[int, Any]], int]:
    """Read a list of structs, each with some of what is wanted; returns them, and where it ends."""
    size, kind, at = _list_header(data, at)
    if size and kind != _STRUCT:
        raise ValueError("a list of something else")
    found = []
    for _ in range(size):
        item, at = read_struct(data, wanted, at, deep)
        if not item:  # millions of them fit into a footer, and each takes memory
            raise ValueError("a list of empty structs")
        found.append(item)
    return found, at


def _pass_over(data: bytes, kind: int, at: int, deep: int, *, listed: bool = False) -> int:
    """Return where a value of some kind ends."""
    if kind in (1, 2):  # true and false have no bytes, but in lists they have one
        at += listed
    elif kind == 3:
        at += 1
    elif kind in (4, I32, I64):
        _, at = _signed(data, at, 64)
    elif kind == 7:  # a double
        at += 8
    elif kind == 8:  # bytes
        length, at = _unsigned(data, at)
        at += length & 0xFFFFFFFF
    elif kind == _STRUCT:
        _, at = read_struct(data, {}, at, deep)
    elif kind in _LISTS and deep <= _DEEPEST:
        size, inner, at = _list_header(data, at)
        for _ in range(size):
            at = _pass_over(data, inner, at, deep + 1, listed=True)
    else:
        raise ValueError(f"a field of kind {kind}")
    if at > len(data):
        raise IndexError
    return at


def _list_header(data: bytes, at: int) -> tuple[int, int, int]:
    """Read how many items of which kind a list has, and where they begin."""
    size, kind = data[at] >> 4, data[at] & 15
    at += 1
    if size == 15:
        size, at = _unsigned(data, at)
        size &= 0xFFFFFFFF
    return size, kind, at


def _unsigned(data: bytes, at: int) -> tuple[int, int]:
    """Read a number of seven bits a byte, the lowest first; returns it, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        value |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return value, at
    raise ValueError("a number that does not end")


def _signed(data: bytes, at: int, bits: int) -> tuple[int, int]:
    """Read a number whose lowest bit is its sign; returns it, and where it ends."""
    value, at = _unsigned(data, at)
    value &= (1 << bits) - 1
    return (value >> 1) ^ -(value & 1), at


LARGEST_PAGE = 128 * 2**20
"""Bytes of a page, unpacked; what writers make is 1 MB, and 100 MB at most (DuckDB)."""
LARGEST_TOGETHER = 256 * 2**20
"""Bytes of the pages that are unpacked at one time, over all columns."""
MOST_VALUES = 16 * 2**20
"""Values of lists that one batch of rows may hold; each costs some bytes even if it is empty."""

_HEADER = 16 * 2**10
_LONGEST_HEADER = 2**20
_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3
# Fields of the structs of parquet.thrift.
_INNER = {1: I32, 2: I32, 4: I32}
_PAGE_HEADER = {1: I32, 2: I32, 3: I32, 5: _INNER, 7: _INNER, 8: _INNER}
_FOOTER = {4: [{1: [{3: {7: I64, 9: I64, 11: I64}}]}]}
_DELTA_STRINGS = 7
"""The encoding in which a value repeats the start of the one before: a small page can hold very long values."""


@dataclass(frozen=True)
class Page:
    """What the header of a page says.

    Attributes:
        dictionary: Whether it holds distinct values.
        packed: Bytes in the file after the header.
        unpacked: Bytes in memory.
        values: How many values.
        encoding: How they are written, as Parquet counts encodings.
        header: Bytes of the header.
    """

    dictionary: bool
    packed: int
    unpacked: int
    values: int
    encoding: int
    header: int


@dataclass
class Chunk:
    """The pages of one column in one group of rows.

    Attributes:
        start: Position of the first page in the file.
        end: Position after the last one.
        lists: Whether a row may hold more than one value.
        at: Position of the first page header that was not read yet.
        held: Bytes that a reader of this column holds unpacked: its distinct values and its largest page.
    """

    start: int
    end: int
    lists: bool = False
    at: int = field(init=False)
    held: int = 0

    def __post_init__(self) -> None:
        self.at = self.start


class GuardedFile:
    """A binary file object that refuses to read on into a page that is too large.

    Attributes:
        closed: False; the file below belongs to somebody else.
        passed: Bytes that were passed on so far.
    """

    closed = False

    def __init__(self, file: ByteFile, chunks: Sequence[Chunk] = ()) -> None:
        self.chunks = chunks
        self.passed = 0
        self._file = file
        self._values = 0

    def read(self, count: int = -1) -> bytes:
        """Read, and look at every page header in what was read.

        Raises:
            DatasetError: `unreadable`: a page is too large or its header is none.
            HubError: The Hub did not give the bytes.
        """
        start = self._file.tell()
        data = self._file.read(count)
        self.passed += len(data)
        for chunk in self.chunks:
            while start < chunk.end and chunk.at < min(start + len(data), chunk.end):
                self._follow(chunk, start, data)
        self._file.seek(start + len(data))
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move the position, and return it."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()

    def readable(self) -> bool:
        """Return true."""
        return True

    def seekable(self) -> bool:
        """Return true."""
        return True

    def close(self) -> None:
        """Do nothing: the file below belongs to somebody else."""

    def next_batch(self) -> None:
        """Start to count the values of another batch of rows."""
        self._values = 0

    def _follow(self, chunk: Chunk, start: int, data: bytes) -> None:
        """Judge the page that is next in a column, and step over it."""
        page = self._page(chunk.at, start, data)
        if not 0 <= page.unpacked <= LARGEST_PAGE or not 0 <= page.packed <= chunk.end - chunk.at:
            sizes = f"{page.unpacked:,} bytes, {page.packed:,} of them in the file"
            raise DatasetError("unreadable", f"a page of {sizes}: more than its column has, or than {LARGEST_PAGE:,}")
        most = page.unpacked if page.dictionary else 2**31
        if page.encoding == _DELTA_STRINGS or not 0 <= page.values <= most:
            raise DatasetError("unreadable", "a page that can unpack to any size")
        chunk.at += page.header + page.packed
        chunk.held = max(chunk.held, page.unpacked)
        self._values += page.values if chunk.lists else 0
        if sum(other.held for other in self.chunks) > LARGEST_TOGETHER:
            raise DatasetError("unreadable", f"pages of more than {LARGEST_TOGETHER:,} bytes together")
        if self._values > MOST_VALUES:
            raise DatasetError("unreadable", f"lists of more than {MOST_VALUES:,} values in a few rows")

    def _page(self, at: int, start: int, data: bytes) -> Page:
        """Read the header of a page, from the bytes that were read or, where they end in it, from the file."""
        for length in (0, _HEADER, _LONGEST_HEADER):
            if length:
                self._file.seek(at)
            header = (
                self._file.read(length) if length else data[at - start : at - start + _HEADER] if at >= start else b""
            )
            try:
                return read_page_header(header)
            except IndexError:
                self._file.seek(at)
                header = self._file.read(length)
            except ValueError as error:
                raise DatasetError("unreadable", f"no page where one must be: {error}") from error
        raise DatasetError("unreadable", "the file ends inside the header of a page, or the header does not end")


def read_page_header(data: bytes) -> Page:
    """Read the header of a page.

    Args:
        data: Bytes that start with it.

    Returns:
        What it says.

    Raises:
        IndexError: The bytes end before the header does.
        ValueError: It is none.
    """
    fields, length = read_struct(data, _PAGE_HEADER)
    kind = fields.get(1, -1)
    inner = fields.get({_DATA: 5, _DICTIONARY: 7, _DATA_V2: 8}.get(kind, 0), {})
    encoding = inner.get(4 if kind == _DATA_V2 else 2, -1)
    return Page(kind == _DICTIONARY, fields.get(3, -1), fields.get(2, -1), inner.get(1, 0), encoding, length)


def read_chunks(footer: bytes, size: int) -> list[list[Chunk]]:
    """Read where the pages of each column are, for each group of rows.

    The footer is read here before pyarrow reads it, for two reasons: pyarrow makes 500 bytes of memory out of three in
    the file, and what it makes of a broken footer can end the whole process, by errors of C++ that Python cannot catch.

    Args:
        footer: The footer (`FileMetaData`).
        size: Bytes of the file.

    Returns:
        For each group of rows, the chunks in the order of the columns.

    Raises:
        DatasetError: `unreadable`: a column lies outside of the file.
        IndexError: The footer ends before its struct does.
        ValueError: It is none.
    """
    found = []
    for group in read_struct(footer, _FOOTER)[0].get(4, []):
        columns = [column.get(3, {}) for column in group.get(1, [])]
        starts = [min((at for at in (column.get(9), column.get(11)) if at), default=-1) for column in columns]
        chunks = [Chunk(start, start + column.get(7, -1)) for start, column in zip(starts, columns, strict=True)]
        if not all(0 < chunk.start <= chunk.end <= size for chunk in chunks):
            raise DatasetError("unreadable", "a footer whose columns lie outside of the file")
        found.append(chunks)
    return found
