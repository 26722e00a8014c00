"""Vectors of texts on disk: appended while they are made, looked up by the text's hash, safe to interrupt."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Protocol

import numpy as np

from rocket_hub.errors import InputError, StorageError

KEY_BYTES = 16  # wide enough that nobody can make a text that takes another's vector
KEYS = np.dtype(f"S{KEY_BYTES}")


class Vectors(Protocol):
    """Rows of length 1 that need not be in memory: an array, a memory map, `Embeddings`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, d)."""
        ...

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        """Return some rows by position, [b] -> [b, d] float."""
        ...


class Embeddings:
    """Vectors in the order of the texts that they were asked for; they stay on disk until rows are taken.

    Attributes:
        shape: (texts, d).
    """

    def __init__(self, parts: Sequence[np.ndarray], records: np.ndarray) -> None:
        self._parts = parts
        self._starts = np.cumsum([0, *(len(part) for part in parts)])
        self._records = records
        self.shape = (len(records), parts[0].shape[1] if parts else 0)

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        """Read rows by position: [b] -> [b, d] float32."""
        records = self._records[rows]
        found = np.empty((len(records), self.shape[1]), dtype=np.float32)
        owners = np.searchsorted(self._starts, records, side="right") - 1
        for owner in np.unique(owners):
            own = owners == owner
            found[own] = self._parts[owner][records[own] - self._starts[owner]]
        return found

    def split(self, position: int) -> tuple[Embeddings, Embeddings]:
        """Tell the texts before a position from those after it."""
        first, second = self._records[:position], self._records[position:]
        return Embeddings(self._parts, first), Embeddings(self._parts, second)


class EmbeddingCache:
    """The vectors that one encoder, at one revision, made of texts.

    A folder holds pairs of files, one pair for every process that ever wrote: float32 vectors one after the other, and
    the texts' hashes in the same order. A vector is on disk before its hash is written, so that only whole records
    count: after an interruption what was kept is found again, and no process ever writes to another's files. Processes
    that share the folder share the work.

    Attributes:
        folder: Made when the first vector is kept. One folder for one encoder at one revision, see `encoder_key`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._parts: list[np.ndarray] = []
        self._sizes: dict[str, int] = {}
        self._keys = keys_of(())
        self._order = np.zeros(0, dtype=np.intp)
        self._writing: tuple[IO[bytes], IO[bytes], int] | None = None
        self.refresh()

    def refresh(self) -> bool:
        """Read what is on disk now; returns whether there is anything new."""
        names = sorted(path.name.removesuffix(".keys") for path in self.folder.glob("*.keys"))
        sizes = {name: count for name in names if (count := self._whole(name))}
        if sizes == self._sizes:
            return False
        self._parts = [
            np.memmap(self._vectors(name), np.float32, "r", shape=(count, _width(name)))
            for name, count in sizes.items()
        ]
        if len(widths := {part.shape[1] for part in self._parts}) > 1:
            raise InputError(
                f"{self.folder}: holds vectors of {' and '.join(map(str, sorted(widths)))} numbers, so two encoders "
                "wrote to it; delete it, and give every encoder a folder of its own"
            )
        keys = [np.fromfile(self.folder / f"{name}.keys", KEYS, count) for name, count in sizes.items()]
        self._keys = np.concatenate([keys_of(()), *keys])
        self._order = np.argsort(self._keys, kind="stable")
        self._sizes = sizes
        return True

    def find(self, wanted: np.ndarray) -> np.ndarray:
        """Look up texts by their hashes: [n] -> positions of their records [n], -1 = not there."""
        if not len(self._keys):
            return np.full(len(wanted), -1)
        places = np.searchsorted(self._keys, wanted, sorter=self._order)
        records = self._order[np.minimum(places, len(self._keys) - 1)]
        return np.where(self._keys[records] == wanted, records, -1)

    def embeddings(self, records: np.ndarray) -> Embeddings:
        """Return the vectors of records that `find` found."""
        return Embeddings(self._parts, records)

    def append(self, keys: np.ndarray, vectors: np.ndarray) -> None:
        """Keep the vectors [b, d] of texts named by their hashes [b] for good: on disk before the hashes are.

        Raises:
            StorageError: They cannot be written.
        """
        try:
            if self._writing is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                name = f"{uuid.uuid4().hex}-{vectors.shape[1]}"
                opened = (self._vectors(name).open("xb"), (self.folder / f"{name}.keys").open("xb"))
                self._writing = (*opened, vectors.shape[1])
            data, index, width = self._writing
            if vectors.shape != (len(keys), width):
                raise InputError(f"the encoder gave {vectors.shape} numbers for {len(keys)} texts of {width} each")
            data.write(np.ascontiguousarray(vectors, dtype=np.float32).data)
            data.flush()
            os.fsync(data.fileno())
            index.write(keys.tobytes())
            index.flush()
        except OSError as error:
            self.close()
            raise StorageError(
                f"{self.folder}: vectors cannot be kept: {error.strerror or error}; free some space, then run the "
                "same command again: what is kept already stays"
            ) from error

    def close(self) -> None:
        """Close the files that this process writes; what it keeps next goes to new ones."""
        files, self._writing = self._writing, None
        for file in files[:2] if files else ():
            with suppress(OSError):  # of a full disk, where the last bytes are lost anyway
                file.close()

    def _vectors(self, name: str) -> Path:
        return self.folder / f"{name}.vectors"

    def _whole(self, name: str) -> int:
        """Count the records of a pair of files that are whole in both."""
        try:
            keys, data = (self.folder / f"{name}.keys").stat().st_size, self._vectors(name).stat().st_size
        except OSError:
            return 0
        return min(keys // KEY_BYTES, data // (4 * _width(name))) if _width(name) else 0


@contextmanager
def open_cache(folder: Path | None) -> Iterator[EmbeddingCache]:
    """Open the cache in a folder; none = one that is gone afterwards."""
    with ExitStack() as stack:
        cache = EmbeddingCache(folder or Path(stack.enter_context(TemporaryDirectory(prefix="rocket-hub-"))))
        stack.callback(cache.close)
        yield cache


def text_key(text: str) -> bytes:
    """Name a text by its content."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()


def keys_of(named: Sequence[bytes]) -> np.ndarray:
    """Put the names of n texts into an array [n] that `EmbeddingCache.find` takes."""
    return np.asarray(named, dtype=KEYS)


def _width(name: str) -> int:
    """Read the length of the vectors out of a file's name; 0 = none of ours."""
    width = name.rpartition("-")[2]
    return int(width) if width.isdecimal() else 0
