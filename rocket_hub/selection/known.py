"""Rows that are known to be sound, so that a second run need not look for evaluation questions in them again."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

import numpy as np

from rocket_hub.records import Example
from rocket_hub.selection import decontamination, filters
from rocket_hub.selection.embeddings import KEYS, keys_of


class KnownSound:
    """The hashes of rows in which the gates found nothing, under the same rules and for the same questions.

    Only sound rows are remembered: what is wrong with the others is found again, in their own words. A change of the
    code of the gates is a change of the rules. The file is written whole or not at all; of two processes that write it
    one loses what it found, and finds it again the next time.

    Args:
        folder: Where the file is; none = nothing is remembered.
        rules: What the gates depend on, besides their code: questions, limits.
    """

    def __init__(self, folder: Path | None, rules: Iterable[str]) -> None:
        found = blake2b(digest_size=16)
        for module in (decontamination, filters):
            found.update(Path(str(module.__file__)).read_bytes())
        for rule in rules:
            found.update(rule.encode("utf-8", "surrogatepass") + b"\0")
        self._path = folder / f"sound-{found.hexdigest()}.rows" if folder else None
        self._keys = keys_of(())
        self._new: list[np.ndarray] = []
        if self._path and self._path.is_file():
            self._keys = np.fromfile(self._path, KEYS)

    def among(self, keys: np.ndarray) -> np.ndarray:
        """Tell which rows are known, by what `row_key` says of them: [b] -> [b] bool."""
        places = np.minimum(np.searchsorted(self._keys, keys), max(len(self._keys) - 1, 0))
        return self._keys[places] == keys if len(self._keys) else np.zeros(len(keys), dtype=bool)

    def add(self, keys: np.ndarray) -> None:
        """Remember rows."""
        self._new.append(keys)

    def save(self) -> None:
        """Write the file, if there is anything new; a full disk costs nothing but time the next time."""
        if self._path is None or not any(len(keys) for keys in self._new):
            return
        partial = self._path.with_name(f".{uuid.uuid4().hex}.partial")
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            try:
                partial.write_bytes(np.unique(np.concatenate([self._keys, *self._new])).tobytes())
                partial.replace(self._path)
            finally:
                partial.unlink(missing_ok=True)


def row_key(row: Example) -> bytes:
    """Name a row by its content."""
    text = f"{row.prompt}\0{row.completion}"
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=KEYS.itemsize).digest()
