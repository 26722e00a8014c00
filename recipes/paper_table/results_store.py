"""Results of the finished cells on disk: one file a table, one JSON line a cell."""

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
    """Encode one 0 or 1 a problem as hexadecimal digits, four problems each."""
    return np.packbits(np.array(correct, dtype=np.uint8)).tobytes().hex()


def unpacked(text: str, count: int) -> np.ndarray:
    """Decode what `packed` encoded: [count] of 0.0 and 1.0."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), dtype=np.uint8), count=count).astype(float)


class ResultsStore:
    """Results of finished cells by key, over all tables.

    A result from another world (another Hub, other problems or steps) does not count: the cell is measured again.

    Attributes:
        results: Key of a cell -> its result.
    """

    def __init__(self, folder: Path = RESULTS) -> None:
        """Read the results in a folder."""
        self._folder = folder
        self._tables = {path.stem: KeptResults(path) for path in sorted(folder.glob("*.jsonl"))}
        self.results: dict[str, Any] = {}
        for table in self._tables.values():
            self.results.update(table.known)

    def get(self, cell: Cell, world: str) -> dict[str, Any] | None:
        """Return the result of a finished cell; the result of a failed one has an `error`."""
        found = self.results.get(cell.key)
        return found if found and found["world"] == world else None

    def add(self, table: str, cell: Cell, result: dict[str, Any]) -> None:
        """Append a result to a table's file; it is on disk when this returns."""
        if table not in self._tables:
            self._tables[table] = KeptResults(self._folder / f"{table}.jsonl")
        self._tables[table].add({cell.key: result})
        self.results[cell.key] = result

    def setting(self, cell: Cell, world: str) -> dict[str, float] | None:
        """Choose a cell's learning rate and weight: the grid point with the lowest cross-fitted loss.

        Args:
            cell: The cell; its method may share the grid of another one.
            world: World of the task on which settings are chosen.

        Returns:
            The chosen point, or none where the method is not trained.

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
        """Return the world of each task's newest cell in the core table."""
        core = self._tables.get("core")
        return {key.partition("/")[0]: result["world"] for key, result in core.known.items()} if core else {}
