"""Read the rows of files that somebody else wrote, in a child process: whatever they do to it, this one lives."""

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
from typing import Any

from rocket_hub.errors import DatasetError
from rocket_hub.rows.child import HEAD, LENGTH, LONGEST_ROW, PLACE
from rocket_hub.rows.values import ByteFile, Reading

MEMORY = 1536 * 2**20
"""Bytes of the child's address space; pyarrow alone takes 300 MB of it."""
PROCESSOR_SECONDS = 1800
SILENCE = 60.0
"""Seconds without a message after which the child is ended; how long the Hub takes does not count."""
LARGEST_READ = 64 * 2**20
LARGEST_MESSAGE = 4 * LONGEST_ROW + 2**20  # a character has four bytes at most

_START = "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); from rocket_hub.rows.child import main; main()"
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
