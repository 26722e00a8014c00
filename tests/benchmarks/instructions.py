"""Selection of rows against the definition, at scale and on the real pool: `python -m tests.benchmarks.instructions`.

Every measurement runs in a process of its own. (a) near-duplicates, one thread each, by processor time, which other
jobs on the machine hardly change; (b) a million rows; (c) the real pool; (d) planted contamination. Returns 1 if a bar
is missed.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks import pool
from tests.benchmarks.contamination import report as planted_contamination
from tests.benchmarks.measuring import Bars, print_bars
from tests.benchmarks.near_duplicates import NARROW, ROWS, SHOTS, TAKEN, THRESHOLD, WAYS, WIDTH, make, make_million

GIB = 2**30


def run(part: str, *arguments: object, threads: int = 2) -> tuple[dict, float, float]:
    """Run a module in a process of its own; returns what it printed, seconds on the wall and on the processor."""
    started, before = time.perf_counter(), processor_seconds()
    done = subprocess.run(
        [sys.executable, "-m", f"tests.benchmarks.{part}", *map(str, arguments)], check=True, stdout=subprocess.PIPE,
        text=True, env=os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    return json.loads(done.stdout), time.perf_counter() - started, processor_seconds() - before


def processor_seconds() -> float:
    """Seconds that all processes of ours had the processor."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def duplicates(folder: Path) -> Bars:
    """(a) Near-duplicates by the definition and by the package."""
    make(folder)
    found = {way: run("near_duplicates", way, folder, threads=1)[0] for way in WAYS}
    print(f"\nnear-duplicates among {ROWS:,} x {WIDTH:,}, threshold {THRESHOLD}, one thread")
    for way, one in found.items():
        print(f"{way:<12}{one['cpu']:>9.2f} s, {one['memory'] / 2**20:.0f} MiB, {len(one['kept'])} kept")
    ours, square = found["ours"], 8 * ROWS**2
    ratio = found["definition"]["cpu"] / ours["cpu"]
    return [
        (ours["kept"] == found["definition"]["kept"], "the same rows in the same order as by the definition"),
        (ratio >= 25, f"{ratio:.0f} times as fast as the definition (at least 25)"),
        (ours["memory"] < square / 4, f"{ours['memory'] / 2**20:.0f} MiB beside the vectors (n x n doubles are "
         f"{square / 2**20:.0f})"),
    ]  # fmt: skip


def at_scale(folder: Path) -> Bars:
    """(b) A million rows."""
    make_million(folder)
    found = run("near_duplicates", "million", folder)[0]
    (folder / "million.f32").unlink()
    print(f"\n{found['rows']:,} x {NARROW} from disk, {SHOTS} shots, two threads")
    print(f"{found['wall']:.1f} s, peak {found['memory'] / GIB:.2f} GiB, {found['near']:,} near-duplicates dropped")
    return [
        (found["taken"] == TAKEN, f"{TAKEN:,} rows are taken"),
        (found["wall"] <= 60, f"a million rows in {found['wall']:.1f} s (at most 60)"),
        (found["memory"] <= 3 * GIB, f"a million rows in {found['memory'] / GIB:.2f} GiB (at most 3)"),
    ]


def real_pool(folder: Path) -> Bars:
    """(c) The real pool, end to end."""
    bars: Bars = []
    for number, task in enumerate(pool.EXPECTED):
        first, cold, _ = run("pool", task, folder, threads=1)
        again, warm, processor = run("pool", task, folder, threads=1)
        label = f"cold {cold:.0f} s" if number == 0 else f"rows in the cache, shots not: {cold:.0f} s"
        print(f"\n{task}: {label}; warm {warm:.1f} s, of which {processor:.1f} on the processor; "
              f"load average {os.getloadavg()[0]:.1f}; {again['reasons']}")  # fmt: skip
        print("  ", ", ".join(f"{n} of {source}" for source, n in list(again["chosen"].items())[:5]))
        bars += [
            (first == again, f"{task}: the same selection cold and warm"),
            (warm <= 10, f"{task}: warm end to end in {warm:.1f} s (at most 10)"),
            (pool.as_expected(task, again["chosen"], again["read"]), f"{task}: the sets a person would expect lead"),
        ]
        if number == 0:
            bars.append((cold <= 90, f"{task}: cold end to end in {cold:.0f} s (at most 90)"))
    return bars


def main() -> int:
    started = time.perf_counter()
    print(f"load average {os.getloadavg()[0]:.1f} at the start")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bars = duplicates(folder) + at_scale(folder)
        if pool.SHARED.is_dir():
            bars += real_pool(folder / "cache")
            print("\nplanted contamination")
            bars += planted_contamination()  # (d)
        else:
            print("\nthe real pool is not beside this checkout")
    print()
    code = print_bars(bars)
    print(f"\n{time.perf_counter() - started:.0f} s in all")
    return code


if __name__ == "__main__":
    sys.exit(main())
