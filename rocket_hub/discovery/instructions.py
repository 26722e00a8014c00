from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from huggingface_hub import HfApi

from rocket_hub.discovery.adapters import FAILING, SECONDS
from rocket_hub.discovery.crawl import GIVE_UP, OUTAGES
from rocket_hub.discovery.data_files import MAX_FILES, file_sizes, read_rows
from rocket_hub.discovery.hub.answers import recall, remember
from rocket_hub.discovery.hub.client import collect, reason_of
from rocket_hub.discovery.hub.download import FIRST, RangeFile
from rocket_hub.discovery.known_data import benchmark_of, mirrors_of, own_data
from rocket_hub.discovery.listing import DATASET_ID, ListedDataset, list_datasets, named_dataset
from rocket_hub.discovery.ranking import likeliest_first, queries_for, search_words
from rocket_hub.errors import DatasetError, HubError
from rocket_hub.options import DiscoverOptions
from rocket_hub.records import DatasetCandidate, DatasetDiscovery, Example, Rejection
from rocket_hub.rows.files import rows_of
from rocket_hub.rows.layouts import LABELS, detect_shape, first_number, is_read, to_prompt_completion
from rocket_hub.rows.values import MAX_CHARACTERS, Reading, flat_rows
from rocket_hub.serialization import from_dict, to_dict
from rocket_hub.tasks.task import Task

if TYPE_CHECKING:
    from rocket_hub.inference.models import Encoder


class Rules:
    """Decides which data sets are refused, for a task and what else is measured on.

    Of those that the user named a benchmark is refused only if it is the task's own, and any language is understood.
    """

    def __init__(self, options: DiscoverOptions, task: Task | None, exclude: Collection[str]) -> None:
        measured = (*exclude, *([task.dataset] if task else []))
        self._evaluation = {name for item in measured for name in mirrors_of(item)}
        self._benchmark = benchmark_of(task.dataset) if task else ""
        self._closed, self._leave_out = task.closed if task else (), options.leave_task_out
        self._named = bool(options.datasets)
        self._languages = set() if self._named else {language.lower() for language in options.languages}

    def refuse(self, item: ListedDataset) -> tuple[str, str] | None:
        """Return the reason why a data set is refused and what was found; None if it is not."""
        name = item.repo_id.lower()
        benchmark = benchmark_of(name)
        if name in self._evaluation:
            return "evaluation_set", "the task is evaluated on it"
        if not self._named and benchmark and benchmark == self._benchmark:
            return "evaluation_set", f"a copy of {benchmark}, which the task is evaluated on"
        if not self._named and (benchmark or item.benchmark):
            return "benchmark", f"{benchmark} is a benchmark" if benchmark else "the Hub lists it as a benchmark"
        if self._leave_out and (origin := self.origin(item)):
            return "task_data", f"made from {origin}, the task's own training data"
        return self._unusable(item)

    def origin(self, item: ListedDataset) -> str:
        """Return which of the task's own training data a data set says it was made from; empty if none."""
        return next(iter(own_data((item.repo_id, *item.sources), self._closed).values()), "")

    def _unusable(self, item: ListedDataset) -> tuple[str, str] | None:
        """Refuse what cannot be read, or not by those who shall."""
        if not DATASET_ID.fullmatch(item.repo_id):
            return "bad_id", "not an id of the form namespace/name"
        if item.disabled:
            return "disabled", "the Hub has closed it"
        if not item.revision:
            return "unpinned", "the Hub does not tell its commit"
        if self._languages and item.languages and not {*self._languages, "mul"} & {*item.languages}:
            return "language", f"in {', '.join(item.languages[:10])}, not in {', '.join(sorted(self._languages))}"
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
    """Look at the first rows of a data set, in parts of its first file; at the same commit again without a request."""
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
    """Estimate what probing and reading data sets will cost, of those that their cards do not rule out."""
    tried = candidates[: round(FAILING * options.max_datasets)]
    unknown = [item for item in tried if recall(api, *_name(item)) is None]
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
    """Search for instruction data; only lists are read. If the options name the data sets, they keep their order.

    Arguments and errors are those of `discover_datasets`; the encoder is asked only if more data sets are found than
    may be taken.
    """
    words = options.queries or search_words(task.name if task else "", task.description if task else "", shots)
    if options.datasets:
        named = [named_dataset(api, name) for name in options.datasets]
        listed = list({item.repo_id: item for item in named}.values())
    else:
        queries = queries_for(words, options.languages)
        listed = list_datasets(api, queries, options.max_datasets * PER_LIST, options.workers)
    rules = Rules(options, task, exclude)
    judged = [(item, rules.refuse(item)) for item in listed]
    candidates = [item for item, refused in judged if not refused]
    rejected = tuple(Rejection(item.repo_id, *refused) for item, refused in judged if refused)
    if not options.datasets:
        contested = len(candidates) > options.max_datasets
        candidates = likeliest_first(candidates, words, shots, encoder if contested else None)
    own = tuple(item.repo_id for item in candidates if rules.origin(item))
    return DatasetSearch(tuple(candidates), rejected, own, words, plan_datasets(api, candidates, len(listed), options))


SAMPLE = 256
"""Rows after which it is decided whether the numbers of options start with 0 or with 1."""


def discover_datasets(
    api: HfApi,
    *,
    options: DiscoverOptions,
    task: Task | None,
    exclude: Collection[str] = (),
    shots: Sequence[str] = (),
    encoder: Encoder | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DatasetDiscovery:
    """Find instruction data on the Hub.

    Besides the list pages, a data set that passes what its card says costs one to four reads of parts of its first
    file; nothing is downloaded. What was read once is not asked for again.

    Args:
        api: Where the Hub is, and who asks.
        options: Which data sets, or how many; languages and words to search for.
        task: The task; its evaluation set is never taken. None = none in particular.
        exclude: Further ids that are never taken, for example other evaluation sets.
        shots: Prompts of the K-shot, for the search and for the order of the data sets.
        encoder: Compares them with what the cards say.
        progress: Called with (data sets with a verdict, data sets listed).

    Returns:
        The data sets, likeliest first (in the given order if the options name them), and everything else that was
        listed with the reason why not.

    Raises:
        DatasetError: `not_found`: a data set that the options name does not exist.
        HubError: The list cannot be read.
        HubUnreachableError: The Hub does not answer.
    """
    found = search_datasets(api, options=options, task=task, exclude=exclude, shots=shots, encoder=encoder)
    total = len(found.candidates) + len(found.rejected)

    def told(done: int) -> None:
        if progress:
            progress(len(found.rejected) + done, total)

    selected, rejected = _examine_all(api, found, options, told)
    return DatasetDiscovery(tuple(selected), (*found.rejected, *rejected))


def load_instructions(
    api: HfApi,
    candidate: DatasetCandidate,
    *,
    max_rows: int,
    max_bytes: int = DiscoverOptions.max_bytes_per_dataset,
    reading: Reading | None = None,
) -> list[Example]:
    """Read the rows of one data set.

    Args:
        api: Where the Hub is, and who asks.
        candidate: What `discover_datasets` selected.
        max_rows: At most this many rows are read.
        max_bytes: When so many bytes are read, no further row is.
        reading: Filled with what was read and dropped, and which budget ended it; its own bytes count then.

    Returns:
        The rows that have a prompt and a completion, in the order of the files.

    Raises:
        DatasetError: A file cannot be read.
        HubError: The Hub did not give the bytes.
    """
    return list(iter_instructions(api, candidate, max_rows=max_rows, max_bytes=max_bytes, reading=reading))


def iter_instructions(
    api: HfApi,
    candidate: DatasetCandidate,
    *,
    max_rows: int,
    max_bytes: int = DiscoverOptions.max_bytes_per_dataset,
    reading: Reading | None = None,
) -> Iterator[Example]:
    """Read the rows of one data set one by one, and nothing before it is due; otherwise as `load_instructions`."""
    reading = reading or Reading(max_bytes)
    sizes = candidate.sizes or file_sizes(api, candidate.repo_id, candidate.revision, candidate.files)
    files = list(zip(candidate.files, sizes, strict=True))
    records = read_rows(api, candidate.repo_id, candidate.revision, files, reading=reading, wanted=is_read)
    rows = (row for record in records for row in flat_rows(record))
    sample = list(islice(rows, min(SAMPLE, max_rows))) if candidate.shape == "multiple_choice" else []
    first = first_number(sample)
    for index, row in enumerate(chain(sample, rows)):
        if index >= max_rows:
            reading.stopped = "max_rows"
            return
        reading.rows += 1
        if not is_bearable(row):
            reading.too_long += 1
        elif pair := to_prompt_completion(candidate.shape, row, candidate.label_names, first=first):
            yield Example(*pair, source=candidate.repo_id, index=index)
        else:
            reading.unused += 1


def _examine_all(
    api: HfApi, search: DatasetSearch, options: DiscoverOptions, told: Callable[[int], None]
) -> tuple[list[DatasetCandidate], list[Rejection]]:
    """Examine data sets in their order until enough fit, as many at once as are still needed."""

    def examine(item: ListedDataset) -> DatasetCandidate | DatasetError | HubError:
        try:
            return _examine(api, item, options, own=item.repo_id in search.task_data)
        except (DatasetError, HubError) as error:
            return error

    candidates = search.candidates
    selected: list[DatasetCandidate] = []
    rejected: list[Rejection] = []
    done = in_a_row = 0
    while done < len(candidates) and len(selected) < options.max_datasets:
        wave = candidates[done : done + min(options.workers, options.max_datasets - len(selected))]
        for item, result in zip(wave, collect(examine, wave, options.workers), strict=True):
            if isinstance(result, DatasetCandidate):
                selected.append(result)
                in_a_row = 0
                continue
            reason = result.reason if isinstance(result, DatasetError) else reason_of(result)
            in_a_row = in_a_row + 1 if reason in OUTAGES else 0
            if in_a_row >= (min(GIVE_UP, len(candidates)) if reason == "unreachable" else GIVE_UP):
                raise result  # an outage is no verdict
            rejected.append(Rejection(item.repo_id, reason, str(result)))
        done += len(wave)
        told(done)
    detail = f"{options.max_datasets} data sets before this one fit"
    rejected += [Rejection(item.repo_id, "over_budget", detail) for item in candidates[done:]]
    told(len(candidates))
    return selected, rejected


def _examine(api: HfApi, item: ListedDataset, options: DiscoverOptions, *, own: bool) -> DatasetCandidate:
    """Look at the first rows of a data set and see whether its columns are understood."""
    seen = probe(api, item)
    if seen.fault:
        raise DatasetError(*seen.fault)
    if not seen.rows and not seen.columns:
        raise DatasetError("no_rows", f"{item.files[0]} holds no row")
    names = seen.names or item.names
    shape = detect_shape(seen.rows, names)
    if shape is None:
        raise DatasetError("unknown_columns", f"columns {_listed(seen.columns)}")
    single = len(item.files) == 1
    sizes = (seen.size,) if single else tuple(file_sizes(api, item.repo_id, item.revision, item.files))
    flags = {
        "task_data": own,
        "language_undeclared": not item.languages,
        "languages_mixed": len(item.languages) > 1 or item.languages == ("mul",),
        "over_bytes": sum(sizes) > options.max_bytes_per_dataset,
        "files_cut": len(item.files) == MAX_FILES,
    }
    return DatasetCandidate(
        item.repo_id, item.revision, item.licence, shape, item.files, sum(sizes), sizes, item.rows, item.downloads,
        item.languages, names, tuple(flag for flag, found in flags.items() if found), item.text,
    )  # fmt: skip


def _listed(columns: Sequence[str]) -> str:
    names = [re.sub(r"[^\x20-\x7e]+", "?", column)[:60] for column in columns[:40]]
    return ", ".join(names) + (", ..." if len(columns) > len(names) else "")
