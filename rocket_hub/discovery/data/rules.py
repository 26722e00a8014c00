"""Which data sets must not be trained on, or cannot be read, by what a list alone tells."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from rocket_hub.discovery.data.benchmarks import benchmark_of, mirrors_of
from rocket_hub.discovery.data.listing import HUB_ID, ListedDataset
from rocket_hub.options import DiscoverOptions
from rocket_hub.tasks.own_data import own_data
from rocket_hub.tasks.task import Task


@dataclass(frozen=True)
class Rules:
    """What is refused.

    Attributes:
        evaluation: Ids, in lower case, of what the task is evaluated on.
        benchmark: Name of the benchmark that this is; empty if it is none that is known.
        closed: Ids of the task's own training data.
        leave_out: Whether data sets made from these are refused.
        languages: Codes of the languages that are understood; empty = any.
        named: Whether the user named the data sets: then a benchmark is refused only if it is the task's own, and any
            language is understood.
    """

    evaluation: Collection[str]
    benchmark: str
    closed: Collection[str]
    leave_out: bool
    languages: Collection[str]
    named: bool

    @classmethod
    def of(cls, options: DiscoverOptions, task: Task | None, exclude: Collection[str]) -> Rules:
        """Make the rules for a task and what else is measured on."""
        measured = (*exclude, *([task.dataset] if task else []))
        return cls(
            evaluation={name for item in measured for name in mirrors_of(item)},
            benchmark=benchmark_of(task.dataset) if task else "",
            closed=task.closed if task else (),
            leave_out=options.leave_task_out,
            languages=set() if options.datasets else {language.lower() for language in options.languages},
            named=bool(options.datasets),
        )

    def refuse(self, item: ListedDataset) -> tuple[str, str] | None:
        """Return the reason why a data set is refused and what was found; None if it is not."""
        name = item.repo_id.lower()
        benchmark = benchmark_of(name)
        if name in self.evaluation:
            return "evaluation_set", "the task is evaluated on it"
        if not self.named and benchmark and benchmark == self.benchmark:
            return "evaluation_set", f"a copy of {benchmark}, which the task is evaluated on"
        if not self.named and (benchmark or item.benchmark):
            return "benchmark", f"{benchmark} is a benchmark" if benchmark else "the Hub lists it as a benchmark"
        if self.leave_out and (origin := self.origin(item)):
            return "task_data", f"made from {origin}, the task's own training data"
        return self._unusable(item)

    def origin(self, item: ListedDataset) -> str:
        """Return which of the task's own training data a data set says it was made from; empty if none."""
        return next(iter(own_data((item.repo_id, *item.sources), self.closed).values()), "")

    def _unusable(self, item: ListedDataset) -> tuple[str, str] | None:
        """Refuse what cannot be read, or not by those who shall."""
        if not HUB_ID.fullmatch(item.repo_id):
            return "bad_id", "not an id of the form namespace/name"
        if item.disabled:
            return "disabled", "the Hub has closed it"
        if not item.revision:
            return "unpinned", "the Hub does not tell its commit"
        if self.languages and item.languages and not {*self.languages, "mul"} & {*item.languages}:
            return "language", f"in {', '.join(item.languages[:10])}, not in {', '.join(sorted(self.languages))}"
        if not item.files:
            return item.missing[0], item.missing[1]
        return None
