"""1,000,000 x 384 vectors on disk: similarity, the best 10,000, no near-duplicates.

`python -m tests.benchmarks.million FOLDER`, where `make` wrote them; prints seconds and the most memory.
"""

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np

from rocket_hub.options import InstructionOptions
from rocket_hub.selection.instructions import choose

ROWS, WIDTH, SHOTS, TAKEN = 1_000_000, 384, 50, 10_000
BLOCK = 20_000


def make(folder: Path, rows: int = ROWS) -> None:
    """Write vectors around 40,000 places, a third of them near-duplicates of others, and shots at 50 of the places."""
    rng = np.random.default_rng(0)
    places = rng.standard_normal((40_000, WIDTH), dtype=np.float32)
    with (folder / "rows.f32").open("wb") as file:
        for _ in range(0, rows, BLOCK):
            spread = np.where(rng.random((BLOCK, 1)) < 0.34, 0.25, 0.8).astype(np.float32)
            block = places[rng.integers(0, len(places), BLOCK)]
            block = block + spread * rng.standard_normal((BLOCK, WIDTH), dtype=np.float32)
            file.write((block / np.linalg.norm(block, axis=1, keepdims=True)).data)
    shots = places[:SHOTS] + 0.5 * rng.standard_normal((SHOTS, WIDTH), dtype=np.float32)
    np.save(folder / "shots.npy", shots / np.linalg.norm(shots, axis=1, keepdims=True))


def main(folder: Path) -> None:
    rows = np.memmap(folder / "rows.f32", np.float32, "r").reshape(-1, WIDTH)
    started = time.perf_counter()
    choice = choose(rows, np.load(folder / "shots.npy"), InstructionOptions(max_rows=TAKEN, threshold=0.9))
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"wall": time.perf_counter() - started, "memory": peak, "rows": len(rows),
                      "taken": len(choice.taken), "near": len(choice.near)}))  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]))
