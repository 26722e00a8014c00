"""The choice of rows against its peers, at scale and on the real pool: `python -m tests.benchmarks.instructions`.

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

from tests.benchmarks import filters, million, pool
from tests.benchmarks.contamination import report as planted_contamination

Verdicts = list[tuple[bool, str]]
NAMES = {
    "definition": "the definition, pair by pair",
    "ours": "rocket_hub",
    "reference": "released rule, from its description",
    "one_by_one": "DEITA-style, one by one",
    "communities": "sentence-transformers communities",
}
GIB = 2**30


def run(*arguments: object, threads: int = 2) -> tuple[dict, float, float]:
    """Run a part in a process of its own; what it printed, its seconds on the wall, and those on the processor."""
    started, before = time.perf_counter(), processor_seconds()
    done = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    return json.loads(done.stdout), time.perf_counter() - started, processor_seconds() - before


def processor_seconds() -> float:
    """Seconds that all processes of ours had the processor."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def duplicates(folder: Path) -> Verdicts:
    """(a) Five ways to drop near-duplicates."""
    filters.make(folder)
    found = {way: run("tests.benchmarks.filters", way, folder, threads=1)[0] for way in filters.WAYS}
    right = set(found["definition"]["kept"])
    print(f"\nnear-duplicates among {filters.ROWS:,} x {filters.WIDTH:,}, threshold {filters.THRESHOLD}, one thread")
    print(f"{'':<38}{'cpu s':>9}{'extra MiB':>11}{'kept':>7}{'wrongly kept':>14}{'wrongly dropped':>17}")
    for way, one in found.items():
        kept = set(one["kept"])
        print(f"{NAMES[way]:<38}{one['cpu']:>9.2f}{one['memory'] / 2**20:>11.0f}{len(kept):>7}"
              f"{len(kept - right):>14}{len(right - kept):>17}")  # fmt: skip
    ratio = found["definition"]["cpu"] / found["ours"]["cpu"]
    square = 8 * filters.ROWS**2
    return [
        (found["ours"]["kept"] == found["definition"]["kept"], "the same rows in the same order as by the definition"),
        (ratio >= 25, f"{ratio:.0f} times as fast as the definition (at least 25)"),
        (
            found["ours"]["memory"] < square / 4,
            f"{found['ours']['memory'] / 2**20:.0f} MiB beside the vectors (n x n doubles are {square / 2**20:.0f})",
        ),
    ]


def at_scale(folder: Path) -> Verdicts:
    """(b) A million rows."""
    million.make(folder)
    found = run("tests.benchmarks.million", folder)[0]
    (folder / "rows.f32").unlink()
    print(f"\n{found['rows']:,} x {million.WIDTH} from disk, {million.SHOTS} shots, two threads")
    print(f"{found['wall']:.1f} s, peak {found['memory'] / GIB:.2f} GiB, {found['near']:,} near-duplicates dropped")
    return [
        (found["taken"] == million.TAKEN, f"{million.TAKEN:,} rows are taken"),
        (found["wall"] <= 60, f"a million rows in {found['wall']:.1f} s (at most 60)"),
        (found["memory"] <= 3 * GIB, f"a million rows in {found['memory'] / GIB:.2f} GiB (at most 3)"),
    ]


def real_pool(folder: Path) -> Verdicts:
    """(c) The real pool, end to end."""
    verdicts: Verdicts = []
    for number, task in enumerate(pool.EXPECTED):
        first, cold, _ = run("tests.benchmarks.pool", "end-to-end", task, folder, threads=1)
        again, warm, processor = run("tests.benchmarks.pool", "end-to-end", task, folder, threads=1)
        label = f"cold {cold:.0f} s" if number == 0 else f"rows in the cache, shots not: {cold:.0f} s"
        print(f"\n{task}: {label}; warm {warm:.1f} s, of which {processor:.1f} on the processor; "
              f"load average {os.getloadavg()[0]:.1f}; {again['reasons']}")  # fmt: skip
        print("  ", ", ".join(f"{n} of {source}" for source, n in list(again["chosen"].items())[:5]))
        verdicts += [
            (first == again, f"{task}: the same selection cold and warm"),
            (warm <= 10, f"{task}: warm end to end in {warm:.1f} s (at most 10)"),
            (pool.as_expected(task, again["chosen"], again["read"]), f"{task}: the sets a person would expect lead"),
        ]
        if number == 0:
            verdicts.append((cold <= 90, f"{task}: cold end to end in {cold:.0f} s (at most 90)"))
        draws(task, folder)
    return verdicts


def draws(task: str, folder: Path) -> None:
    """Print which sets lead for several draws of the shots: the share of a set's rows that were chosen."""
    for one in run("tests.benchmarks.pool", "leading", task, folder, threads=1)[0]:
        shares = ", ".join(f"{source} {share:.0%}" for source, share in pool.leaders(one["chosen"], one["read"]))
        verdict = "as expected" if pool.as_expected(task, one["chosen"], one["read"]) else "NOT as expected"
        print(f"   draw {one['draw']}, {one['mode']:<12}{verdict:<17}{shares}")


def contamination() -> Verdicts:
    """(d) Planted contamination; its report marks every bar itself."""
    lines = planted_contamination()
    print("\nplanted contamination", *lines, sep="\n")
    return [(line.startswith("pass"), line[4:].strip()) for line in lines if line.startswith(("pass", "FAIL"))]


def main() -> int:
    """Measure, print, and return 1 if a bar is missed."""
    started = time.perf_counter()
    print(f"load average {os.getloadavg()[0]:.1f} at the start")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        verdicts = duplicates(folder) + at_scale(folder)
        if pool.SHARED.is_dir():
            verdicts += real_pool(folder / "cache") + contamination()
        else:
            print("\nthe real pool is not beside this checkout")
    print("", *(f"{'pass' if passed else 'FAIL'}  {text}" for passed, text in verdicts), sep="\n")
    print(f"\n{time.perf_counter() - started:.0f} s in all")
    return 0 if all(passed for passed, _ in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
