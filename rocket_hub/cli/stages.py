"""One command a stage: each runs the pipeline up to it, in the same run folder, and shows what the stage left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from rocket_hub.cli.options import recipe_options


def _command(name: str, stage: str, text: str) -> click.Command:
    """Make the command that runs the pipeline up to a stage."""

    def command(**given: Any) -> None:
        from rocket_hub.cli.running import run

        run(given, stage)

    described: Callable[..., Any] = recipe_options(command)
    return click.command(name, help=text + "\n\nEarlier stages run first where they are not done yet.")(described)


merge_command = _command("merge", "4-merge", "Merge the chosen experts into one routed adapter.")
push_command = _command("push", "7-push", "Publish the result with its card.")


@click.group()
def select_command() -> None:
    """Let the K-shot choose among adapters and among rows of data."""


select_command.add_command(_command("experts", "2-select-experts", "Score adapters on the K-shot, choose the group."))
for name in ("data", "instructions"):  # the second is what it was called before
    command = _command(name, "3-select-instructions", "Choose the rows nearest to the K-shot, and draw the map.")
    command.hidden = name == "instructions"
    select_command.add_command(command)
