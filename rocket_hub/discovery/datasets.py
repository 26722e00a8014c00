"""The first rows of a data set, looked at before anything of it is downloaded."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from rocket_hub.discovery.adapters import FAILING, SECONDS
from rocket_hub.discovery.hub.answers import recall, remember
from rocket_hub.discovery.hub.download import FIRST, RangeFile
from rocket_hub.discovery.known_data import benchmark_of, mirrors_of, own_data
from rocket_hub.discovery.listing import DATASET_ID, ListedDataset, list_datasets, named_dataset
from rocket_hub.discovery.ranking import likeliest_first, queries_for, search_words
from rocket_hub.errors import DatasetError
from rocket_hub.options import DiscoverOptions
from rocket_hub.records import Rejection
from rocket_hub.rows.files import rows_of
from rocket_hub.rows.layouts import LABELS, is_read
from rocket_hub.rows.values import MAX_CHARACTERS, Reading, flat_rows
from rocket_hub.serialization import from_dict, to_dict
from rocket_hub.tasks.task import Task

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from rocket_hub.inference.models import Encoder


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
        if not DATASET_ID.fullmatch(item.repo_id):
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


ROWS = 8
MAX_BYTES = 20 * 2**20
"""Bytes that are looked through for the first rows."""

_KEPT = 2**20
"""Characters of the rows that are kept for the next time."""


@dataclass(frozen=True)
class Probe:
    """What the first rows of a data set show."""

    columns: tuple[str, ...] = ()  # names of its columns
    rows: tuple[dict[str, Any], ...] = ()  # its first rows, flat, columns in lower case
    names: tuple[str, ...] = ()  # names of the classes of its label, if a Parquet file has them
    size: int = 0  # bytes of its first file
    fault: tuple[str, ...] = ()  # why its rows cannot be read, as a reason and what was found; empty if they can


def probe(api: HfApi, listed: ListedDataset) -> Probe:
    """Look at the first rows of a data set, in parts of its first file; at the same commit again without a request.

    Args:
        api: Where the Hub is, and who asks.
        listed: The data set; it has files.

    Returns:
        What they show.
    """
    kept = recall(api, *_name(listed))
    if kept is not None:
        return from_dict(Probe, kept[1], "the kept probe")
    try:
        found = _look(api, listed)
    except DatasetError as error:
        found = Probe(fault=(error.reason, str(error)))
    if len(str(found)) <= _KEPT:
        remember(api, to_dict(found), *_name(listed))
    return found


def is_kept(api: HfApi, listed: ListedDataset) -> bool:
    """Return whether probing a data set costs no request."""
    return recall(api, *_name(listed)) is not None


def _name(listed: ListedDataset) -> tuple[str, ...]:
    """Return what a probe is kept under; the number changes with what a probe is."""
    return ("dataset probe 1", listed.repo_id, listed.revision, listed.files[0])


def _look(api: HfApi, listed: ListedDataset) -> Probe:
    path, reading = listed.files[0], Reading(MAX_BYTES)
    where = f"{listed.repo_id}: {path}"
    file = RangeFile(api, listed.repo_id, listed.revision, path)
    records = list(islice(rows_of(file, path, reading, where, is_read), ROWS))
    rows = list(islice((row for record in records for row in flat_rows(record) if is_bearable(row)), ROWS))
    columns = list(reading.columns) or list(dict.fromkeys(str(column) for record in records for column in record))
    label = next((names for column, names in reading.columns.items() if names and column.lower() in LABELS), ())
    if not rows and (reading.too_long or reading.stopped or records):
        raise DatasetError("unreadable", f"{where}: the first rows are larger than a row may be")
    return Probe(tuple(columns), tuple(rows), label, file.size)


def is_bearable(row: dict[str, Any]) -> bool:
    """Return whether no text of a flat row is longer than it may be."""
    return all(len(value) <= MAX_CHARACTERS for value in row.values() if isinstance(value, str))


PER_PROBE = {"parquet": 3, "other": 1}
"""Reads of parts of a file until its first rows are known."""
PER_FILE = 3
"""Requests for each file that is then read: what it is, where it is, and its bytes."""
BYTES_A_SECOND = 10e6


@dataclass(frozen=True)
class DatasetPlan:
    """What reading instruction data will cost, at most about."""

    listed: int  # data sets that were listed
    candidates: int  # those that their cards do not rule out
    probes: int  # data sets whose first rows have to be read from the Hub; those of the others are kept here
    requests: int  # for these, and for reading as many as may be taken
    bytes: int  # for the same
    minutes: float  # at 0.15 s for a request and 10 MB/s


def plan_datasets(
    api: HfApi, candidates: Sequence[ListedDataset], listed: int, options: DiscoverOptions
) -> DatasetPlan:
    """Estimate what probing and reading data sets will cost.

    Args:
        api: Where the Hub is, and who asks.
        candidates: Those that their cards do not rule out, likeliest first.
        listed: How many there were before.
        options: How many may be taken, and how much is read of each.

    Returns:
        The plan.
    """
    tried = candidates[: round(FAILING * options.max_datasets)]
    unknown = [item for item in tried if not is_kept(api, item)]
    taken = candidates[: options.max_datasets]
    kinds = ["parquet" if item.files[0].endswith(".parquet") else "other" for item in unknown]
    requests = sum(PER_PROBE[kind] for kind in kinds) + sum(PER_FILE * len(item.files) for item in taken)
    most = options.max_bytes_per_dataset
    size = len(unknown) * FIRST + sum(min(item.size or most, most) for item in taken)
    seconds = requests * SECONDS / options.workers + size / BYTES_A_SECOND
    return DatasetPlan(listed, len(candidates), len(unknown), requests, size, seconds / 60)


PER_LIST = 10
"""How many data sets are listed per query for each one that may be taken."""


@dataclass(frozen=True)
class DatasetSearch:
    """What a search found."""

    candidates: tuple[ListedDataset, ...]  # data sets that their cards do not rule out, likeliest first
    rejected: tuple[Rejection, ...]  # the others, with the reason
    task_data: tuple[str, ...]  # ids of the candidates that were made from the task's own training data
    words: tuple[str, ...]  # what was searched for, besides tags and languages
    plan: DatasetPlan  # what it will cost to look at the candidates and to read as many as may be taken


def search_datasets(
    api: HfApi,
    *,
    options: DiscoverOptions,
    task: Task | None,
    exclude: Collection[str] = (),
    shots: Sequence[str] = (),
    encoder: Encoder | None = None,
) -> DatasetSearch:
    """Search for instruction data; only lists are read.

    Args:
        api: Where the Hub is, and who asks.
        options: Which data sets, or how many; languages and words to search for.
        task: The task; its evaluation set is never taken. None = none in particular.
        exclude: Further ids that are never taken.
        shots: Prompts of the K-shot, for the words and for the order.
        encoder: Compares them with what the cards say; asked only if more data sets are found than may be taken.

    Returns:
        What was found; in the given order if the options name the data sets.

    Raises:
        DatasetError: `not_found`: a data set that the options name does not exist.
        HubError: A list cannot be read.
    """
    words = options.queries or search_words(task.name if task else "", task.description if task else "", shots)
    if options.datasets:
        named = [named_dataset(api, name) for name in options.datasets]
        listed = list({item.repo_id: item for item in named}.values())
    else:
        queries = queries_for(words, options.languages)
        listed = list_datasets(api, queries, options.max_datasets * PER_LIST, options.workers)
    rules = Rules.of(options, task, exclude)
    judged = [(item, rules.refuse(item)) for item in listed]
    candidates = [item for item, refused in judged if not refused]
    rejected = tuple(Rejection(item.repo_id, *refused) for item, refused in judged if refused)
    if not options.datasets:
        contested = len(candidates) > options.max_datasets
        candidates = likeliest_first(candidates, words, shots, encoder if contested else None)
    own = tuple(item.repo_id for item in candidates if rules.origin(item))
    return DatasetSearch(tuple(candidates), rejected, own, words, plan_datasets(api, candidates, len(listed), options))
