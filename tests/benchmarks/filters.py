"""Five ways to drop near-duplicates, each in a process of its own: `python -m tests.benchmarks.filters WAY FOLDER`.

The reference rule and DEITA's are written from their descriptions. Prints seconds of the process, seconds on the wall,
the most memory beside the vectors, and the rows that are kept.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

THRESHOLD = 0.9
ROWS, WIDTH, SHOTS = 5000, 1024, 50


def make(folder: Path) -> None:
    """Write 5,000 rows, a fifth of them copies with noise around the threshold, and 50 shots in ten places."""
    rng = np.random.default_rng(0)
    places = rng.normal(size=(10, WIDTH))
    shots = places[np.arange(SHOTS) % 10] + 0.8 * rng.normal(size=(SHOTS, WIDTH))
    rows = rng.normal(size=(ROWS, WIDTH))
    rows[: ROWS // 2] += rng.uniform(0, 1.2, size=(ROWS // 2, 1)) * places[rng.integers(0, 10, ROWS // 2)]
    copies = rng.permutation(ROWS)[: ROWS // 5]
    noise = rng.uniform(0.2, 0.55, size=(len(copies), 1)) * np.linalg.norm(rows[copies], axis=1, keepdims=True)
    rows[copies] = rows[rng.integers(0, ROWS, len(copies))] + noise * rng.normal(size=(len(copies), WIDTH)) / WIDTH**0.5
    for name, vectors in (("rows", rows), ("shots", shots)):
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        np.save(folder / f"{name}.npy", unit.astype(np.float32))


def nearest_first(rows: np.ndarray, shots: np.ndarray) -> list[int]:
    """The order of Algorithm 2: by the largest cosine to any shot, to the six digits that single precision has."""
    return np.argsort(-(rows @ shots.T).max(axis=1).round(6), kind="stable").tolist()


def definition(rows: np.ndarray, shots: np.ndarray) -> list[int]:
    """Algorithm 2, pair by pair: a row stays if no row that stayed before it is a near-duplicate of it."""
    kept: list[int] = []
    for row in nearest_first(rows, shots):
        if not any(float(rows[row] @ rows[other]) > THRESHOLD for other in kept):
            kept.append(row)
    return kept


def reference(rows: np.ndarray, shots: np.ndarray) -> list[int]:
    """The released rule: by distance to the mean shot, unordered; of each close pair the one that stands later goes."""
    from scipy.spatial.distance import cdist

    order = np.argpartition(cdist(rows, shots.mean(axis=0, keepdims=True))[:, 0], len(rows) - 1)
    distances = cdist(rows[order], rows[order], "cosine")
    gone = set()
    for i in range(len(order)):
        for j in range(i + 1, len(order)):
            if distances[i, j] < 1 - THRESHOLD:
                gone.add(j)
    return [int(row) for position, row in enumerate(order) if position not in gone]


def one_by_one(rows: np.ndarray, shots: np.ndarray) -> list[int]:
    """DEITA's filter: every row, best first, is compared with all that were kept."""
    kept, count = np.empty_like(rows), 0
    found = []
    for row in nearest_first(rows, shots):
        if count == 0 or (kept[:count] @ rows[row]).max() <= THRESHOLD:
            kept[count] = rows[row]
            count += 1
            found.append(row)
    return found


def communities(rows: np.ndarray, shots: np.ndarray) -> list[int]:
    """sentence-transformers' community detection; of each community the row nearest to the K-shot is kept."""
    from sentence_transformers.util import community_detection

    place = {row: position for position, row in enumerate(nearest_first(rows, shots))}
    found = community_detection(rows, threshold=THRESHOLD, min_community_size=1, show_progress_bar=False)
    return sorted((min(group, key=place.__getitem__) for group in found), key=place.__getitem__)


def ours(rows: np.ndarray, shots: np.ndarray) -> list[int]:
    """`choose` of rocket_hub, with room for every row."""
    from rocket_hub.options import InstructionOptions
    from rocket_hub.selection.instructions import choose

    return choose(rows, shots, InstructionOptions(max_rows=len(rows), threshold=THRESHOLD)).taken


WAYS: dict[str, Callable[[np.ndarray, np.ndarray], list[int]]] = {
    "definition": definition,
    "ours": ours,
    "reference": reference,
    "one_by_one": one_by_one,
    "communities": communities,
}


def memory(key: str) -> int:
    """Read VmRSS or VmHWM of this process, in bytes; the peak of a parent does not count, as it does in getrusage."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return 1024 * int(line.split()[1])


def main(way: str, folder: Path) -> None:
    rows, shots = np.load(folder / "rows.npy"), np.load(folder / "shots.npy")
    WAYS[way](rows[:60], shots)  # imports and first uses are not what is compared
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts here
    before, wall, cpu = memory("VmRSS"), time.perf_counter(), time.process_time()
    kept = WAYS[way](rows, shots)
    spent = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    print(json.dumps({**spent, "memory": memory("VmHWM") - before, "kept": kept}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
