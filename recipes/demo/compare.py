"""The full comparison on the demo Hub: `python recipes/demo/compare.py` (about half an hour on two cores; resumable).

Settings are chosen once, for every trained method from the same grid, by cross-fitting on a draw of the K-shot that
is used for nothing else. Then the build and all its controls run on three other draws and are measured on the same
1,000 test problems. The table goes into `recipes/demo/README.md`, the numbers behind it into `results.json`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from rocket_hub.localhub import connect
from rocket_hub.options import Setting
from rocket_hub.recipe import Recipe
from rocket_hub.runs import Silent, digest, write_json, write_text

HERE = Path(__file__).resolve().parent
WORK = HERE.parents[1] / "runs" / "compare"
LEARNING_RATES, WEIGHTS = (3e-3, 1e-2), (1.0, 0.5, 0.25)
DRAWS, TUNING, SHOTS = (1, 2, 3), 0, 50
WEIGHTED = ("routed", "stack_trained")
TRAINED = ("routed", "stack_trained", "fresh_lora", "best_single_trained")
BEGIN, END = "<!-- table: written by compare.py -->", "<!-- end of the table -->"
STARTED = time.monotonic()


def report(text: str) -> None:
    """Say what happens, with the minute."""
    print(f"{(time.monotonic() - STARTED) / 60:5.1f} min  {text}", flush=True)


def one_core() -> None:
    """Keep a worker to one core, so that two of them do not fight."""
    import warnings

    import torch

    warnings.filterwarnings("ignore", category=FutureWarning)  # what the libraries tell each other
    torch.set_num_threads(1)


def draw_kshot(work: Path, draw: int) -> Path:
    """Draw K examples from the train split of the evaluation set."""
    path = work / f"kshot-{draw}.jsonl"
    if not path.is_file():
        from datasets import load_dataset

        rows = load_dataset("rocket-demo/word-problems", split="train")
        chosen = Random(100 + draw).sample(range(len(rows)), SHOTS)
        write_text(path, "".join(json.dumps(rows[i]) + "\n" for i in chosen))
    return path


def prepare(work: Path, recipe: Recipe, draw: int) -> int:
    """Discover, select and merge for one draw."""
    from rocket_hub.pipeline import build

    one_core()
    build(recipe, draw_kshot(work, draw), work / f"draw-{draw}", hub_name="demo", until="4-merge")
    return draw


def tune(work: Path, recipe: Recipe, name: str, only: int | None) -> tuple[str, dict[str, Any]]:
    """Choose the settings of one method on the tuning draw, or just try one point of its grid."""
    from rocket_hub.crossfit import Choice, choose, held_out
    from rocket_hub.pipeline.build import STAGES
    from rocket_hub.pipeline.context import open_context
    from rocket_hub.pipeline.make import cross_fit, methods, training_rows
    from rocket_hub.serialization import to_dict

    one_core()
    context = open_context(recipe, draw_kshot(work, TUNING), work / f"draw-{TUNING}", "demo", Silent())
    results: dict[str, Any] = {}
    for stage in ("1-discover", "2-select-experts", "3-select-instructions", "4-merge"):
        results[stage] = STAGES[stage](context, stage, results)
    made_of = digest([recipe.to_yaml(), results["2-select-experts"], results["3-select-instructions"]["selected"]])
    folds = work / "tuning" / made_of / name  # every finished fold is kept there
    fit = cross_fit(context, methods(context, results)[name], folds)
    points, rows = points_of(name), training_rows(context, results)
    if only is not None:
        held_out(only, points[only], context.examples, rows, fit)
        choice = Choice(points[only])
    else:
        choice = choose(points, context.examples, rows, fit)
    return name, {**to_dict(choice), "points": [to_dict(point) for point in points]}


def points_of(name: str) -> tuple[Setting, ...]:
    """List the grid of a method."""
    from rocket_hub.crossfit import grid

    return grid(LEARNING_RATES, WEIGHTS, name in WEIGHTED)


def measure(work: Path, recipe: Recipe, draw: int) -> tuple[int, list[dict[str, Any]]]:
    """Train and measure the build and its controls on one draw."""
    from rocket_hub.pipeline import build

    one_core()
    built = build(recipe, draw_kshot(work, draw), work / f"draw-{draw}", hub_name="demo", until="6-evaluate")
    return draw, built.results["6-evaluate"]["evaluations"]


def settled(recipe: Recipe, tuned: dict[str, dict[str, Any]]) -> Recipe:
    """Put the chosen settings into the recipe."""
    chosen = {name: Setting(**choice["setting"]) for name, choice in tuned.items()}
    routed = chosen.pop("routed")
    recipe = recipe.updated("train", learning_rate=(routed.learning_rate,))
    recipe = recipe.updated("merge", gate_start=(routed.weight,))
    return recipe.updated("evaluate", settings=chosen, controls=("all",))


def table(measured: dict[int, list[dict[str, Any]]], tuned: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Average over the draws; differences are paired over the same problems."""
    by_method: dict[str, list[np.ndarray]] = {}
    for draw in sorted(measured):
        for entry in measured[draw]:
            by_method.setdefault(entry["method"], []).append(np.array(entry["correct"], float))
    rows = []
    for method, draws in by_method.items():
        accuracies = [correct.mean() for correct in draws]
        gaps = [ours - theirs for ours, theirs in zip(by_method["routed"], draws, strict=True)]
        rows.append({
            "method": method,
            "accuracy": float(np.mean(accuracies)),
            "standard_error": standard_error(draws),
            "difference": float(np.mean([gap.mean() for gap in gaps])),
            "difference_error": standard_error(gaps),
            "draws": [float(accuracy) for accuracy in accuracies],
            "setting": tuned[method]["setting"] if method in tuned else None,
        })  # fmt: skip
    return rows


def standard_error(draws: list[np.ndarray]) -> float:
    """Combine the error over problems (the same in every draw) with the error over draws."""
    over_problems = np.mean(draws, axis=0).std(ddof=1) / math.sqrt(len(draws[0]))
    over_draws = np.std([values.mean() for values in draws], ddof=1) / math.sqrt(len(draws))
    return float(math.hypot(over_problems, over_draws))


def markdown(rows: list[dict[str, Any]]) -> str:
    """Write the table; what is not significant at 5 % says so."""
    lines = ["| method | accuracy | routed minus this | settings | draws |", "|---|---|---|---|---|"]
    for row in rows:
        gap, error = row["difference"], row["difference_error"]
        mark = "" if abs(gap) > 1.96 * error else ", not significant"
        against = "" if row["method"] == "routed" else f"{gap:+.1%} ± {error:.1%}{mark}"
        setting = row["setting"]
        settings = f"lr {setting['learning_rate']:g}, weight {setting['weight']:g}" if setting else ""
        each = ", ".join(f"{accuracy:.1%}" for accuracy in row["draws"])
        accuracy = f"{row['accuracy']:.1%} ± {row['standard_error']:.1%}"
        lines.append(f"| {row['method']} | {accuracy} | {against} | {settings} | {each} |")
    return "\n".join(lines)


def main() -> None:
    """Tune, measure, write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=WORK, help="what is finished so far")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    os.environ.update(HF_HUB_DISABLE_PROGRESS_BARS="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1",
                      TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false")  # fmt: skip
    with connect("demo") as connection, ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
        recipe = Recipe.from_yaml(connection.recipes["gsm8k"], "the demo Hub's recipe")
        recipe = replace(recipe.updated("evaluate", controls=(), settings={}), seed=0)
        work = options.work
        for draw in pool.map(prepare, *zip(*((work, recipe, draw) for draw in (TUNING, *DRAWS)), strict=True)):
            report(f"draw {draw}: experts and rows chosen")
        cells = [(work, recipe, name, only) for name in TRAINED for only in range(len(points_of(name)))]
        for cell, _ in zip(cells, pool.map(tune, *zip(*cells, strict=True)), strict=True):
            report(f"{cell[2]}: point {cell[3] + 1} of {len(points_of(cell[2]))} tried")
        tuned = {}
        for name, choice in pool.map(tune, *zip(*((work, recipe, name, None) for name in TRAINED), strict=True)):
            tuned[name] = choice
            report(f"{name}: {choice['setting']}")
        final, measured = settled(recipe, tuned), {}
        for draw, evaluations in pool.map(measure, *zip(*((work, final, draw) for draw in DRAWS), strict=True)):
            measured[draw] = evaluations
            report(f"draw {draw}: " + ", ".join(f"{e['method']} {e['accuracy']:.1%}" for e in evaluations))
    rows = table(measured, tuned)
    write_json(HERE / "results.json", {"rows": rows, "tuning": tuned})
    page = (HERE / "README.md").read_text(encoding="utf-8")
    before, after = page.partition(BEGIN)[0], page.partition(END)[2]
    write_text(HERE / "README.md", f"{before}{BEGIN}\n{markdown(rows)}\n{END}{after}")
    report("table written to recipes/demo/README.md")


if __name__ == "__main__":
    main()
