"""Work of a worker process: prepare a pair, try a point of a grid, measure a cell."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import threading
import time
import warnings
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from cells import SHOTS, Cell
from loss import losses
from making import is_useless, problems_of, with_steps
from results_store import packed
from retention import accuracies, accuracies_alone, kept_share
from shots import drawn_rows

from rocket_hub.recipe import Recipe
from rocket_hub.records import ExpertSelection, Pinned, Setting
from rocket_hub.results import Chosen
from rocket_hub.runs import Silent, digest, write_text

QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "PYTHONWARNINGS": "ignore::FutureWarning",
}
"""Environment of the workers."""
STAGES = ("1-discover", "2-select-experts", "3-select-instructions", "4-merge")
DIVERGED = 1e9  # in place of a likelihood


@dataclass(frozen=True)
class World:
    """The conditions under which the cells of a task are measured.

    Attributes:
        name: Names its Hub's content, the recipe, the problems and the steps; cells of two worlds are not compared.
        recipe: The Hub's recipe for the task, as YAML.
        work: Folder of the run folders.
        hub: Name of the Hub.
        problems: At most this many problems of the test split.
        steps: Steps of every training; None takes the recipe's.
    """

    name: str
    recipe: str
    work: Path
    hub: str
    problems: int = 1000
    steps: int | None = None


def start_worker() -> None:
    """Limit a worker to one core, silence warnings, and end it when its parent ends."""
    import torch

    def follow() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    warnings.filterwarnings("ignore", category=FutureWarning)  # what the libraries tell each other
    torch.set_num_threads(1)


def device() -> str:
    """Return the name of the GPU, or `cpu`."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"


def recipe_of(world: World, cell: Cell) -> Recipe:
    """Return the Hub's recipe with a cell's options and without chosen settings."""
    recipe = replace(Recipe.from_yaml(world.recipe, f"the Hub's recipe for {cell.task}"), seed=cell.draw)
    recipe = recipe.updated("evaluate", controls=(), settings={}, max_rows=world.problems,
                            allow_code_execution=cell.task == "mbpp" or None)  # fmt: skip
    recipe = recipe.updated("train", max_steps=world.steps, learning_rate=(1e-2,))
    recipe = recipe.updated("merge", gate_start=(0.5,))
    asked = {name: (value,) if name == "merge.gate_start" else value for name, value in cell.options if "." in name}
    wanted = (asked.get(f"experts.{name}", getattr(recipe.experts, name)) for name in ("shortlist", "num_experts"))
    asked["experts.shortlist"] = max(wanted)
    return recipe.changed((name, value, name) for name, value in asked.items())


def draw_kshot(world: World, cell: Cell) -> Path:
    """Draw the examples of a draw from the train split of the task's evaluation set, in the benchmark's own columns."""
    shots = dict(cell.options).get("shots", SHOTS)
    path = world.work / "kshots" / f"{cell.task}-{cell.draw}-{shots}.jsonl"
    if not path.is_file():
        from rocket_hub.tasks import get_task

        options = recipe_of(world, cell).evaluate
        task = get_task(cell.task).at(options.dataset, options.config)
        drawn = with_steps(cell.task, drawn_rows(task, options.split or task.split, cell.draw)[:shots])
        task.examples(drawn, f"{task.dataset}, train")  # it refuses what the task cannot read
        write_text(path, "".join(json.dumps(row) + "\n" for row in drawn))
    return path


def prepare(world: World, pair: Cell) -> dict[str, Any]:
    """Discover, select and merge for one pair; returns the verdict and the chosen experts."""
    from rocket_hub.pipeline import build

    start_from(world, pair)
    built = build(recipe_of(world, pair), draw_kshot(world, pair), world.work / pair.folder, hub_name=world.hub,
                  until=STAGES[-1])  # fmt: skip
    chosen = built.experts
    return {"verdict": chosen.verdict, "experts": [name.split("/")[-1] for name in chosen.selected]}


def start_from(world: World, pair: Cell) -> None:
    """Copy the first stages of a pair to its variant, which reruns only those that differ."""
    import shutil

    home, plain = world.work / pair.folder, world.work / Cell(pair.task, pair.draw, "").folder
    if not home.exists() and (plain / STAGES[2] / "result.json").is_file():
        partial = home.with_name(f".{home.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(plain, partial, ignore=shutil.ignore_patterns("cells", "tuning", *STAGES[3:]))
        partial.rename(home)


@lru_cache(maxsize=2)
def opened(world: World, pair: Cell) -> tuple[Any, Chosen]:
    """Open a prepared pair: its context, with the base on the accelerator, and the results of its stages."""
    import torch

    from rocket_hub.pipeline.build import run_stages
    from rocket_hub.pipeline.context import open_context

    kshot, folder = draw_kshot(world, pair), world.work / pair.folder
    context = open_context(recipe_of(world, pair), kshot, folder, world.hub, Silent())
    done = run_stages(context, STAGES[-1])
    context.base[0].to("cuda" if torch.cuda.is_available() else "cpu")
    return context, Chosen(done.found, done.generated, done.experts, done.rows)


def changed(world: World, cell: Cell) -> tuple[Any, Chosen]:
    """Open a cell's pair, with the cell's recipe and, where it asks for them, useless experts in the group."""
    context, chosen = opened(world, cell.pair)
    context = copy.copy(context)  # with the base that is loaded
    context.recipe = recipe_of(world, cell)
    useless = dict(cell.options).get("useless")
    if useless is not None:
        chosen = replace(chosen, experts=forced(chosen.experts, useless))
    return context, chosen


def forced(selection: ExpertSelection, useless: int) -> ExpertSelection:
    """Put the four best experts that were made to help and the best useless ones into the group."""
    ranked = [score.repo_id for score in selection.scores]
    good = [name for name in ranked if not is_useless(name)][:4]
    bad = [name for name in ranked if is_useless(name)][:useless]
    if len(bad) < useless or not good:
        raise ValueError(f"the bank has {len(good)} good and {len(bad)} useless experts for this task")
    return replace(selection, selected=(*good, *bad), group=(*good, *bad))


def folder_of(context: Any, chosen: Chosen, cell: Cell, setting: Setting) -> Path:
    """Return the folder of a cell's training, which cells with the same training and ingredients share."""
    from rocket_hub.pipeline.merge import commits_of

    options = tuple(each for each in cell.options if each[0] not in ("retention", "loss"))
    made_of = digest([context.recipe.to_yaml(), context.pinned.revision, chosen.experts.selected, commits_of(chosen),
                      chosen.rows.selected, setting])  # fmt: skip
    name = Cell(cell.task, cell.draw, cell.method, options).key.replace("/", "-")
    return context.run.path / "cells" / f"{name}-{made_of}"


def tune(world: World, cell: Cell, _: None) -> dict[str, Any]:
    """Try one point of a method's grid by cross-fitting: no shot judges what it trained."""
    from rocket_hub.pipeline.merge import methods, weighed
    from rocket_hub.pipeline.train import cross_fit, training_rows
    from rocket_hub.tuning import held_out

    context, chosen = opened(world, cell.pair)
    method = methods(context, chosen)[cell.method]
    point = weighed(method, Setting(**dict(cell.options)))
    fit = cross_fit(context, method, folder_of(context, chosen, cell, point))
    scores = held_out(0, point, context.examples, training_rows(context, chosen, method.rows), fit)
    mean = float(scores.mean()) if np.isfinite(scores).all() else DIVERGED
    return {"nll": round(mean, 6), "standard_error": round(float(scores.std(ddof=1) / len(scores) ** 0.5), 6)}


def measure(world: World, cell: Cell, setting: dict[str, float] | None) -> dict[str, Any]:
    """Train a cell's method at its setting, and measure it."""
    from rocket_hub.pipeline.merge import methods, weighed
    from rocket_hub.pipeline.train import method_model

    context, chosen = changed(world, cell)
    method, options, point, asked = methods(context, chosen)[cell.method], dict(cell.options), Setting(0.0), None
    if setting:
        weight = options.get("merge.gate_start", setting["weight"])
        point = weighed(method, Setting(**{**setting, "weight": weight}))
    if "retention" in options:
        asked = problems_of(chosen.group, options["retention"])
    folder = folder_of(context, chosen, cell, point)
    with method_model(context, chosen, method, point, folder) as (model, details):
        if asked is not None:
            found = accuracies(model, context, asked)
        elif "loss" in options:
            found = losses(model, context, chosen.found.evaluation, options["loss"])
        else:
            found = on_test(model, context, chosen.found.evaluation)
    if asked is not None:
        found = kept_share(accuracies_alone(context, chosen, asked), found)
    return {**found, "setting": vars(point) if setting else None, "verdict": chosen.experts.verdict,
            "experts": len(chosen.experts.selected),
            "train_seconds": round(details.get("train_seconds", 0.0), 1)}  # fmt: skip


def on_test(model: Any, context: Any, evaluation: Pinned) -> dict[str, Any]:
    """Measure a model on the test split."""
    from rocket_hub.evaluation import evaluate
    from rocket_hub.pipeline.context import evaluation_set

    problems = evaluation_set(context, evaluation)
    score = evaluate(model, context.base[1], context.measured, problems, context.recipe.evaluate)
    return {"accuracy": score.accuracy, "problems": len(problems), "correct": packed(score.correct)}


def job(world: World, cell: Cell, setting: dict[str, float] | None) -> dict[str, Any]:
    """Run one cell; an error is returned as its result."""
    started = time.monotonic()
    try:
        result = prepare(world, cell) if not cell.method else (tune if cell.point else measure)(world, cell, setting)
    except Exception as error:  # a cell must not stop the others; what went wrong is kept and shown
        result = {"error": f"{type(error).__name__}: {error}"[:300]}
    return {**result, "seconds": round(time.monotonic() - started, 1), "device": device(), "world": world.name}
