"""Groups of commands that are imported when they are called: `--help` imports none."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

Commands = Mapping[str, tuple[str, str]]  # name -> (module that has `<name>_command`, one line for --help)


class Lazy(click.Group):
    """A group that knows its commands by name alone, and lists them in their order."""

    def __init__(self, *args: Any, lazy: Commands, heading: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy, self._heading = lazy, heading

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the commands."""
        return list(self._lazy)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import one command."""
        if name not in self._lazy:
            return None
        command: click.Command = getattr(import_module(self._lazy[name][0]), f"{name.replace('-', '_')}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section(self._heading):
            formatter.write_dl([(name, text) for name, (_, text) in self._lazy.items()])
