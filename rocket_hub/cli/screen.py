"""What a person sees: progress while a build runs, and a table for what each stage left."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from rocket_hub.cli import tables

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
        shown_as: dict[str, Callable[[dict[str, Any]], Table | str]] = {
            "1-discover": tables.discovered,
            "2-select-experts": tables.experts,
            "3-select-instructions": tables.rows,
            "4-merge": lambda result: f"{result['method']}: {result['adapter']} ({result['bytes'] / 1e6:.1f} MB)",
            "5-train": lambda result: f"trained adapter: {result['training']['adapter']}",
            "6-evaluate": tables.evaluations,
            "7-push": tables.pushed,
        }
        shown = ("2-select-experts", "3-select-instructions", "6-evaluate") if until == "7-push" else ()
        for name in (*shown, until):
            self.console.print(shown_as[name](build.results[name]))
        seconds = sum(build.seconds.values())
        self.console.print(f"[dim]{build.folder}: {seconds / 60:.1f} minutes of work in all[/]")
