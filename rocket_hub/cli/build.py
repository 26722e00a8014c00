"""`rocket-hub build`: every stage, with a picture of what happens."""

from __future__ import annotations

from typing import Any

import click

from rocket_hub.cli.options import recipe_options


@click.command()
@recipe_options
def build_command(**given: Any) -> None:
    """Build an adapter for a task from a handful of verified examples.

    What an earlier run in the same folder has finished is kept; the same command goes on where it was stopped.
    """
    from rocket_hub.cli.running import run

    run(given, "7-push")
