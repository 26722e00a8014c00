"""`rocket-hub hub`: a small Hub in a folder."""

from __future__ import annotations

from pathlib import Path

import click


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
