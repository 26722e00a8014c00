"""`rocket-hub discover`: what is on the Hub. Alone it is a build's first stage; `adapters` and `datasets` only look."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from rocket_hub.cli.lazy import Lazy
from rocket_hub.cli.options import recipe_options

if TYPE_CHECKING:
    from rich.table import Table

    from rocket_hub.records import AdapterDiscovery

KINDS = {
    "adapters": ("rocket_hub.cli.discover", "LoRA adapters that fit a base model, and why the rest do not."),
    "datasets": ("rocket_hub.cli.discover_datasets", "Instruction data that can be read, and why the rest cannot."),
}


@click.group(cls=Lazy, lazy=KINDS, heading="Commands, which only look", invoke_without_command=True)
@recipe_options
@click.pass_context
def discover_command(context: click.Context, /, **given: Any) -> None:
    """List adapters and data on the Hub that fit, with reasons.

    Alone it is the first stage of a build: it needs --task or --recipe, and --kshot.
    """
    if context.invoked_subcommand is None:
        from rocket_hub.cli.running import run

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

    from rocket_hub.cli.running import quiet_libraries
    from rocket_hub.kshot import load_kshot
    from rocket_hub.localhub import connect
    from rocket_hub.options import DiscoverOptions, InstructionOptions
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
        from rocket_hub.encoder import DeferredEncoder

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
