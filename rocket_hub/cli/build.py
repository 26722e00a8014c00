"""One command a stage: each runs the pipeline up to it, in the same run folder, and shows what the stage left.

`push` also publishes generated rows.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from rocket_hub.cli.options import adjusted, find_recipe, recipe_options
from rocket_hub.cli.screen import Screen
from rocket_hub.errors import InputError
from rocket_hub.localhub import connect
from rocket_hub.recipe import TRAINED_CONTROLS, controls_of
from rocket_hub.rows.kshot import load_kshot

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


@click.command()
@recipe_options
def build_command(**given: Any) -> None:
    """Build an adapter for a task from a handful of verified examples.

    What an earlier run in the same folder has finished is kept; the same command goes on where it was stopped.
    """
    run(given, "7-push")


def _command(name: str, stage: str, text: str) -> click.Command:
    """Make the command that runs the pipeline up to a stage."""

    def command(**given: Any) -> None:

        run(given, stage)

    described: Callable[..., Any] = recipe_options(command)
    return click.command(name, help=text + "\n\nEarlier stages run first where they are not done yet.")(described)


merge_command = _command("merge", "4-merge", "Merge the chosen experts into one routed adapter.")


@click.command()
@recipe_options
@click.option(
    "--dataset", type=click.Path(path_type=Path), metavar="FOLDER|FILE", help="Publish generated rows instead."
)
@click.pass_context
def push_command(context: click.Context, /, dataset: Path | None, **given: Any) -> None:
    """Publish the result with its card; earlier stages run first where they are not done yet.

    With --dataset instead of --kshot, publish rows that `generate`, or a build's 0-generate, made as a data set: that
    folder or the rows.jsonl in it, to the repository --push-to.
    """
    if dataset is None:
        run(given, "7-push")
        return
    asked = [name for name in given if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if unread := [f"--{name.replace('_', '-')}" for name in asked if name not in ("hub", "push_to", "private")]:
        raise InputError(f"{', '.join(unread)} cannot be used to publish a data set; leave them out")
    if not given["push_to"]:
        raise InputError("give --push-to ID: the repository of the data set")
    _push_dataset(dataset, given)


def _push_dataset(dataset: Path, given: dict[str, Any]) -> None:
    """Publish generated rows."""
    from tempfile import TemporaryDirectory

    with connect(given["hub"]), TemporaryDirectory() as scratch:
        quiet_libraries()
        from huggingface_hub import HfApi

        from rocket_hub.pipeline.generated import push_generated

        content = Path(scratch) / "content"
        commit = push_generated(HfApi(), dataset, given["push_to"], content, private=bool(given["private"]))
    click.echo(f"pushed {dataset} to {given['push_to']} at {commit[:12]}")


@click.group()
def select_command() -> None:
    """Let the K-shot choose among adapters and among rows of data."""


select_command.add_command(_command("experts", "2-select-experts", "Score adapters on the K-shot, choose the group."))
for name in ("data", "instructions"):  # the second is what it was called before
    command = _command(name, "3-select-instructions", "Choose the rows nearest to the K-shot, and draw the map.")
    command.hidden = name == "instructions"
    select_command.add_command(command)
