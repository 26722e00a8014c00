"""Write the page: `python recipes/paper_table/tables.py` turns the finished cells into the tables of `README.md`."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bootstrap import LEVEL, averaged, in_words, p_value, resampled
from cells import DRAWS, GRIDS, TABLES, TASKS, TUNING, TUNING_TASK, Cell, Table, Variant
from choosing import EITHER_FORM, ON_THE_OTHER_HALF, PUBLISHES, Draws, Scores, either_form, published
from curves import draw_curves
from results_store import RESULTS, ResultsStore, unpacked

from rocket_hub.runs import write_text

HERE = Path(__file__).resolve().parent
BEGIN, END = "<!-- tables: written by tables.py -->", "<!-- end of the tables -->"
NOT_RUN = "not run"
Write = Callable[..., str]  # `percent` or `nats`


def draws_of(store: ResultsStore, worlds: Mapping[str, str], task: str, variant: Variant) -> Draws:
    """Collect a variant's measurements on a task: one 0 or 1 or one loss a problem, or one share a draw."""
    found = {}
    for draw in DRAWS:
        result = store.get(Cell(task, draw, variant.method, variant.options), worlds.get(task, ""))
        if result and "losses" in result:
            found[draw] = np.array(result["losses"])
        elif result and "accuracy" in result:
            right = unpacked(result["correct"], result["problems"]) if "correct" in result else [result["accuracy"]]
            found[draw] = np.array(right, float)
    return found


def worlds_of(store: ResultsStore) -> dict[str, str]:
    """Return the world of each task's newest cell: of the core table, or else of losses and settings."""
    marks = ("/loss=", "/learning_rate=")
    return store.worlds() or {
        key.partition("/")[0]: found["world"]
        for key, found in store.results.items()
        if any(mark in key for mark in marks)
    }


def scores_of(store: ResultsStore, table: Table) -> Scores:
    """Collect all measurements of a table."""
    worlds = worlds_of(store)
    return {v.label: {task: draws_of(store, worlds, task, v) for task in table.tasks} for v in table.variants}


def stacked(draws: Draws, wanted: Any = None) -> np.ndarray:
    """Stack draws, all or the wanted ones: [draws, problems]."""
    return np.array([draws[draw] for draw in sorted(draws if wanted is None else wanted)])


def percent(value: float, error: float, draws: int, signed: bool = False) -> str:
    """Write an accuracy or a difference in per cent; fewer draws than there could be are named."""
    few = f" ({draws})" if draws < len(DRAWS) else ""
    return f"{100 * value:{'+' if signed else ''}.1f} ± {100 * error:.1f}{few}"


def nats(value: float, error: float, draws: int, signed: bool = False) -> str:
    """Write a loss or a difference in nats per token, as `percent` does."""
    few = f" ({draws})" if draws < len(DRAWS) else ""
    return f"{value:{'+' if signed else ''}.3f} ± {error:.3f}{few}"


def entry(draws: Draws, seed: int, other: Draws | None = None, write: Write = percent) -> str:
    """Write one entry: mean ± standard error, marked where it does not differ from another row's."""
    if not draws:
        return NOT_RUN
    text = write(stacked(draws).mean(), float(resampled(stacked(draws), seed).std(ddof=1)), len(draws))
    shared = set(draws) & set(other or {})
    if other is None or other is draws or not shared:
        return text
    gap = stacked(draws, shared) - stacked(other, shared)
    return text + (" ≈" if p_value(resampled(gap, seed)) >= LEVEL else "")


def mean_entry(by_task: Mapping[str, Draws], write: Write = percent) -> str:
    """Write the mean over the tasks; only where every task was measured."""
    if not all(by_task.values()):
        return ""
    mean, error, _ = averaged([stacked(draws) for draws in by_task.values()])
    return write(mean, error, min(map(len, by_task.values())))


def score_table(
    scores: Scores, reference: str, devices: Mapping[str, str], tasks: Sequence[str] = TASKS, write: Write = percent
) -> list[str]:
    """Write rows of accuracies or losses: methods x tasks."""
    lines = [f"| | {' | '.join(tasks)} | mean | on |", "|---" * (len(tasks) + 3) + "|"]
    for label, by_task in scores.items():
        other = scores.get(reference, {})
        each = [entry(by_task[task], seed, other.get(task), write) for seed, task in enumerate(tasks)]
        lines.append(f"| {label} | {' | '.join(each)} | {mean_entry(by_task, write)} | {devices.get(label, '')} |")
    return lines


def difference_table(scores: Scores, ours: str, tasks: Sequence[str] = TASKS, write: Write = percent) -> list[str]:
    """Write the differences of one row to all others, with p values."""
    lines = [f"| {ours} minus | {' | '.join(tasks)} | above / below |", "|---" * (len(tasks) + 2) + "|"]
    for label, by_task in scores.items():
        if label in {ours, ON_THE_OTHER_HALF, EITHER_FORM}:
            continue
        each, above, below = [], 0, 0
        for seed, task in enumerate(tasks):
            text, sign = difference(scores[ours][task], by_task[task], seed, write)
            each.append(text)
            above, below = above + (sign > 0), below + (sign < 0)
        lines.append(f"| {label} | {' | '.join(each)} | {above} / {below} |")
    return lines


def difference(ours: Draws, theirs: Draws, seed: int, write: Write = percent) -> tuple[str, int]:
    """Write a difference with its p value; also its sign, 0 where it is not significant."""
    if not (shared := set(ours) & set(theirs)):
        return NOT_RUN, 0
    gap = stacked(ours, shared) - stacked(theirs, shared)
    means = resampled(gap, seed)
    p = p_value(means)
    text = write(gap.mean(), float(means.std(ddof=1)), len(shared), signed=True)
    return f"{text}, {in_words(p)}", 0 if p >= LEVEL else 1 if gap.mean() > 0 else -1


def settings_table(store: ResultsStore, methods: Collection[str] = tuple(GRIDS)) -> list[str]:
    """Write the settings that were chosen."""
    lines = ["| | learning rate | weight |", "|---|---|---|"]
    for method in (each for each in GRIDS if each in methods):
        try:
            chosen = store.setting(Cell(TUNING_TASK, TUNING, method), worlds_of(store).get(TUNING_TASK, "")) or {}
            lines.append(f"| {method} | {chosen['learning_rate']:g} | {chosen['weight']:g} |")
        except ValueError:
            lines.append(f"| {method} | {NOT_RUN} | |")
    return lines


def section(store: ResultsStore, table: Table) -> list[str]:
    """Write one table with its heading."""
    scores, worlds = scores_of(store, table), worlds_of(store)
    devices = dict[str, str]()
    for variant in table.variants:
        cells = [Cell(task, draw, variant.method, variant.options) for task in table.tasks for draw in DRAWS]
        found = [result for cell in cells if (result := store.get(cell, worlds.get(cell.task, "")))]
        devices[variant.label] = ", ".join(sorted({result["device"] for result in found}))
    pairs = {(task, draw) for by_task in scores.values() for task, draws in by_task.items() for draw in draws}
    lines = [f"### {table.title}", "", table.text, f"Pairs of task and draw with a measurement: {len(pairs)} of "
             f"{len(table.tasks) * len(DRAWS)}.", ""]  # fmt: skip
    if table.name == "real":
        lines += [*score_table(scores, table.reference, devices, table.tasks, nats), ""]
        lines += [*difference_table(scores, table.reference, table.tasks, nats), ""]
        return [*lines, *settings_table(store, {variant.method for variant in table.variants}), ""]
    if table.name == "core":
        scores = {**published(scores), **either_form(scores), **scores}
    lines += [*score_table(scores, table.reference, devices), ""]
    if table.name == "core":
        lines += [line for ours in (PUBLISHES, "routed", EITHER_FORM) for line in (*difference_table(scores, ours), "")]
    if table.name == "rows":
        lines += [*against_stack(scores, table), ""]
    return lines


def against_stack(scores: Scores, table: Table) -> list[str]:
    """Write what the routed adapter adds to the stack with each number of rows."""
    lines = [f"| {EITHER_FORM}, minus the stack | {' | '.join(TASKS)} |", "|---" * (len(TASKS) + 1) + "|"]
    for n in sorted({variant.at for variant in table.variants if variant.at}):
        (ours,) = either_form(scores, f", n = {n}").values()
        stack = scores[f"stack_trained, n = {n}"]
        each = [difference(ours[task], stack[task], seed)[0] for seed, task in enumerate(TASKS)]
        lines.append(f"| n = {n} | {' | '.join(each)} |")
    return lines


def failures(store: ResultsStore) -> list[str]:
    """Name what failed, and why."""
    worlds = worlds_of(store)
    failed = {key: found["error"] for key, found in store.results.items()
              if "error" in found and found["world"] == worlds.get(key.partition("/")[0])}  # fmt: skip
    counts = Counter(failed.values())
    return [f"- {count} cells: {error}" for error, count in counts.most_common()]


def page(store: ResultsStore, real: ResultsStore) -> str:
    """Write everything between the markers, of the demo Hub's cells and of the real bank's."""
    lines = [line for table in TABLES.values() for line in section(real if table.name == "real" else store, table)]
    failed = [*failures(store), *failures(real)] or ["None."]
    lines += ["### Settings", "", *settings_table(store), "", "### Cells that failed", "", *failed, ""]
    return "\n".join(lines)


def main() -> None:
    """Write the page and the curves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the finished cells")
    parser.add_argument("--page", type=Path, default=HERE / "README.md")
    options = parser.parse_args()
    store, real = ResultsStore(options.results), ResultsStore(options.results / "real")
    before, _, rest = options.page.read_text(encoding="utf-8").partition(BEGIN)
    pictures = "".join(
        f"![{TABLES[name].title}]({name}.svg)\n\n"
        for name in ("rows", "experts")
        if draw_curves(scores_of(store, TABLES[name]), TABLES[name], options.page.parent / f"{name}.svg")
    )
    write_text(options.page, f"{before}{BEGIN}\n{page(store, real)}\n{pictures}{END}{rest.partition(END)[2]}")
    print(f"{options.page}: {len(store.results) + len(real.results)} cells")


if __name__ == "__main__":
    main()
