"""What a person sees: progress while a build runs, and a table for what each stage left."""

from __future__ import annotations

from collections.abc import Callable
from textwrap import shorten
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from rocket_hub.records import Rejection, reasons_in_words

if TYPE_CHECKING:
    from rocket_hub.pipeline import Build


class Screen:
    """A reporter that draws on the terminal, and prints plain lines where there is none."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        self._progress = Progress(
            TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            console=self.console, transient=True,
        )  # fmt: skip
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Screen:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def stage(self, name: str, note: str) -> None:
        """Print the name of a stage and why it runs, or that it does not."""
        for task in self._tasks.values():
            self._progress.remove_task(task)
        self._tasks.clear()
        self.console.print(f"[bold]{name}[/]" + (f"  [dim]{note}[/]" if note else ""))

    def advance(self, what: str, done: int, total: int) -> None:
        """Move a bar."""
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=total)
        self._progress.update(self._tasks[what], completed=done, total=total)

    def say(self, text: str) -> None:
        """Print one line."""
        self.console.print(f"  {text}" if self._tasks else text)

    def show(self, build: Build, until: str) -> None:
        """Print the table of the last stage that ran."""
        tables: dict[str, Callable[[dict[str, Any]], Table | str]] = {
            "1-discover": discovered,
            "2-select-experts": experts,
            "3-select-instructions": rows,
            "4-merge": lambda result: f"routed adapter: {result['adapter']} ({result['bytes'] / 1e6:.1f} MB)",
            "5-train": lambda result: f"trained adapter: {result['training']['adapter']}",
            "6-evaluate": evaluations,
            "7-push": pushed,
        }
        shown = ("2-select-experts", "3-select-instructions", "6-evaluate") if until == "7-push" else ()
        for name in (*shown, until):
            self.console.print(tables[name](build.results[name]))
        seconds = sum(build.seconds.values())
        self.console.print(f"[dim]{build.folder}: {seconds / 60:.1f} minutes of work in all[/]")


def _table(title: str, *columns: str, text: bool = False) -> Table:
    """Make a table; columns after the first hold numbers, or text."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for position, column in enumerate(columns):
        table.add_column(column, justify="left" if position == 0 or text else "right")
    return table


def _reasons(entries: list[dict[str, Any]]) -> str:
    return reasons_in_words(Rejection(**entry) for entry in entries)


def discovered(result: dict[str, Any]) -> Table:
    """Show what was found and why the rest was not taken."""
    table = _table("on the Hub", "repository", "verdict", "detail", text=True)
    for kind in ("adapters", "datasets"):
        for found in result[kind]["selected"]:
            detail = f"rank {found['rank']}" if kind == "adapters" else found["shape"]
            table.add_row(found["repo_id"], "usable", f"{detail}, {found['licence'] or 'no licence'}")
        for lost in result[kind]["rejected"]:
            table.add_row(lost["item"], lost["reason"], escape(shorten(lost["detail"], 120, placeholder=" …")))
    return table


def experts(result: dict[str, Any]) -> Table:
    """Show how each adapter did on the K-shot."""
    table = _table("experts", "adapter", "perplexity", "accuracy", "rank sum", "chosen")
    for score in result["scores"]:
        chosen = "yes" if score["repo_id"] in result["selected"] else ""
        rank = score["rank_perplexity"] + score["rank_accuracy"]
        table.add_row(score["repo_id"], f"{score['perplexity']:.3f}", f"{score['accuracy']:.0%}", f"{rank:g}", chosen)
    table.caption = f"group diversity {result['diversity']:.2f}; not taken: {_reasons(result['rejected'])}"
    return table


def rows(result: dict[str, Any]) -> Table:
    """Show where the chosen rows come from."""
    table = _table("rows", "data set", "chosen")
    for source, count in sorted(result["per_source"].items(), key=lambda entry: -entry[1]):
        table.add_row(source, str(count))
    table.caption = f"{result['considered']:,} compared; not taken: {_reasons(result['rejected'])}"
    return table


def evaluations(result: dict[str, Any]) -> Table:
    """Show the result beside its controls."""
    table = _table("held-out accuracy", "method", "accuracy", "95 %", "routed − this", "lr, weight")
    for entry in result["evaluations"]:
        gap = result["differences"].get(entry["method"])
        difference = f"{gap['difference']:+.1%} ± {gap['standard_error']:.1%}" if gap else ""
        details = entry["details"]
        settings = f"{details['learning_rate']:g}, {details['weight']:g}" if "weight" in details else ""
        table.add_row(result["labels"][entry["method"]], f"{entry['accuracy']:.1%}",
                      f"{100 * entry['low']:.1f} to {100 * entry['high']:.1f}", difference, settings)  # fmt: skip
    advice = result["recommendation"]
    table.caption = f"recommended: {advice['method']}, because {advice['reason']}"
    return table


def pushed(result: dict[str, Any]) -> str:
    """Say where the result is and that it loads."""
    if result["repo_id"] is None:
        return f"not pushed (give --push-to ID); what would be is in {result['content']} of the run folder"
    checked = result["reload"]
    said = (
        f"; a fresh process loads it: logits differ by {checked['max_difference']:g}, it generates "
        f"{escape(repr(checked['generated'][0]))} with the KV cache" if checked else ""
    )  # fmt: skip
    return f"pushed to {result['repo_id']} at {result['commit'][:12]}{said}"
