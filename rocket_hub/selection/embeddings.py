"""Texts into vectors: each text once, in batches of like length, shared among processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rocket_hub.errors import InputError, StorageError
from rocket_hub.inference.models import RETRIEVAL_PREFIX, Encoder
from rocket_hub.records import Example, Row
from rocket_hub.selection.vectors import EmbeddingCache, Embeddings, keys_of, text_key

WINDOW = 8192  # texts that are sorted by length together
BATCH = 512  # texts that are encoded, and then kept, at once
BATCH_CHARACTERS = 1 << 18  # of a batch; a few minutes of work for a large encoder without a GPU
PATIENCE = 300.0  # seconds without news from the other processes after which their share is encoded here
_POLL = 0.2
_LENGTH_ERROR = 0.01  # of vectors that were normalised in half precision

_CHARACTERS = 32_768  # of a text: no encoder reads more, and nobody can make us encode a book

Progress = Callable[[int, int], None]


def _silent(done: int, total: int) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class Part:
    """Which texts this process encodes: those whose hash falls to `rank` of `world`."""

    rank: int = 0
    world: int = 1

    @classmethod
    def of_process(cls) -> Part:
        """Read what torchrun and `accelerate launch` tell each process; a process alone has all."""
        rank, world = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE"))
        if not (rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
            return cls()
        return cls(int(rank), int(world))

    def owns(self, keys: np.ndarray) -> np.ndarray:
        """Tell which texts are this process's to encode: hashes [n] -> [n] bool."""
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
    progress: Progress = _silent,
) -> Embeddings:
    """Turn texts into vectors, each text once.

    Missing texts are encoded window by window, sorted by length within a window so that a batch has little padding, and
    every batch is kept before the next one begins. With several processes each encodes its part and waits for the
    others; what a process that gives no sign of life was to do is done here in the end.

    Args:
        encoder: Turns texts into vectors; not called if everything is in the cache.
        texts: n texts; only the missing ones are asked for.
        cache: Where vectors are looked up and kept.
        keys: What `text_key` says of the texts, if it is known already, [n].
        part: What this process is to encode.
        progress: Told how many of the missing texts are done, and how many there are.

    Returns:
        [n, d], in the order of the texts.

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


def text_of(example: Example | Row) -> str:
    """Join prompt and completion behind the paper's prefix, as rows and shots are compared."""
    return whole(f"{RETRIEVAL_PREFIX}{example.prompt.strip()}\n{example.completion.strip()}")


def whole(text: str) -> str:
    """Cut what no encoder reads, and replace half a surrogate pair: text to JSON, but to no tokenizer."""
    return text[:_CHARACTERS].encode("utf-8", "replace").decode()


def _fill(
    encoder: Encoder,
    texts: Sequence[str],
    keys: np.ndarray,
    cache: EmbeddingCache,
    part: Part,
    progress: Progress,
) -> None:
    """Encode what is missing of this process's part."""
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
            progress(done := done + len(batch), len(missing))
    cache.close()
    cache.refresh()


def _batches(entries: Sequence[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    """Cut texts with their positions into batches of at most so many texts and characters."""
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
    """Wait until the other processes have kept their share; returns whether they did."""
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
