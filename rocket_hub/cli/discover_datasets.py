"""`rocket-hub discover datasets`: instruction data on the Hub, with a verdict for each set."""

from __future__ import annotations

from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.table import Table

    from rocket_hub.discovery.data.search import DatasetSearch
    from rocket_hub.records import DatasetDiscovery


@click.command()
@click.option("--task", metavar="NAME", help="Task: its words are searched for, its evaluation set is left out.")
@click.option("--kshot", type=click.Path(path_type=Path), help="File with the verified examples.")
@click.option("--hub", metavar="demo|FOLDER|URL", help="Which Hub; the real one when left out.")
@click.option("--query", multiple=True, metavar="WORD", help="Search for this word instead; may be repeated.")
@click.option("--language", multiple=True, metavar="CODE", help="Language; may be repeated. Default: en.")
@click.option("--max-datasets", type=click.IntRange(min=1), help="Take at most this many data sets.")
@click.option("--encoder", metavar="ID", help="Sentence encoder that compares cards with the examples.")
@click.option("--dry-run", is_flag=True, help="Only list them, and say what looking at them will cost.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write all verdicts to this file.")
def datasets_command(
    task: str | None, kshot: Path | None, hub: str | None, query: tuple[str, ...], language: tuple[str, ...],
    max_datasets: int | None, encoder: str | None, dry_run: bool, out: Path | None,
) -> None:  # fmt: skip
    """List instruction data on the Hub that can be read, and why the rest cannot."""
    from rich.console import Console

    from rocket_hub.cli.running import quiet_libraries
    from rocket_hub.kshot import load_kshot
    from rocket_hub.localhub import connect
    from rocket_hub.options import DiscoverOptions, InstructionOptions
    from rocket_hub.runs import write_json
    from rocket_hub.serialization import to_dict
    from rocket_hub.tasks import get_task

    console = Console(highlight=False)
    shots = [example.prompt for example in load_kshot(kshot)] if kshot else []
    options = DiscoverOptions(
        queries=query,
        languages=language or DiscoverOptions.languages,
        max_datasets=max_datasets or DiscoverOptions.max_datasets,
    )
    known = get_task(task) if task else None
    with connect(hub):
        quiet_libraries()
        from huggingface_hub import HfApi

        from rocket_hub.discovery.data.search import search_datasets
        from rocket_hub.encoder import DeferredEncoder

        compare = DeferredEncoder(encoder or InstructionOptions.encoder, None) if shots else None
        if dry_run:
            search = search_datasets(HfApi(), options=options, task=known, shots=shots, encoder=compare)
            console.print(_planned(search))
            verdicts = to_dict(search)
        else:
            found = _look(console, HfApi(), options=options, task=known, shots=shots, encoder=compare)
            for table in (_usable(found), _not_taken(found)):
                console.print(table)
            verdicts = to_dict(found)
    if out:
        write_json(out, verdicts)


def _planned(search: DatasetSearch) -> str:
    """Say what looking at the data sets, and reading them, will cost."""
    from rocket_hub.records import reasons_in_words

    plan = search.plan
    return (
        f"searched for: {_plain(', '.join(search.words)) or 'no words, only tags'}\n"
        f"{plan.listed:,} data sets listed, {plan.candidates:,} may be read; not taken: "
        f"{reasons_in_words(search.rejected)}\n"
        f"next: at most about {plan.requests:,} requests, {plan.bytes / 1e6:,.1f} MB and {plan.minutes:.1f} minutes; "
        f"the first rows of {plan.probes:,} sets are not known yet"
    )


def _look(console: Any, api: Any, **arguments: Any) -> DatasetDiscovery:
    """Search, with a bar."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from rocket_hub.discovery import discover_datasets

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("looking at data sets", total=None)
        return discover_datasets(
            api, progress=lambda done, total: progress.update(task, completed=done, total=total), **arguments
        )


def _usable(found: DatasetDiscovery) -> Table:
    """Show the data sets that can be read, likeliest first."""
    table = _table("instruction data", "data set", "shape", "rows", "MB", "licence", "flags")
    for item in found.selected:
        rows = f"{item.rows:,}" if item.rows else "?"
        table.add_row(_plain(item.repo_id), item.shape, rows, f"{item.size / 1e6:,.1f}",
                      _plain(item.licence) or "none", ", ".join(item.flags))  # fmt: skip
    table.caption = "rows as the card says; nobody has counted them yet"
    return table


def _not_taken(found: DatasetDiscovery) -> Table:
    """Show why the others were not taken."""
    from rocket_hub.records import reasons_in_words

    table = _table("not taken", "data set", "reason", "detail")
    for lost in found.rejected:
        if lost.reason != "over_budget":
            detail = lost.detail.removeprefix(f"{lost.item}: ")
            table.add_row(_plain(lost.item), lost.reason, _plain(shorten(detail, 160, placeholder=" …")))
    table.caption = f"{len(found.selected):,} usable; not taken: {reasons_in_words(found.rejected)}"
    return table


def _table(title: str, *columns: str) -> Table:
    """Make a table with a title and columns, of which `rows` and `MB` hold numbers."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold")
    for name in columns:
        side = "right" if name in ("rows", "MB") else "left"
        table.add_column(name, justify=side, no_wrap=name == "reason", overflow="fold")  # type: ignore[arg-type]
    return table


def _plain(text: str) -> str:
    """Return text of somebody else's as it may be shown on a terminal."""
    from rich.markup import escape

    return escape("".join(letter if letter.isprintable() else "?" for letter in text))
