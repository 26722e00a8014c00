"""One way to drop near-duplicates, or the choice among a million rows: `python -m tests.benchmarks.near_duplicates`.

Arguments: a key of `WAYS` or `million`, and the folder where `make` or `make_million` wrote the vectors. Prints JSON:
seconds, the most memory in bytes (of a way: beside the vectors), and what was kept.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

THRESHOLD = 0.9
ROWS, WIDTH, SHOTS = 5000, 1024, 50
MANY, NARROW, TAKEN = 1_000_000, 384, 10_000
BLOCK = 20_000


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


def ours(rows: np.ndarray, shots: np.ndarray) -> list[int]:
    """`choose` of rocket_hub, with room for every row."""
    from rocket_hub.options import InstructionOptions
    from rocket_hub.selection.instructions import choose

    return choose(rows, shots, InstructionOptions(max_rows=len(rows), threshold=THRESHOLD)).taken


WAYS: dict[str, Callable[[np.ndarray, np.ndarray], list[int]]] = {"definition": definition, "ours": ours}


def memory(key: str) -> int:
    """Read VmRSS or VmHWM of this process, in bytes; unlike in getrusage, the peak of a parent does not count."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return 1024 * int(line.split()[1])


def run_way(way: str, folder: Path) -> dict[str, object]:
    rows, shots = np.load(folder / "rows.npy"), np.load(folder / "shots.npy")
    WAYS[way](rows[:60], shots)  # imports and first uses are not what is compared
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts here
    before, wall, cpu = memory("VmRSS"), time.perf_counter(), time.process_time()
    kept = WAYS[way](rows, shots)
    spent = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    return {**spent, "memory": memory("VmHWM") - before, "kept": kept}


def make_million(folder: Path, rows: int = MANY) -> None:
    """Write vectors around 40,000 places, a third of them near-duplicates of others, and shots at 50 of the places."""
    rng = np.random.default_rng(0)
    places = rng.standard_normal((40_000, NARROW), dtype=np.float32)
    with (folder / "million.f32").open("wb") as file:
        for _ in range(0, rows, BLOCK):
            spread = np.where(rng.random((BLOCK, 1)) < 0.34, 0.25, 0.8).astype(np.float32)
            block = places[rng.integers(0, len(places), BLOCK)]
            block = block + spread * rng.standard_normal((BLOCK, NARROW), dtype=np.float32)
            file.write((block / np.linalg.norm(block, axis=1, keepdims=True)).data)
    shots = places[:SHOTS] + 0.5 * rng.standard_normal((SHOTS, NARROW), dtype=np.float32)
    np.save(folder / "million_shots.npy", shots / np.linalg.norm(shots, axis=1, keepdims=True))


def run_million(folder: Path) -> dict[str, object]:
    """Rank a million rows on disk by similarity and take the best 10,000 that are no near-duplicates."""
    from rocket_hub.options import InstructionOptions
    from rocket_hub.selection.instructions import choose

    rows = np.memmap(folder / "million.f32", np.float32, "r").reshape(-1, NARROW)
    started = time.perf_counter()
    choice = choose(
        rows, np.load(folder / "million_shots.npy"), InstructionOptions(max_rows=TAKEN, threshold=THRESHOLD)
    )
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"wall": time.perf_counter() - started, "memory": peak, "rows": len(rows), "taken": len(choice.taken),
            "near": len(choice.near)}  # fmt: skip


if __name__ == "__main__":
    what, where = sys.argv[1], Path(sys.argv[2])
    print(json.dumps(run_million(where) if what == "million" else run_way(what, where)))
