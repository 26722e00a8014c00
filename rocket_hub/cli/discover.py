"""`rocket-hub discover`: what is on the Hub. Alone it is a build's first stage; `adapters` and `datasets` only look."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from rocket_hub.cli.app import Lazy
from rocket_hub.cli.options import recipe_options

if TYPE_CHECKING:
    from rich.table import Table

    from rocket_hub.discovery.datasets import DatasetSearch
    from rocket_hub.records import AdapterDiscovery, DatasetDiscovery


KINDS = {
    "adapters": ("rocket_hub.cli.discover", "LoRA adapters that fit a base model, and why the rest do not."),
    "datasets": ("rocket_hub.cli.discover", "Instruction data that can be read, and why the rest cannot."),
}


@click.group(cls=Lazy, lazy=KINDS, heading="Commands, which only look", invoke_without_command=True)
@recipe_options
@click.pass_context
def discover_command(context: click.Context, /, **given: Any) -> None:
    """List adapters and data on the Hub that fit, with reasons.

    Alone it is the first stage of a build: it needs --task or --recipe, and --kshot.
    """
    if context.invoked_subcommand is None:
        from rocket_hub.cli.build import run

        run(given, "1-discover")
        return
    misplaced = [name for name in given if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if misplaced:
        option = f"--{misplaced[0].replace('_', '-')}"
        raise click.UsageError(f"{option} belongs behind '{context.invoked_subcommand}', not before it")


@click.command()
@click.option("--base", required=True, metavar="ID", help="Base model.")
@click.option("--hub", metavar="demo|FOLDER|URL", help="Which Hub; the real one when left out.")
@click.option("--kshot", type=click.Path(path_type=Path), help="File with verified examples: adapters whose cards are "
              "like them come first.")  # fmt: skip
@click.option("--encoder", metavar="ID", help="Sentence encoder that compares cards with the examples.")
@click.option("--max-adapters", type=click.IntRange(min=1), help="Take at most this many, the likeliest.")
@click.option("--allow-licence", multiple=True, metavar="ID", help="Accept this licence; may be repeated.")
@click.option("--mirror", multiple=True, metavar="ID", help="Another id of the base model, to be proven; repeatable.")
@click.option("--dry-run", is_flag=True, help="Only list them, and say what reading them will cost.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write all verdicts to this file.")
def adapters_command(
    base: str, hub: str | None, kshot: Path | None, encoder: str | None, max_adapters: int | None,
    allow_licence: tuple[str, ...], mirror: tuple[str, ...], dry_run: bool, out: Path | None,
) -> None:  # fmt: skip
    """List LoRA adapters on the Hub that fit a base model, and why the rest do not."""
    from rich.console import Console

    from rocket_hub.cli.build import quiet_libraries
    from rocket_hub.localhub import connect
    from rocket_hub.options import DiscoverOptions, InstructionOptions
    from rocket_hub.rows.kshot import load_kshot
    from rocket_hub.runs import write_json
    from rocket_hub.serialization import to_dict

    console = Console(highlight=False)
    shots = [example.prompt for example in load_kshot(kshot)] if kshot else []
    options = DiscoverOptions(
        max_adapters=max_adapters or DiscoverOptions.max_adapters, allow_licences=allow_licence, mirrors=mirror
    )
    with connect(hub):
        quiet_libraries()
        from huggingface_hub import HfApi

        from rocket_hub.discovery import plan_adapters
        from rocket_hub.inference.models import DeferredEncoder

        if dry_run:
            plan = plan_adapters(HfApi(), base, options=options)
            console.print(str(plan))
            verdicts = to_dict(plan)
        else:
            compare = DeferredEncoder(encoder or InstructionOptions.encoder, None) if shots else None
            found = _look(console, HfApi(), base, options=options, shots=shots, encoder=compare)
            for table in (_usable(found), _reasons(found)):
                console.print(table)
            verdicts = to_dict(found)
    if out:
        write_json(out, verdicts)


def _look(console: Any, api: Any, base: str, **arguments: Any) -> AdapterDiscovery:
    """Crawl, with a bar that says how many have got which verdict so far."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from rocket_hub.discovery import discover_adapters

    counts: Counter[str] = Counter()
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("listing adapters", total=None)

        def count(repo_id: str, reason: str) -> None:
            counts[reason] += 1
            progress.update(task, description=", ".join(f"{n} {name}" for name, n in counts.most_common()))

        found = discover_adapters(
            api,
            base,
            planned=lambda plan: progress.console.print(str(plan)),
            verdict=count,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
            **arguments,
        )
    if found.note:
        console.print(found.note)
    return found


def _usable(found: AdapterDiscovery) -> Table:
    """Show the adapters that fit, likeliest first."""
    from rich.markup import escape
    from rich.table import Table

    title = f"adapters of {found.base.repo_id} at {found.base.revision[:12]}"
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("adapter", no_wrap=True)
    for name in ("prior", "rank", "MB", "downloads"):
        table.add_column(name, justify="right")
    for name in ("licence", "flags"):
        table.add_column(name)
    for item in found.selected:
        table.add_row(item.repo_id, f"{item.prior:.2f}", str(item.rank), f"{item.size / 1e6:,.1f}",
                      f"{item.downloads:,}", escape(item.licence) or "none", ", ".join(item.flags))  # fmt: skip
    return table


def _reasons(found: AdapterDiscovery) -> Table:
    """Show why the others were not taken: how many for each reason, and one of them."""
    from rich.markup import escape
    from rich.table import Table

    from rocket_hub.records import count_reasons

    first = {rejection.reason: rejection for rejection in reversed(found.rejected)}
    table = Table(title="not taken", title_justify="left", title_style="bold")
    for name in ("reason", "adapters", "for example", "detail"):
        table.add_column(name, justify="right" if name == "adapters" else "left", no_wrap=name == "reason")
    for reason, count in count_reasons(found.rejected).items():
        example = first[reason]
        detail = escape(shorten(example.detail, 160, placeholder=" …"))
        table.add_row(reason, f"{count:,}", escape(example.item), detail)
    table.caption = f"{len(found.selected):,} usable, {len(found.rejected):,} not"
    return table


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

    from rocket_hub.cli.build import quiet_libraries
    from rocket_hub.localhub import connect
    from rocket_hub.options import DiscoverOptions, InstructionOptions
    from rocket_hub.rows.kshot import load_kshot
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

        from rocket_hub.discovery.datasets import search_datasets
        from rocket_hub.inference.models import DeferredEncoder

        compare = DeferredEncoder(encoder or InstructionOptions.encoder, None) if shots else None
        if dry_run:
            search = search_datasets(HfApi(), options=options, task=known, shots=shots, encoder=compare)
            console.print(_planned(search))
            verdicts = to_dict(search)
        else:
            found = _look_for_datasets(console, HfApi(), options=options, task=known, shots=shots, encoder=compare)
            for table in (_usable_datasets(found), _not_taken(found)):
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


def _look_for_datasets(console: Any, api: Any, **arguments: Any) -> DatasetDiscovery:
    """Search, with a bar."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from rocket_hub.discovery import discover_datasets

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("looking at data sets", total=None)
        return discover_datasets(
            api, progress=lambda done, total: progress.update(task, completed=done, total=total), **arguments
        )


def _usable_datasets(found: DatasetDiscovery) -> Table:
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
