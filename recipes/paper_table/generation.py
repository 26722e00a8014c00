"""Measure training on made data: `python recipes/paper_table/generation.py`; resumable, one JSON line a cell.

Self-Specialization on the demo family that has seeds and pages but no open set, and METEOR with the demo's teacher;
every arm at the same learning rate and steps, on three draws.
"""

from __future__ import annotations

import argparse
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import specialise
import teach
from made_tables import MADE
from made_world import World, scored
from measure import QUIET, start_worker

from rocket_hub.localhub import connect
from rocket_hub.runs import KeptResults

DRAWS = (1, 2, 3)


@dataclass(frozen=True)
class Cell:
    """One arm on one draw."""

    arm: str
    draw: int

    @property
    def key(self) -> str:
        """Name it."""
        return f"{self.arm}/{self.draw}"


_WORLD: list[World] = []


def run_cell(cell: Cell) -> dict[str, Any]:
    """Measure one cell in this process."""
    if not _WORLD:
        _WORLD.append(World())
    started, world = time.monotonic(), _WORLD[0]
    if cell.arm == "base":
        found = scored(world, world.base, "shop-prices")
    else:
        measure = teach.taught if cell.arm in teach.ARMS else specialise.specialised
        found = measure(world, cell.arm, cell.draw)
    return {**found, "seconds": round(time.monotonic() - started, 1)}


def chains() -> list[list[Cell]]:
    """List chains of cells. Chains may run in parallel; the cells of one share a folder and run in order."""
    special = [[Cell(arm, draw)] for draw in DRAWS for arm in specialise.ARMS[1:]]
    stages = [[Cell(arm, draw) for arm in some] for draw in DRAWS for some in (teach.ARMS[:1], teach.ARMS[1:4])]
    return [[Cell("base", 1), Cell("teacher", 1)], *special, *stages]


def run_chain(cells: list[Cell]) -> list[dict[str, Any]]:
    """Measure the cells of a chain in order."""
    return [run_cell(cell) for cell in cells]


def measure_all(pool: ProcessPoolExecutor, kept: KeptResults, only: str | None, minutes: float) -> None:
    """Measure what is missing."""
    started, running = time.monotonic(), []
    for chain in chains():
        todo = [cell for cell in chain if cell.key not in kept.known and only in (None, part_of(cell))]
        if todo:
            running.append((todo, pool.submit(run_chain, todo)))
    for todo, future in running:
        if time.monotonic() - started > 60 * minutes and future.cancel():
            continue
        for cell, found in zip(todo, future.result(), strict=True):
            kept.add({cell.key: found})
            print(f"{(time.monotonic() - started) / 60:5.1f} min  {cell.key}: {found['accuracy']:.1%}, "
                  f"{found['seconds']:.0f} s", flush=True)  # fmt: skip


def part_of(cell: Cell) -> str:
    """Return the table of a cell, as `--only` calls it."""
    return "meteor" if cell.arm in teach.ARMS else "self"


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--minutes", type=float, default=1e9, help="start nothing new after that time")
    parser.add_argument("--only", choices=["self", "meteor"], help="one of the two tables")
    options = parser.parse_args()
    os.environ.update(QUIET)
    with connect("demo"), ProcessPoolExecutor(options.workers, get_context("spawn"), start_worker) as pool:
        measure_all(pool, KeptResults(MADE), options.only, options.minutes)


if __name__ == "__main__":
    main()
