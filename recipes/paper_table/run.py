"""Measure the missing cells of a table: `python recipes/paper_table/run.py --table core`; resumable.

Whole pairs of task and draw are finished one after the other, all tasks of the first draw first, so that the table is
balanced whenever the run ends. Each worker is a process with one thread.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import yaml
from cells import DRAWS, TABLES, TASKS, TUNING_TASK, Cell, cells_of, points, tuned_as
from measure import QUIET, World, device, job, start_worker
from results_store import RESULTS, SETTINGS, ResultsStore

from rocket_hub.localhub import connect
from rocket_hub.runs import digest

WORK = Path(__file__).resolve().parents[2] / "runs" / "paper_table"
GUESS = 45.0  # seconds of a cell, before any is finished
STARTED = time.monotonic()


def report(text: str) -> None:
    """Print a line with the minutes since the start."""
    print(f"{(time.monotonic() - STARTED) / 60:6.1f} min  {text}", flush=True)


@dataclass(frozen=True)
class Job:
    """A cell, the table of its result, and the cells that must be finished first; without method it prepares a pair."""

    cell: Cell
    table: str
    needs: frozenset[str] = frozenset()


def jobs_for(
    cells: Sequence[Cell], table: str, worlds: dict[str, World], store: ResultsStore, retry: bool
) -> list[Job]:
    """List the missing cells, each after its preparation and the grid points that choose its setting."""
    jobs: dict[str, Job] = {}

    def missing(cell: Cell) -> bool:
        found = store.get(cell, worlds[cell.task].name)
        return found is None or (retry and "error" in found)

    def add(cell: Cell, place: str, needs: Sequence[Cell] = ()) -> None:
        jobs.setdefault(cell.pair.key, Job(cell.pair, ""))
        known = frozenset(need.key for need in needs if need.key in jobs)
        jobs.setdefault(cell.key, Job(cell, place, known | {cell.pair.key}))

    for cell in filter(missing, cells):
        method = tuned_as(cell.method)
        tried = points(method) if method else []
        for point in filter(missing, tried):
            add(point, SETTINGS)
        add(cell, table, tried)
    return list(jobs.values())


def same_device(cells: Sequence[Cell], worlds: dict[str, World], store: ResultsStore, here: str) -> list[Cell]:
    """Leave out the pairs that have a result from another device: a pair never mixes devices."""
    names = {world.name for world in worlds.values()}
    others = [key for key, found in store.results.items() if found["device"] != here and found["world"] in names]
    elsewhere = {"/".join(key.split("/")[:2]) for key in others}
    left = [cell for cell in cells if f"{cell.task}/{cell.draw}" not in elsewhere]
    if len(left) < len(cells):
        report(f"{len(cells) - len(left)} cells left out: their pairs were measured on another device than {here}")
    return left


def seconds_of(jobs: Sequence[Job], store: ResultsStore) -> float:
    """Estimate the seconds of jobs by the finished cells of the same method."""
    known: dict[tuple[str, bool], list[float]] = {}
    for key, found in store.results.items():
        known.setdefault((key.split("/")[2], "learning_rate" in key), []).append(found["seconds"])
    total = 0.0
    for each in jobs:
        times = known.get((each.cell.method, each.cell.point), [GUESS] if each.cell.method else [20.0])
        total += sum(times) / len(times)
    return total


def work_off(
    jobs: list[Job], worlds: dict[str, World], store: ResultsStore, workers: int, minutes: float | None
) -> None:
    """Run each job as soon as the cells that it needs are finished, and write each result at once."""
    waiting, done, total = list(jobs), set[str](), len(jobs)
    running: dict[Future[Any], Job] = {}
    with ProcessPoolExecutor(workers, get_context("spawn"), start_worker) as pool:
        while waiting or running:
            late = minutes is not None and time.monotonic() - STARTED > 60 * minutes
            ready = [each for each in waiting if each.needs <= done] if not late else []
            for each in ready[: workers - len(running)]:
                waiting.remove(each)
                world = worlds[each.cell.task]
                try:
                    chosen = each.cell.method and not each.cell.point
                    setting = store.setting(each.cell, worlds[TUNING_TASK].name) if chosen else None
                except ValueError as error:
                    report(f"{each.cell.key}: {error}")
                    continue
                running[pool.submit(job, world, each.cell, setting)] = each
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                each, result = running.pop(future), future.result()
                done.add(each.cell.key)
                if each.table:
                    store.add(each.table, each.cell, result)
                elif "error" in result:  # not kept, so that the next run tries again
                    waiting = [other for other in waiting if each.cell.key not in other.needs]
                report(f"{len(done)}/{total}  {each.cell.key or each.cell.folder}: {in_words(result)}")
    if waiting:
        report(f"{len(waiting)} jobs are left: run the same command again")


def in_words(result: dict[str, Any]) -> str:
    """Write a result in words."""
    if "error" in result:
        return f"failed: {result['error']}"
    if "accuracy" in result:
        return f"{result['accuracy']:.1%}, {result['seconds']:.0f} s"
    if "nll" in result or "loss" in result:
        return f"{result.get('nll', result.get('loss')):.4f} nats, {result['seconds']:.0f} s"
    return f"{result['verdict']}: {', '.join(result['experts'])}, {result['seconds']:.0f} s"


def content_of(hub: str) -> str:
    """Return a digest of a Hub's models and data, without its cards and METEOR's teacher."""
    from hashlib import sha256

    from rocket_hub.localhub.connect import DEMO

    folder, names = DEMO if hub == "demo" else Path(hub), []
    for path in sorted(folder.glob("[md]*s/**/*")):
        if path.is_file() and path.suffix != ".md" and path.parent.name != "teacher":
            names.append([path.relative_to(folder).as_posix(), sha256(path.read_bytes()).hexdigest()])
    return digest(names)


def world_of(recipe: str, content: str, options: argparse.Namespace, hub: str) -> World:
    """Return the world of a task's cells; settings that the recipe names do not change it."""
    told = yaml.safe_load(recipe)
    told["evaluate"].pop("settings", None)
    told.get("train", {}).pop("learning_rate", None)
    told.get("merge", {}).pop("gate_start", None)
    name = digest([told, content, options.problems, options.steps])
    return World(name, recipe, options.work, hub, options.problems, options.steps)


def arguments() -> argparse.Namespace:
    """Read the command line."""

    def names(text: str) -> list[str]:
        return text.split(",")

    def numbers(text: str) -> list[int]:
        return [int(number) for number in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", default="core", choices=list(TABLES))
    parser.add_argument("--tasks", type=names, default=list(TASKS), help="a,b; default: all")
    parser.add_argument("--draws", type=numbers, default=list(DRAWS), help="1,2; default: all")
    parser.add_argument("--methods", type=names, default=[], help="a,b; default: all of the table")
    parser.add_argument("--options", help="only rows of the table with these, as keys have them: group.key=value,...")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes with one thread each")
    parser.add_argument("--minutes", type=float, help="start no new cell after that time")
    parser.add_argument("--retry", action="store_true", help="do the cells again that failed")
    parser.add_argument("--hub", default="demo", help="demo, or a Hub's folder")
    parser.add_argument("--results", type=Path, help="folder of the finished cells; default: one of the Hub's own")
    parser.add_argument("--work", type=Path, help="folder of the run folders; default: one of the Hub's own")
    parser.add_argument("--problems", type=int, default=1000, help="at most this many problems of the test split")
    parser.add_argument("--steps", type=int, help="steps of every training; default: the recipe's")
    return parser.parse_args()


def own_folder(folder: Path, hub: str) -> Path:
    """Return a Hub's own folder, since cells of two Hubs have the same names; the demo Hub has the folder itself."""
    return folder if hub == "demo" else folder / hub


def main() -> None:
    """Measure what is missing."""
    options = arguments()
    os.environ.update(QUIET)
    with connect(options.hub) as connection:
        store = ResultsStore(options.results or own_folder(RESULTS, connection.name))
        options.work = options.work or own_folder(WORK, connection.name)
        content = content_of(options.hub)
        tasks = [task for task in options.tasks if task in connection.recipes]
        if missing := [task for task in options.tasks if task not in tasks]:
            report(f"the Hub has no recipe for {', '.join(missing)}: left out")
        worlds = {task: world_of(connection.recipes[task], content, options, connection.name)
                  for task in {*tasks, TUNING_TASK}}  # fmt: skip
        cells = cells_of(options.table, tasks, options.draws, options.methods, options.options)
        if not cells:
            raise SystemExit(f"table {options.table} has nothing for these tasks, draws, methods and options")
        cells = same_device(cells, worlds, store, device())
        jobs = jobs_for(cells, options.table, worlds, store, options.retry)
        measured = [each for each in jobs if each.table]
        points = sum(each.table == SETTINGS for each in measured)
        report(f"{options.table}: {len(cells)} cells, {len(measured) - points} of them to measure; {points} points of "
               f"grids to try; about {seconds_of(jobs, store) / 60 / options.workers:.0f} minutes")  # fmt: skip
        work_off(jobs, worlds, store, options.workers, options.minutes)


if __name__ == "__main__":
    main()
