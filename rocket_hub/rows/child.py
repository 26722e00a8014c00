"""The child process that parses files which somebody else wrote; `files.py` starts it and answers it.

The child asks for bytes and sends rows; every message has a kind, a length and a body:
`b` place and number of bytes (answer: the bytes), `c` JSON of the columns of a Parquet file (answer: JSON of those that
are wanted), `r` JSON of rows and counts, `e` JSON of what is wrong with the file. A request and an answer are a length
and a body.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, BinaryIO

from rocket_hub.errors import DatasetError
from rocket_hub.rows.json_csv import csv_rows, json_lines, json_values
from rocket_hub.rows.parquet import parquet_rows
from rocket_hub.rows.values import MAX_ROW, Reading

HEAD, LENGTH, PLACE = struct.Struct(">cI"), struct.Struct(">I"), struct.Struct(">QI")
LONGEST_ROW = 4 * MAX_ROW
"""Characters of a row as JSON; a longer one is dropped, and counted as too long."""

_TOGETHER = 256 * 2**10
_TEXT = json.JSONEncoder(ensure_ascii=False)


class Parent:
    """The parent process, at the other end of two pipes."""

    def __init__(self, receive: BinaryIO, send: BinaryIO, reading: Reading) -> None:
        self.reading = reading
        self._receive, self._send = receive, send
        self._rows: list[str] = []
        self._size = 0

    def ask(self, kind: bytes, body: bytes) -> bytes:
        """Send what is waiting and a question, and return the answer."""
        if self._rows:
            self.tell_rows()
        self.tell(kind, body)
        return received(self._receive)

    def tell(self, kind: bytes, body: bytes) -> None:
        """Send a message."""
        self._send.write(HEAD.pack(kind, len(body)) + body)
        self._send.flush()

    def add(self, row: dict[str, Any]) -> None:
        """Send a row, together with others."""
        text = _TEXT.encode(row)
        if len(text) > LONGEST_ROW:
            self.reading.too_long += 1
            return
        self._rows.append(text)
        self._size += len(text)
        if self._size > _TOGETHER:
            self.tell_rows()

    def tell_rows(self, *, done: bool = False) -> None:
        """Send the rows that are waiting, and what was read so far."""
        read = self.reading
        counts = {"done": done, "bytes": read.bytes, "too_long": read.too_long, "unused": read.unused,
                  "stopped": read.stopped}  # fmt: skip
        body = f'{{"counts": {json.dumps(counts)}, "rows": [{", ".join(self._rows)}]}}'
        self.tell(b"r", body.encode("utf-8", "surrogatepass"))
        self._rows, self._size = [], 0


class ParentFile:
    """A file that the parent reads.

    Attributes:
        passed: Bytes that were read so far.
        closed: False: the parent closes it.
    """

    closed = False

    def __init__(self, parent: Parent, size: int) -> None:
        self.passed = self._position = 0
        self._parent, self._size = parent, size

    def read(self, size: int = -1, /) -> bytes:
        """Read so many bytes, or what is left."""
        left = max(0, self._size - self._position)
        wanted = left if size < 0 else min(size, left)
        data = self._parent.ask(b"b", PLACE.pack(self._position, wanted)) if wanted else b""
        self._position += len(data)
        self.passed += len(data)
        return data

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go to a place."""
        self._position = max(0, (0, self._position, self._size)[whence] + offset)
        return self._position

    def tell(self) -> int:
        """Return the place."""
        return self._position

    def close(self) -> None:
        """Do nothing: the parent closes it."""


def received(pipe: BinaryIO) -> bytes:
    """Read a length and a body; the parent has ended where there is none."""
    head = pipe.read(LENGTH.size)
    if len(head) < LENGTH.size:
        raise SystemExit(0)
    return pipe.read(*LENGTH.unpack(head))


def parsed(
    file: Any, path: str, reading: Reading, wanted: Callable[[dict[str, tuple[str, ...]]], list[str]]
) -> Iterator[dict[str, Any]]:
    """Read the rows of a file in the format that its name says."""
    name = path.lower()
    packed = name.endswith(".gz")
    kind = name.removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        yield from parquet_rows(file, reading, wanted)
    elif kind in ("csv", "tsv"):
        rows = csv_rows(file, reading, packed=packed, delimiter="\t" if kind == "tsv" else ",")
        yield from (row for _, row in rows)
    elif kind == "json":
        yield from map(_object, json_values(file, reading, packed=packed))
    else:
        for number, value in json_lines(file, reading, packed=packed):
            yield _object(value, f"line {number}: ")


def main() -> None:
    """Answer requests until the parent closes the pipe."""
    receive, send = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no message
    _limit(int(sys.argv[1]), int(sys.argv[2]))
    while True:
        request = json.loads(received(receive))
        parent = Parent(receive, send, Reading(request["max_bytes"]))
        try:
            for row in parsed(ParentFile(parent, request["size"]), request["path"], parent.reading, _asking(parent)):
                parent.add(row)
        except MemoryError:
            _refuse(parent, f"needs more than {int(sys.argv[1]):,} bytes of memory")
        except DatasetError as error:
            _refuse(parent, str(error))
        except Exception as error:  # whatever a parser raises is a fault of the file
            first = (str(error).splitlines() or [""])[0][:200]
            _refuse(parent, f"cannot be read ({type(error).__name__}: {first})")
        else:
            parent.tell_rows(done=True)


def _object(value: Any, where: str = "") -> dict[str, Any]:
    """Return a value that is an object."""
    if not isinstance(value, dict):
        raise DatasetError("unreadable", f"{where}a {type(value).__name__} where a row with columns must be")
    return value


def _asking(parent: Parent) -> Callable[[dict[str, tuple[str, ...]]], list[str]]:
    """Return what asks the parent which columns are wanted."""
    return lambda columns: json.loads(parent.ask(b"c", json.dumps(columns).encode()))


def _refuse(parent: Parent, message: str) -> None:
    """Send the rows before the fault, then the fault."""
    parent.tell_rows()
    parent.tell(b"e", json.dumps(message).encode())


def _limit(memory: int, seconds: int) -> None:
    """Bound memory and processor time, where this system can."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))  # SIGXCPU, then SIGKILL
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
