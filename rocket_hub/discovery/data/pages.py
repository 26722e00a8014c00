"""A Parquet file whose page headers are read before its pages are: nothing is unpacked that could fill the memory.

A Parquet reader believes the header of a page: how large it is when unpacked, how many values it holds. A file of some
kilobytes can claim gigabytes, in its pages though its footer is harmless. So the reader gets its bytes through
`GuardedFile`, which follows the headers (https://github.com/apache/parquet-format, `PageHeader`) and stops before it
passes on a page that is too large.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rocket_hub.discovery.data.reading import ByteFile
from rocket_hub.discovery.data.thrift import I32, I64, read_struct
from rocket_hub.errors import DatasetError

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
