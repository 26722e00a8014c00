"""Read the rows of files that somebody else wrote, in a child process: whatever they do to it, this one lives.

The child asks for bytes and sends rows; every message has a kind, a length and a body:
`b` place and number of bytes (answer: the bytes), `c` JSON of the columns of a Parquet file (answer: JSON of those that
are wanted), `r` JSON of rows and counts, `e` JSON of what is wrong with the file. A request and an answer are a length
and a body.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import SEEK_END
from pathlib import Path
from typing import Any, BinaryIO

from rocket_hub.errors import DatasetError
from rocket_hub.rows.json_csv import csv_rows, json_lines, json_values
from rocket_hub.rows.parquet import parquet_rows
from rocket_hub.rows.values import MAX_ROW, ByteFile, Reading

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


MEMORY = 1536 * 2**20
"""Bytes of the child's address space; pyarrow alone takes 300 MB of it."""
PROCESSOR_SECONDS = 1800
SILENCE = 60.0
"""Seconds without a message after which the child is ended; how long the Hub takes does not count."""
LARGEST_READ = 64 * 2**20
LARGEST_MESSAGE = 4 * LONGEST_ROW + 2**20  # a character has four bytes at most

_START = "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); from rocket_hub.rows.files import main; main()"
_PACKAGE = str(Path(__file__).parents[2])
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR", "LANG")
_QUIET = {"ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def rows_of(
    file: ByteFile, path: str, reading: Reading, where: str, wanted: Callable[[str], bool] = lambda _: True
) -> Iterator[dict[str, Any]]:
    """Read the rows of one open file in a child process of its own; the rest as `Parser.rows`."""
    with Parser() as parser:
        yield from parser.rows(file, path, reading, where, wanted)


class Parser:
    """A child process that parses one file after the other; started when it is needed, ended with the context."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._got = bytearray()

    def __enter__(self) -> Parser:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def rows(
        self, file: ByteFile, path: str, reading: Reading, where: str, wanted: Callable[[str], bool] = lambda _: True
    ) -> Iterator[dict[str, Any]]:
        """Read the rows of one open file, each as soon as it is parsed.

        Args:
            file: The file; it is read here, and only the parts that the child asks for.
            path: Its name, whose suffix says its format.
            reading: The budget; filled with what was read.
            where: The file, for messages.
            wanted: Whether a column is of use; in Parquet files the others are not read.

        Yields:
            Column -> value.

        Raises:
            DatasetError: `unreadable`: the file is not what its name says, or parsing it ended the child, or took more
                memory or time than it may.
            HubError: The Hub did not give the bytes.
        """
        request = {"path": path, "size": file.seek(0, SEEK_END), "max_bytes": reading.max_bytes - reading.bytes}
        before = (reading.bytes, reading.too_long, reading.unused)
        done = False
        self._start()
        try:
            self._send(json.dumps(request).encode())
            while not done:
                kind, body = self._receive()
                if kind == b"b":
                    self._send(_part(file, body))
                elif kind == b"c":
                    self._send(json.dumps(_wanted(json.loads(body), reading, wanted)).encode())
                elif kind == b"r":
                    rows, done = _told(json.loads(body), reading, before)
                    yield from rows
                elif kind == b"e":
                    done = True
                    raise _RefusedError(str(json.loads(body))[:1000])
                else:
                    raise _RefusedError("its parser sent something else than rows")
        except _RefusedError as error:
            raise DatasetError("unreadable", f"{where}: {error}") from error
        except (ValueError, LookupError, TypeError, RecursionError, struct.error) as error:
            raise DatasetError("unreadable", f"{where}: cannot be read ({type(error).__name__})") from error
        except OSError as error:
            raise DatasetError("unreadable", f"{where}: cannot be read ({error})") from error
        finally:
            if not done:
                self.close()

    def close(self) -> None:
        """End the child."""
        process, self._process = self._process, None
        if process is None or process.stdin is None or process.stdout is None:
            return
        process.kill()
        process.wait()
        with suppress(OSError):
            process.stdin.close()
        process.stdout.close()

    def _start(self) -> None:
        """Start the child, unless it waits for a file already."""
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        self._got.clear()
        places = json.dumps([_PACKAGE, *(place for place in sys.path if place)])
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _START, places, str(MEMORY), str(PROCESSOR_SECONDS)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**environment, **_QUIET}, cwd="/", bufsize=0,
        )  # fmt: skip
        os.set_blocking(self._pipe("stdin"), False)

    def _pipe(self, name: str) -> int:
        """Return the descriptor of the child's `stdin` or `stdout`."""
        descriptor: int = getattr(self._process, name).fileno()
        return descriptor

    def _send(self, body: bytes) -> None:
        """Send a length and a body."""
        data = memoryview(LENGTH.pack(len(body)) + body)
        with suppress(BrokenPipeError):  # why, the next message tells
            while data:
                self._wait(self._pipe("stdin"), selectors.EVENT_WRITE)
                data = data[os.write(self._pipe("stdin"), data[: 2**16]) :]

    def _receive(self) -> tuple[bytes, bytes]:
        """Receive a kind and a body."""
        kind, length = HEAD.unpack(self._taken(HEAD.size))
        if length > LARGEST_MESSAGE:
            raise _RefusedError("its parser sent more than a row may hold")
        return kind, self._taken(length)

    def _taken(self, size: int) -> bytes:
        """Receive so many bytes."""
        while len(self._got) < size:
            self._wait(self._pipe("stdout"), selectors.EVENT_READ)
            piece = os.read(self._pipe("stdout"), 2**18)
            if not piece:
                raise _RefusedError(_why_ended(self._process))
            self._got += piece
        data = bytes(self._got[:size])
        del self._got[:size]
        return data

    def _wait(self, pipe: int, event: int) -> None:
        """Wait until a pipe is ready, but not for ever."""
        with selectors.DefaultSelector() as ready:
            ready.register(pipe, event)
            if not ready.select(SILENCE):
                raise _RefusedError(f"parsing it takes more than {SILENCE:.0f} seconds without a row")


class _RefusedError(Exception):
    """The child says that a file cannot be read, or has ended."""


def _part(file: ByteFile, body: bytes) -> bytes:
    """Read the part of a file that the child asks for."""
    start, length = PLACE.unpack(body)
    if length > LARGEST_READ:
        raise _RefusedError(f"{length:,} bytes wanted at once, more than the {LARGEST_READ:,} that are read here")
    file.seek(start)
    return file.read(length)


def _wanted(columns: dict[str, list[str]], reading: Reading, wanted: Callable[[str], bool]) -> list[str]:
    """Note the columns of a Parquet file, and return those that are of use."""
    reading.columns = {str(name): tuple(map(str, classes)) for name, classes in columns.items()}
    return [name for name in reading.columns if wanted(name)]


def _told(message: dict[str, Any], reading: Reading, before: tuple[int, int, int]) -> tuple[list[dict[str, Any]], bool]:
    """Note what was read so far; returns the rows, and whether they are the last."""
    counts, rows = message["counts"], message["rows"]
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise TypeError
    reading.bytes, reading.too_long, reading.unused = (
        start + int(counts[name]) for start, name in zip(before, ("bytes", "too_long", "unused"), strict=True)
    )
    reading.stopped = "max_bytes" if counts["stopped"] else reading.stopped
    return rows, counts["done"] is True


def _why_ended(process: subprocess.Popen[bytes] | None) -> str:
    """Say how the child ended."""
    if process is None:
        return "its parser was ended"
    try:
        code = process.wait(SILENCE)
    except subprocess.TimeoutExpired:
        return "its parser stopped answering"
    if code == -getattr(signal, "SIGXCPU", 0):
        return f"parsing it takes more than {PROCESSOR_SECONDS:,} seconds"
    name = signal.Signals(-code).name if code < 0 else f"exit status {code}"
    return f"parsing it ends the parser ({name})"
