"""What is measured so far: one JSON line a cell, appended as soon as the cell is finished."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cells import Cell, points, tuned_as

from rocket_hub.runs import KeptResults

RESULTS = Path(__file__).resolve().parent / "results"
SETTINGS = "settings"


def packed(correct: Sequence[int]) -> str:
    """Write one 0 or 1 a problem as hexadecimal digits, four problems each."""
    return np.packbits(np.array(correct, dtype=np.uint8)).tobytes().hex()


def unpacked(text: str, count: int) -> np.ndarray:
    """Read what `packed` wrote: [count] of 0.0 and 1.0."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), dtype=np.uint8), count=count).astype(float)


class Kept:
    """Finished cells by key, over all tables.

    A cell of another world (another Hub, other problems or steps) does not count: it is measured again.
    """

    def __init__(self, folder: Path = RESULTS) -> None:
        """Read what is there."""
        self._folder = folder
        self._files = {path.stem: KeptResults(path) for path in sorted(folder.glob("*.jsonl"))}
        self.results: dict[str, Any] = {}
        for file in self._files.values():
            self.results.update(file.known)

    def get(self, cell: Cell, world: str) -> dict[str, Any] | None:
        """Return a finished cell's result; also one that failed, which has an `error`."""
        found = self.results.get(cell.key)
        return found if found and found["world"] == world else None

    def add(self, table: str, cell: Cell, result: dict[str, Any]) -> None:
        """Keep a result; it is on disk when this returns."""
        file = self._files.setdefault(table, KeptResults(self._folder / f"{table}.jsonl"))
        file.add({cell.key: result})
        self.results[cell.key] = result

    def setting(self, cell: Cell, world: str) -> dict[str, float] | None:
        """Return the point of the method's grid under which held-out shots are likeliest; none = it is not trained.

        Args:
            cell: Whose setting.
            world: World of the task that settings are chosen on.

        Raises:
            ValueError: No point of the grid has a result.
        """
        method = tuned_as(cell.method)
        if method is None:
            return None
        tried = [(found["nll"], dict(point.options)) for point in points(method)
                 if (found := self.get(point, world)) and "nll" in found]  # fmt: skip
        if not tried:
            raise ValueError(f"no setting of '{method}' could be tried")
        return min(tried, key=lambda each: each[0])[1]

    def worlds(self) -> dict[str, str]:
        """Name the world of each task's newest cell in the core table, which the page is about."""
        file = self._files.get("core")
        return {key.partition("/")[0]: result["world"] for key, result in file.known.items()} if file else {}
