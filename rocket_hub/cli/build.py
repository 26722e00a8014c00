from pathlib import Path
from typing import Any

import click

from rocket_hub.cli.options import COMPUTE, adjusted, connected, find_recipe, shared
from rocket_hub.cli.screen import Screen
from rocket_hub.errors import InputError
from rocket_hub.recipe import TRAINED_CONTROLS, Recipe, controls_of
from rocket_hub.rows.kshot import load_kshot

DEMO_TARGET = "local/{task}-routed"
OPTIONS = (
    "hub", "task", "recipe", "kshot", "base", "out", "seed", "allow_licence", "documents", "teacher", "max_rows",
    "lr_grid", "max_steps", "eval_rows", "controls", "allow_code_execution", "push_to", "private", "publish", "locked",
    *COMPUTE, "option",
)  # fmt: skip


def run(given: dict[str, Any], until: str) -> None:
    """Build up to a stage and print its table."""
    if given["kshot"] is None:
        raise InputError("give --kshot FILE: the verified examples of the task")
    with connected(given["hub"]) as connection:
        recipe = adjusted(find_recipe(given["task"], given["recipe"], connection.recipes), given)
        name = Path(recipe.task).stem  # a custom task is a file
        if connection.recipes and recipe.push.repo_id is None:
            recipe = recipe.updated("push", repo_id=DEMO_TARGET.format(task=name))
        out = given["out"] or Path("runs") / f"{name}-{connection.name}".replace(":", "-")
        load_kshot(given["kshot"])  # a broken file is an error at once, before seconds of imports
        screen = Screen()
        screen.say(_cost(recipe, given["kshot"], out, connection.name, until))
        from rocket_hub.pipeline import build

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


def _command(name: str, until: str, text: str) -> click.Command:
    """Make the command that runs the pipeline up to a stage."""

    @click.command(name, help=text)
    @shared(*OPTIONS)
    def command(**given: Any) -> None:
        run(given, until)

    return command


def _stage(name: str, until: str, text: str) -> click.Command:
    return _command(name, until, f"{text}\n\nEarlier stages run first where they are not done yet.")


build_command = _command(
    "build",
    "7-push",
    "Build an adapter for a task from a handful of verified examples.\n\nWhat an earlier run in the same folder has "
    "finished is kept; the same command goes on where it was stopped.",
)
discover_command = _command("discover", "1-discover", "Find adapters and data on the Hub that fit, with reasons.")
experts_command = _stage("experts", "2-select-experts", "Score adapters on the K-shot, choose the group.")
rows_command = _stage("data", "3-select-instructions", "Choose the rows nearest to the K-shot, and draw the map.")
merge_command = _stage("merge", "4-merge", "Merge the chosen experts into one routed adapter.")
train_command = _stage("train", "5-train", "Fine-tune the merged adapter on the K-shot and the chosen rows.")
evaluate_command = _stage("evaluate", "6-evaluate", "Measure the result and its controls.")
push_command = _stage("push", "7-push", "Publish the result with its card.")
