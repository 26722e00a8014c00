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


discover_command = _command("discover", "1-discover", "List adapters and data on the Hub that fit, with reasons.")
merge_command = _command("merge", "4-merge", "Merge the chosen experts into one routed adapter.")
evaluate_command = _command("evaluate", "6-evaluate", "Measure the result and its controls.")
push_command = _command("push", "7-push", "Publish the result with its card.")


@click.group()
def select_command() -> None:
    """Let the K-shot choose among adapters and among rows of data."""


select_command.add_command(_command("experts", "2-select-experts", "Score adapters on the K-shot, choose the group."))
select_command.add_command(_command("instructions", "3-select-instructions", "Choose the rows nearest to the K-shot."))
