"""Run a build for the command line: connect to the Hub, show progress, print what came out."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rocket_hub.cli.options import adjusted, find_recipe
from rocket_hub.cli.screen import Screen
from rocket_hub.errors import InputError
from rocket_hub.kshot import load_kshot
from rocket_hub.localhub import connect
from rocket_hub.recipe import TRAINED_CONTROLS, controls_of

if TYPE_CHECKING:
    from rocket_hub.recipe import Recipe

DEMO_TARGET = "local/{task}-routed"


def run(given: dict[str, Any], until: str) -> None:
    """Build up to a stage and print its table."""
    if given["kshot"] is None:
        raise InputError("give --kshot FILE: the verified examples of the task")
    with connect(given["hub"]) as connection:
        recipe = adjusted(find_recipe(given["task"], given["recipe"], dict(connection.recipes)), given)
        name = Path(recipe.task).stem  # of a task of one's own it is a file
        if connection.recipes and recipe.push.repo_id is None:
            recipe = recipe.updated("push", repo_id=DEMO_TARGET.format(task=name))
        out = given["out"] or Path("runs") / f"{name}-{connection.name}".replace(":", "-")
        load_kshot(given["kshot"])  # a broken file is told at once, before seconds of imports
        quiet_libraries()
        screen = Screen()
        screen.say(_cost(recipe, given["kshot"], out, connection.name, until))
        from rocket_hub.pipeline import build  # the Hub libraries read HF_ENDPOINT when they are imported: only now

        with screen:
            built = build(recipe, given["kshot"], out, hub_name=connection.name, until=until,
                          locked=given["locked"], reporter=screen)  # fmt: skip
        screen.show(built, until)


def _cost(recipe: Recipe, kshot: Path, out: Path, hub: str, until: str) -> str:
    """Say what a build will do before it does it."""
    points = len(recipe.train.learning_rate) * len(recipe.merge.gate_start)
    trainings = 1 + (2 * points if points > 1 else 0)
    if until >= "6":
        controls = set(controls_of(recipe)).intersection(TRAINED_CONTROLS)
        trainings += sum(1 if name in recipe.evaluate.settings else trainings for name in controls)
    return (
        f"[bold]{recipe.task}[/] on {recipe.base}, Hub {hub}, examples {kshot}, run folder {out}\n"
        f"at most {recipe.discover.max_adapters} adapters scored; {trainings} trainings of {recipe.train.max_steps} "
        f"steps x {recipe.train.batch_size} rows"
    )


def quiet_libraries() -> None:
    """Keep the libraries' own progress bars and notes out of ours; what the user set himself stays."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning)  # what the libraries tell each other
