from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Protocol

import numpy as np

from rocket_hub.errors import InputError, StorageError
from rocket_hub.inference.models import RETRIEVAL_PREFIX, Encoder
from rocket_hub.inference.tokens import Progress
from rocket_hub.records import Example

KEY_BYTES = 16  # wide enough that nobody can make a text that takes another's vector
KEYS = np.dtype(f"S{KEY_BYTES}")
WINDOW = 8192  # texts that are sorted by length together
BATCH = 512  # texts that are encoded, and then kept, at once
BATCH_CHARACTERS = 1 << 18  # of a batch; a few minutes of work for a large encoder without a GPU
PATIENCE = 300.0  # seconds without news from the other processes after which their share is encoded here
_POLL = 0.2
_LENGTH_ERROR = 0.01  # of vectors that were normalised in half precision
_CHARACTERS = 32_768  # of a text: no encoder reads more, and nobody can make us encode a book


def text_of(example: Example) -> str:
    """Join prompt and completion behind the paper's prefix, as rows and shots are compared."""
    return whole(f"{RETRIEVAL_PREFIX}{example.prompt.strip()}\n{example.completion.strip()}")


def whole(text: str) -> str:
    """Cut a text to what encoders read, and replace half surrogate pairs, which no tokenizer takes."""
    return text[:_CHARACTERS].encode("utf-8", "replace").decode()


def text_key(text: str) -> bytes:
    """Hash a text."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()


def keys_of(hashes: Sequence[bytes]) -> np.ndarray:
    """Put n hashes into an array [n], as `EmbeddingCache.find` takes them."""
    return np.asarray(hashes, dtype=KEYS)


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
    """Vectors in the order of the texts that were asked for, `shape` (texts, d); read when their rows are taken."""

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


class EmbeddingCache:
    """The vectors that one encoder, at one revision, made of texts.

    The folder holds a pair of files for every process that ever wrote: float32 vectors one after the other, and the
    texts' hashes in the same order. A vector is on disk before its hash is written, so that after an interruption all
    whole records are found again. Processes that share the folder share the work.

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
        """Look up hashes of texts: [n] -> positions of their records [n], -1 = not there."""
        if not len(self._keys):
            return np.full(len(wanted), -1)
        places = np.searchsorted(self._keys, wanted, sorter=self._order)
        records = self._order[np.minimum(places, len(self._keys) - 1)]
        return np.where(self._keys[records] == wanted, records, -1)

    def embeddings(self, records: np.ndarray) -> Embeddings:
        """Return the vectors of records that `find` found."""
        return Embeddings(self._parts, records)

    def append(self, keys: np.ndarray, vectors: np.ndarray) -> None:
        """Write the vectors [b, d] of texts, then their hashes [b]; StorageError where that fails."""
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
        """Close the files that this process writes; the next vectors go to new ones."""
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


def _width(name: str) -> int:
    """Read the length of the vectors out of a file's name; 0 = not a file of the cache."""
    width = name.rpartition("-")[2]
    return int(width) if width.isdecimal() else 0


@dataclass(frozen=True)
class Part:
    """Which texts this process encodes: those whose hash falls to `rank` of `world`."""

    rank: int = 0
    world: int = 1

    @classmethod
    def of_process(cls) -> Part:
        """Read the part that torchrun or `accelerate launch` gave this process; a process alone has all."""
        rank, world = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE"))
        if not (rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
            return cls()
        return cls(int(rank), int(world))

    def owns(self, keys: np.ndarray) -> np.ndarray:
        """Return which texts this process encodes: hashes [n] -> [n] bool."""
        numbers = np.ascontiguousarray(keys).view(">u8").reshape(-1, 2)[:, 0]
        return np.asarray(numbers % self.world == self.rank)


ALL = Part()


def embed(
    encoder: Encoder,
    texts: Sequence[str],
    cache: EmbeddingCache,
    *,
    keys: np.ndarray | None = None,
    part: Part = ALL,
    progress: Progress | None = None,
) -> Embeddings:
    """Turn n texts into vectors [n, d], each text once.

    Missing texts are encoded window by window, sorted by length within a window so that a batch has little padding, and
    every batch is kept before the next one begins. With several processes each encodes its part and waits for the
    others; the part of a process that stays silent is encoded here in the end.

    Args:
        encoder: Turns texts into vectors; not called if everything is in the cache.
        texts: n texts; only the missing ones are read.
        cache: Where vectors are looked up and kept.
        keys: The `text_key` of each text, if known already, [n].
        part: What this process encodes.
        progress: Called with (missing texts done, missing texts).

    Raises:
        InputError: The encoder's vectors are not of length 1.
        StorageError: A vector cannot be kept, or is gone.
    """
    keys = keys_of([text_key(text) for text in texts]) if keys is None else keys
    _fill(encoder, texts, keys, cache, part, progress)
    if part != ALL and not _complete(cache, keys):
        _fill(encoder, texts, keys, cache, ALL, progress)
    records = cache.find(keys)
    if (records < 0).any():
        raise StorageError(f"{cache.folder}: vectors vanished while they were in use; run the same command again")
    return cache.embeddings(records)


def _fill(
    encoder: Encoder,
    texts: Sequence[str],
    keys: np.ndarray,
    cache: EmbeddingCache,
    part: Part,
    progress: Progress | None,
) -> None:
    """Encode the missing texts of this process's part."""
    _, first = np.unique(keys, return_index=True)
    first = np.sort(first)
    missing = first[(cache.find(keys[first]) < 0) & part.owns(keys[first])]
    # Windows are cut by position, so that after an interruption the batches are the same.
    windows = np.split(missing, np.flatnonzero(np.diff(missing // WINDOW)) + 1) if len(missing) else []
    done = 0
    for window in windows:
        read = {position: texts[position] for position in window.tolist()}
        # The longest first: what does not fit into memory fails at once.
        for batch in _batches(sorted(read.items(), key=lambda entry: -len(entry[1]))):
            positions = [position for position, _ in batch]
            cache.append(keys[positions], _checked(encoder.encode([text for _, text in batch])))
            done += len(batch)
            if progress:
                progress(done, len(missing))
    cache.close()
    cache.refresh()


def _batches(entries: Sequence[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    batch: list[tuple[int, str]] = []
    size = 0
    for entry in entries:
        if batch and (len(batch) == BATCH or size + len(entry[1]) > BATCH_CHARACTERS):
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += len(entry[1])
    if batch:
        yield batch


def _complete(cache: EmbeddingCache, keys: np.ndarray) -> bool:
    """Wait until the other processes have kept their parts; returns whether they did."""
    patient_until = time.monotonic() + PATIENCE
    while (cache.find(keys) < 0).any():
        if time.monotonic() > patient_until:
            return False
        time.sleep(_POLL)
        if cache.refresh():
            patient_until = time.monotonic() + PATIENCE
    return True


def _checked(vectors: np.ndarray) -> np.ndarray:
    """Refuse vectors that no cosine can be read from; a text without any known word may have a vector of zeros."""
    lengths = np.linalg.norm(vectors, axis=-1)
    if vectors.ndim != 2 or not np.all((np.abs(lengths - 1) < _LENGTH_ERROR) | (lengths < _LENGTH_ERROR)):
        raise InputError(
            f"the encoder gave vectors of shape {vectors.shape} and lengths {np.nanmin(lengths):g} to "
            f"{np.nanmax(lengths):g}; rows of length 1 are needed: normalise them"
        )
    return vectors
