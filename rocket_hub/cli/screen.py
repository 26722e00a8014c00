from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from textwrap import shorten
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from rocket_hub.records import AdapterCandidate, ExpertScore, ExpertSelection, reasons_in_words
from rocket_hub.results import DataSelection, Discovery, Evaluations, Publication
from rocket_hub.runs import Reporter

if TYPE_CHECKING:
    from rocket_hub.pipeline import Build


def new_table(title: str, *columns: str, numbers: range = range(0), whole: Collection[str] = ()) -> Table:
    """Make a table; `numbers` are the columns that hold some, what stands in `whole` ones is not broken into lines."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for position, name in enumerate(columns):
        justify: JustifyMethod = "right" if position in numbers else "left"
        table.add_column(name, justify=justify, no_wrap=name in whole, overflow="fold")
    return table


def discovered(found: Discovery) -> Table:
    """Show what was found and why the rest was not taken."""
    table = new_table("on the Hub", "repository", "verdict", "detail")
    for part in (found.adapters, found.datasets):
        for each in part.selected:
            detail = f"rank {each.rank}" if isinstance(each, AdapterCandidate) else each.shape
            told = ", ".join((detail, each.licence or "no licence", *each.flags))
            table.add_row(escape(each.repo_id), "usable", escape(told))
        for lost in part.rejected:
            table.add_row(escape(lost.item), lost.reason, escape(shorten(lost.detail, 120, placeholder=" …")))
    return table


def rows(found: DataSelection) -> Table:
    """Show what was read of each data set, what was chosen, and why the rest was not."""
    table = new_table("rows", "data set", "read", "chosen", "not taken", numbers=range(1, 3))
    total: Counter[str] = Counter()
    for source, counts in sorted(found.counts.items(), key=lambda entry: -entry[1].get("chosen", 0)):
        total.update(counts)
        table.add_row(source, *_fates(counts))
    for lost in found.rejected:
        if "#" not in lost.item:  # a whole data set
            table.add_row(lost.item, "0", "0", f"{lost.reason}: {escape(shorten(lost.detail, 120))}")
    table.add_section()
    table.add_row("all", *_fates(dict(total.most_common())))
    spent = f"; {found.tokens:,} tokens" if found.tokens else ""
    look = f"; {len(found.flagged)} chosen rows to look at, see `flagged`" if found.flagged else ""
    table.caption = (
        f"{found.considered:,} compared{spent}{look}; map: {found.map}; each rejected row: {found.rejected_file}"
    )
    return table


def _fates(counts: dict[str, int]) -> tuple[str, str, str]:
    """Write what became of the rows of a data set."""
    rest = ", ".join(f"{n:,} {reason}" for reason, n in counts.items() if reason not in ("read", "chosen"))
    return f"{counts['read']:,}", f"{counts.get('chosen', 0):,}", rest


def evaluations(measured: Evaluations) -> Table:
    """Show the result beside its controls."""
    columns = ("method", "accuracy", "95 %", "result − this", "lr, weight")
    table = new_table("held-out accuracy", *columns, numbers=range(1, 5))
    for each in measured.evaluations:
        gap, details = measured.differences.get(each.method), each.details
        difference = f"{gap.difference:+.1%} ± {gap.standard_error:.1%}" if gap else ""
        settings = f"{details['learning_rate']:g}, {details['weight']:g}" if "weight" in details else ""
        interval = f"{100 * each.low:.1f} to {100 * each.high:.1f}"
        table.add_row(measured.labels[each.method], f"{each.accuracy:.1%}", interval, difference, settings)
    advice = measured.recommendation
    table.caption = f"recommended: {advice.method}, because {advice.reason}"
    return table


def pushed(result: Publication) -> str:
    """Say where the result is and that it loads."""
    if result.repo_id is None:
        return f"not pushed (give --push-to ID); what would be is in {result.content} of the run folder"
    said = (
        f"; a fresh process loads it: in {result.reload.precision} logits differ by {result.reload.max_difference:g} "
        f"({result.reload.bound:g} is noise), it generates "
        f"{escape(repr(result.reload.generated[0]))} with the KV cache" if result.reload else ""
    )  # fmt: skip
    return f"pushed to {result.repo_id} at {result.commit[:12]}{said}"


def experts(selection: ExpertSelection) -> Table:
    """Show how each adapter and the base did on the K-shot, and what the shots say of the choice."""
    columns = ("adapter", "perplexity", "accuracy, 95 %", "RP + RA", "alike", "chosen", "licence", "marks")
    table = new_table("experts", *columns, numbers=range(1, 6))
    table.caption_justify = "left"
    for score in selection.scores:
        table.add_row(*_row(score, selection))
    if base := selection.base:
        table.add_row("base model", f"{base.perplexity:.3f}", _accuracy(base), *[""] * 5, style="dim")
    table.caption = escape("\n".join(_said(selection)))
    return table


def _row(score: ExpertScore, selection: ExpertSelection) -> tuple[str, ...]:
    """Write one adapter's row."""
    share = "" if score.chosen_share is None else f" {score.chosen_share:.0%}"
    chosen = ("yes" if score.repo_id in selection.selected else "") + share
    rank = f"{score.rank_perplexity + score.rank_accuracy:g}"
    alike = "" if score.similarity is None else f"{score.similarity:.2f}"
    marks = ", ".join(score.marks)
    return (escape(score.repo_id), f"{score.perplexity:.3f}", _accuracy(score), rank, alike, chosen.strip(),
            escape(score.licence or "none"), escape(marks))  # fmt: skip


def _accuracy(score: ExpertScore) -> str:
    """Write an accuracy with its interval; nothing where no answer was asked."""
    if "halved_out" in score.marks:
        return ""
    return f"{score.accuracy:.0%} ({100 * score.accuracy_low:.0f} to {100 * score.accuracy_high:.0f})"


def _said(selection: ExpertSelection) -> list[str]:
    """Write the verdict and the figures that go with the whole group."""
    lines = [f"verdict: {selection.verdict}, because {selection.reason}"] if selection.reason else []
    if selection.verdict != "group" and selection.selected == selection.group:
        lines[-1] += " (not followed)"
    if selection.runner_up and selection.lead is not None:
        new = ", ".join(name for name in selection.runner_up if name not in selection.group)
        error = "" if selection.lead_error is None else f" ± {selection.lead_error:.4f}"
        lines.append(f"runner-up: the group with {new}; the chosen one is likelier by {selection.lead:.4f}{error} nats "
                     "a token, paired over the shots")  # fmt: skip
    if selection.ties:
        lines.append(f"equal in total, decided by a rule: groups with {', '.join(selection.ties)}")
    if any(score.chosen_share is not None for score in selection.scores):
        lines.append("chosen: with its share of resamples of the shots, among the adapters that were scored on all")
    if selection.held_out_accuracy is not None:
        lines.append(f"the best single adapter, chosen on half of the shots and tried on the other half: "
                     f"{selection.held_out_accuracy:.1%} right")  # fmt: skip
    if selection.rationales:
        lines.append(selection.rationales)
    if cost := selection.cost:
        scored = f"{cost['pairs']:,.0f} of {cost['possible']:,.0f} pairs of an adapter and a shot"
        lines.append(f"cost: {scored}, {cost['answers']:,.0f} answers, {cost['tokens']:,.0f} tokens in all")
    lines.append(f"group diversity {selection.diversity:.2f}; not taken: {reasons_in_words(selection.rejected)}")
    return lines


class Screen(Reporter):
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
        """Print the table of the last stage that ran; of a whole build, those of all choices."""
        whole = until == "7-push"
        if build.found and until == "1-discover":
            self.console.print(discovered(build.found))
        if build.experts and (whole or until == "2-select-experts"):
            self.console.print(experts(build.experts))
        if build.rows and (whole or until == "3-select-instructions"):
            self.console.print(rows(build.rows))
        if build.merged and until == "4-merge":
            size = f"{build.merged.bytes / 1e6:.1f} MB"
            self.console.print(f"{build.merged.method}: {build.merged.adapter} ({size})")
        if build.trained and until == "5-train":
            self.console.print(f"trained adapter: {build.trained.training.adapter}")
        if build.measured and (whole or until == "6-evaluate"):
            self.console.print(evaluations(build.measured))
        if build.published:
            self.console.print(pushed(build.published))
        seconds = sum(build.run.seconds().values())
        self.console.print(f"[dim]{build.run.path}: {seconds / 60:.1f} minutes of work in all[/]")
