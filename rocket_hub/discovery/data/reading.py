"""How much of a data set may be read, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

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
        unused: Rows without a prompt or without a completion.
        stopped: Which budget ended it, `max_rows` or `max_bytes`; empty if the data did.
    """

    max_bytes: int
    bytes: int = 0
    rows: int = 0
    too_long: int = 0
    unused: int = 0
    stopped: str = ""

    @property
    def spent(self) -> bool:
        """Whether the bytes are spent."""
        if self.bytes >= self.max_bytes:
            self.stopped = "max_bytes"
        return self.bytes >= self.max_bytes
