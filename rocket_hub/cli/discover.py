from __future__ import annotations

from collections import Counter
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from rocket_hub.cli.options import connected, shared
from rocket_hub.cli.screen import new_table
from rocket_hub.options import DiscoverOptions, InstructionOptions
from rocket_hub.records import AdapterDiscovery, DatasetDiscovery, count_reasons, reasons_in_words
from rocket_hub.rows.kshot import load_kshot
from rocket_hub.runs import write_json
from rocket_hub.serialization import to_dict
from rocket_hub.tasks import get_task

if TYPE_CHECKING:
    from rocket_hub.discovery.instructions import DatasetSearch
    from rocket_hub.inference.models import DeferredEncoder

ENCODER = click.option("--encoder", metavar="ID", help="Sentence encoder that compares cards with the examples.")
DRY_RUN = click.option("--dry-run", is_flag=True, help="Only list them, and say what reading them will cost.")
JSON = click.option(
    "--json", "out", type=click.Path(path_type=Path), help="Write all decisions, with reasons, to this file."
)


@click.command()
@click.option("--base", required=True, metavar="ID", help="Base model.")
@shared("hub", "kshot", "allow_licence")
@ENCODER
@click.option("--max-adapters", type=click.IntRange(min=1), help="Take at most this many, the likeliest.")
@click.option("--mirror", multiple=True, metavar="ID", help="Another id of the base model, to be proven; repeatable.")
@DRY_RUN
@JSON
def adapters_command(base: str, dry_run: bool, out: Path | None, **given: Any) -> None:
    """List LoRA adapters on the Hub that fit a base model, and why the rest do not.

    With --kshot, adapters whose cards are like its examples come first.
    """
    console, shots = Console(highlight=False), _shots(given["kshot"])
    options = DiscoverOptions(
        max_adapters=given["max_adapters"] or DiscoverOptions.max_adapters,
        allow_licences=given["allow_licence"],
        mirrors=given["mirror"],
    )
    with connected(given["hub"]):
        from huggingface_hub import HfApi

        from rocket_hub.discovery import plan_adapters

        found: Any
        if dry_run:
            found = plan_adapters(HfApi(), base, options=options)
            console.print(str(found))
        else:
            encoder = _encoder(given["encoder"], shots)
            found = _look(console, HfApi(), base, options=options, shots=shots, encoder=encoder)
            for table in (_usable(found), _reasons(found)):
                console.print(table)
    if out:
        write_json(out, to_dict(found))


def _shots(kshot: Path | None) -> list[str]:
    """Read the prompts of the verified examples."""
    return [example.prompt for example in load_kshot(kshot)] if kshot else []


def _encoder(name: str | None, shots: list[str]) -> DeferredEncoder | None:
    """Return what compares cards with the shots; none where there are no shots."""
    from rocket_hub.inference.models import DeferredEncoder

    return DeferredEncoder(name or InstructionOptions.encoder, None) if shots else None


def _progress(console: Any) -> Progress:
    """Make a bar that goes away when it is done."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    return Progress(*columns, console=console, transient=True)


def _look(console: Any, api: Any, base: str, **arguments: Any) -> AdapterDiscovery:
    """Crawl, with a bar that says how many have got which decision so far."""
    from rocket_hub.discovery import discover_adapters

    counts: Counter[str] = Counter()
    with _progress(console) as progress:
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
    title = f"adapters of {found.base.repo_id} at {found.base.revision[:12]}"
    columns = ("adapter", "prior", "rank", "MB", "downloads", "licence", "flags")
    table = new_table(title, *columns, numbers=range(1, 5), whole=("adapter",))
    for item in found.selected:
        table.add_row(item.repo_id, f"{item.prior:.2f}", str(item.rank), f"{item.size / 1e6:,.1f}",
                      f"{item.downloads:,}", _plain(item.licence) or "none", ", ".join(item.flags))  # fmt: skip
    return table


def _reasons(found: AdapterDiscovery) -> Table:
    """Show why the others were not taken: how many for each reason, and one of them."""
    first = {rejection.reason: rejection for rejection in reversed(found.rejected)}
    table = new_table(
        "not taken", "reason", "adapters", "for example", "detail", numbers=range(1, 2), whole=("reason",)
    )
    for reason, count in count_reasons(found.rejected).items():
        detail = _plain(shorten(first[reason].detail, 160, placeholder=" …"))
        table.add_row(reason, f"{count:,}", _plain(first[reason].item), detail)
    table.caption = f"{len(found.selected):,} usable, {len(found.rejected):,} not"
    return table


@click.command()
@shared("task", "kshot", "hub")
@click.option("--query", multiple=True, metavar="WORD", help="Search for this word instead; may be repeated.")
@click.option("--language", multiple=True, metavar="CODE", help="Language; may be repeated. Default: en.")
@click.option("--max-datasets", type=click.IntRange(min=1), help="Take at most this many data sets.")
@ENCODER
@DRY_RUN
@JSON
def datasets_command(task: str | None, dry_run: bool, out: Path | None, **given: Any) -> None:
    """List instruction data on the Hub that can be read, and why the rest cannot.

    The words of --task are searched for; its evaluation set is left out.
    """
    console, shots = Console(highlight=False), _shots(given["kshot"])
    options = DiscoverOptions(
        queries=given["query"],
        languages=given["language"] or DiscoverOptions.languages,
        max_datasets=given["max_datasets"] or DiscoverOptions.max_datasets,
    )
    known = get_task(task) if task else None
    with connected(given["hub"]):
        from huggingface_hub import HfApi

        from rocket_hub.discovery import discover_datasets
        from rocket_hub.discovery.instructions import search_datasets

        asked: dict[str, Any] = {"options": options, "task": known, "shots": shots}
        asked["encoder"] = _encoder(given["encoder"], shots)
        found: Any
        if dry_run:
            found = search_datasets(HfApi(), **asked)
            console.print(_planned(found))
        else:
            with _progress(console) as progress:
                bar = progress.add_task("looking at data sets", total=None)
                found = discover_datasets(
                    HfApi(), progress=lambda done, total: progress.update(bar, completed=done, total=total), **asked
                )
            for table in (_usable_datasets(found), _not_taken(found)):
                console.print(table)
    if out:
        write_json(out, to_dict(found))


def _planned(search: DatasetSearch) -> str:
    """Say what looking at the data sets, and reading them, will cost."""
    plan = search.plan
    return (
        f"searched for: {_plain(', '.join(search.words)) or 'no words, only tags'}\n"
        f"{plan.listed:,} data sets listed, {plan.candidates:,} may be read; not taken: "
        f"{reasons_in_words(search.rejected)}\n"
        f"next: at most about {plan.requests:,} requests, {plan.bytes / 1e6:,.1f} MB and {plan.minutes:.1f} minutes; "
        f"the first rows of {plan.probes:,} sets are not known yet"
    )


def _usable_datasets(found: DatasetDiscovery) -> Table:
    """Show the data sets that can be read, likeliest first."""
    table = new_table("instruction data", "data set", "shape", "rows", "MB", "licence", "flags", numbers=range(2, 4))
    for item in found.selected:
        rows = f"{item.rows:,}" if item.rows else "?"
        table.add_row(_plain(item.repo_id), item.shape, rows, f"{item.size / 1e6:,.1f}",
                      _plain(item.licence) or "none", ", ".join(item.flags))  # fmt: skip
    table.caption = "rows as the card says; nobody has counted them yet"
    return table


def _not_taken(found: DatasetDiscovery) -> Table:
    """Show why the others were not taken."""
    table = new_table("not taken", "data set", "reason", "detail", whole=("reason",))
    for lost in found.rejected:
        if lost.reason != "over_budget":
            detail = lost.detail.removeprefix(f"{lost.item}: ")
            table.add_row(_plain(lost.item), lost.reason, _plain(shorten(detail, 160, placeholder=" …")))
    table.caption = f"{len(found.selected):,} usable; not taken: {reasons_in_words(found.rejected)}"
    return table


def _plain(text: str) -> str:
    """Return text of somebody else's as it may be shown on a terminal."""
    return escape("".join(letter if letter.isprintable() else "?" for letter in text))
