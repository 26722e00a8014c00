"""One command a stage: each runs the pipeline up to it, in the same run folder, and shows what the stage left.

`push` also publishes generated rows.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from rocket_hub.cli.options import recipe_options
from rocket_hub.errors import InputError


def _command(name: str, stage: str, text: str) -> click.Command:
    """Make the command that runs the pipeline up to a stage."""

    def command(**given: Any) -> None:
        from rocket_hub.cli.running import run

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
        from rocket_hub.cli.running import run

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

    from rocket_hub.cli.running import quiet_libraries
    from rocket_hub.localhub import connect

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
