"""Rows of all data sets in one file on disk, so that memory does not grow with them."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, overload

from rocket_hub.errors import StorageError
from rocket_hub.records import Example

_ERRORS = "surrogatepass"  # half a surrogate pair is text to JSON, and stays what it is


class Pool(Sequence[Example]):
    """Rows that were read once and can be read again, from the start or by position; 32 bytes of memory a row.

    The file has no name, so that nothing of it is left when the process ends, in whatever way. To be used in a `with`
    statement.

    Args:
        rows: Read once, to the end.
        folder: Where the file is; none = the system's folder for temporary files.

    Raises:
        StorageError: There is no room.
    """

    def __init__(self, rows: Iterable[Example], folder: Path | None = None) -> None:
        self._stops, self._middles = array("Q", [0]), array("Q")  # where a row ends, and where its completion begins
        self._sources: dict[str, int] = {}
        self._owners, self._indices = array("Q"), array("Q")
        try:
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
            self._file = TemporaryFile(dir=folder)  # noqa: SIM115  closed by `close`
        except OSError as error:
            raise _no_room(folder, error) from error
        try:
            for row in rows:
                self._add(row, folder)
            self._write(b"", folder, last=True)
        except BaseException:
            self.close()
            raise
        self._names = list(self._sources)

    def _add(self, row: Example, folder: Path | None) -> None:
        """Keep one row."""
        prompt, completion = row.prompt.encode("utf-8", _ERRORS), row.completion.encode("utf-8", _ERRORS)
        self._middles.append(self._stops[-1] + len(prompt))
        self._stops.append(self._middles[-1] + len(completion))
        self._owners.append(self._sources.setdefault(row.source, len(self._sources)))
        self._indices.append(row.index)
        self._write(prompt + completion, folder)

    def _write(self, data: bytes, folder: Path | None, *, last: bool = False) -> None:
        """Write; apart from the loop over the rows, so that an error of whoever gives them is not taken for ours."""
        try:
            self._file.write(data)
            if last:
                self._file.flush()
        except OSError as error:
            raise _no_room(folder, error) from error

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back."""
        with suppress(OSError):  # a full disk: the error of the write itself is told already
            self._file.close()

    def __len__(self) -> int:
        return len(self._middles)

    def __iter__(self) -> Iterator[Example]:
        for position in range(len(self)):
            yield self[position]

    @overload
    def __getitem__(self, position: int) -> Example: ...
    @overload
    def __getitem__(self, position: slice) -> list[Example]: ...
    def __getitem__(self, position: int | slice) -> Example | list[Example]:
        """Read a row, or several."""
        if isinstance(position, slice):
            return [self[i] for i in range(*position.indices(len(self)))]
        place = range(len(self))[position]  # negative ones count from the end, others may be out of range
        start, middle, stop = self._stops[place], self._middles[place], self._stops[place + 1]
        data = os.pread(self._file.fileno(), stop - start, start)
        prompt, completion = data[: middle - start].decode("utf-8", _ERRORS), data[middle - start :]
        return Example(
            prompt,
            completion.decode("utf-8", _ERRORS),
            source=self._names[self._owners[place]],
            index=self._indices[place],
        )


def _no_room(folder: Path | None, error: OSError) -> StorageError:
    """Say that rows cannot be kept."""
    return StorageError(
        f"{folder or 'the folder for temporary files'}: rows cannot be kept: {error.strerror or error}; free some space"
    )
