"""All commands, in the order of the pipeline; each is imported when it is called for."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
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


@click.group()
def hub_command() -> None:
    """Serve and fill a small Hub in a folder; HTTP on this machine only."""


@hub_command.command()
@click.argument("folder")
@click.option("--port", type=int, default=8765, show_default=True, help="Port on 127.0.0.1; 0 = any free one.")
def serve(folder: str, port: int) -> None:
    """Serve FOLDER, a store or a folder of repositories, or `demo`; stops with Ctrl-C."""
    from rocket_hub.localhub import LocalHub, local_place

    place = local_place(folder)
    hub = LocalHub(place.store, port)
    click.echo(f"serving {folder} at {hub.url}; stop it with Ctrl-C. In another shell:")
    click.echo(f"  export HF_ENDPOINT={hub.url} HF_HOME={place.home} HF_TOKEN=hf_local HF_HUB_DISABLE_XET=1")
    hub.serve_forever()


@hub_command.command("import")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--store", type=click.Path(path_type=Path), required=True, help="Folder of the Hub; made if missing.")
def import_(folder: Path, store: Path) -> None:
    """Copy FOLDER (models/<namespace>/<name>/..., datasets/<namespace>/<name>/...) into a Hub."""
    from rocket_hub.localhub import LocalHub

    imported = LocalHub(store).import_tree(folder)
    click.echo(f"{store}: holds the {len(imported)} repositories of {folder}")


COMMANDS = {
    "build": ("rocket_hub.cli.build", "Build an adapter for a task: every stage below, in order."),
    "discover": ("rocket_hub.cli.discover", "List adapters and data on the Hub that fit, and why the rest do not."),
    "generate": ("rocket_hub.cli.generate", "Make data where the Hub has none: by the base itself, or with a teacher."),
    "select": ("rocket_hub.cli.build", "Let the K-shot choose: `select experts`, `select data`."),
    "merge": ("rocket_hub.cli.build", "Merge the chosen experts into one routed adapter."),
    "train": ("rocket_hub.cli.models", "Fine-tune the merged adapter; or, with --dataset, an expert of your own."),
    "evaluate": ("rocket_hub.cli.models", "Measure any model or adapter on a task; or a build and its controls."),
    "collapse": ("rocket_hub.cli.models", "Turn a routed adapter into one plain LoRA, with the measured loss."),
    "push": ("rocket_hub.cli.build", "Publish the result with its card."),
    "hub": ("rocket_hub.cli.app", "A small Hub in a folder: `hub serve`, `hub import`."),
}


@click.group(
    cls=Lazy, lazy=COMMANDS, heading="Commands, in order", context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(package_name="rocket-hub", prog_name="rocket-hub")
def cli() -> None:
    r"""From K verified examples of a task to a published mixture of LoRA experts.

    \b
    Try it offline:  rocket-hub build --hub demo --task gsm8k --kshot recipes/demo/kshot.jsonl
    """
