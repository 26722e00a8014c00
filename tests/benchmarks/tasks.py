"""Score the gold answers of all the real benchmark rows: `python -m tests.benchmarks.tasks [TASK ...]`.

They go through prompt, extraction and metric; the exit code is 1 if any row is not right.
"""

import sys
import time
from pathlib import Path

from rocket_hub.sandbox import check_isolation
from rocket_hub.tasks import get_task, score
from tests.conftest import SHARED
from tests.tasks.native import SPLITS, rows


def measure(shared_data: Path, name: str, every: int = 1) -> tuple[int, list[str], float]:
    """Score the gold completions of a task: (rows, ids that did not pass, seconds)."""
    started = time.perf_counter()
    task = get_task(name)
    chosen = list(rows(shared_data, task))[every // 2 :: every]
    problems = task.examples([row for _, row in chosen], name)
    judged = score(task, [problem.completion for problem in problems], problems, allow_code_execution=True)
    failed = [row_id for (row_id, _), right in zip(chosen, judged["correct"], strict=True) if not right]
    return len(chosen), failed, time.perf_counter() - started


def main() -> int:
    print(f"programs run under: {', '.join(check_isolation())}")
    print(f"{'task':<16}{'rows':>8}{'right':>8}{'seconds':>10}  not right")
    failures = 0
    for name in sys.argv[1:] or SPLITS:
        total, failed, seconds = measure(SHARED, name)
        failures += len(failed)
        print(f"{name:<16}{total:>8}{total - len(failed):>8}{seconds:>10.1f}  {', '.join(failed) or 'none'}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
