"""Instruction data on the Hub whose columns are understood, and its rows as prompts and completions."""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice
from typing import TYPE_CHECKING, Any

from huggingface_hub.hf_api import RepoFile

from rocket_hub.discovery.datafiles import read_rows, train_files
from rocket_hub.discovery.hub import call, reason_of
from rocket_hub.discovery.licences import declared
from rocket_hub.discovery.shapes import detect_shape, to_prompt_completion
from rocket_hub.errors import DatasetError, HubError, HubUnreachableError
from rocket_hub.options import DiscoverOptions
from rocket_hub.records import DatasetCandidate, DatasetDiscovery, Rejection, Row
from rocket_hub.tasks.task import Task

if TYPE_CHECKING:
    from huggingface_hub import DatasetInfo, HfApi
    from huggingface_hub.hf_api import ExpandDatasetProperty_T

FILTERS = ("task_categories:text-generation", "task_categories:question-answering", "instruction-tuning")
EXPAND: list[ExpandDatasetProperty_T] = ["sha", "siblings", "cardData", "tags", "downloads"]
PER_FILTER = 10
"""How many data sets are listed per filter for each one that may be taken."""
PROBED_ROWS = 3
MAX_FILES = 200


def discover_datasets(
    api: HfApi, *, options: DiscoverOptions, task: Task, exclude: Collection[str] = ()
) -> DatasetDiscovery:
    """Find instruction data on the Hub.

    Args:
        api: Where the Hub is, and who asks.
        options: Which data sets, or how many.
        task: The task; its evaluation set is never taken.
        exclude: Further ids that are never taken, for example other evaluation sets.

    Returns:
        The data sets, most downloaded first (in the given order if the options name them), and everything else that was
        looked at with the reason why not.

    Raises:
        DatasetError: `not_found`: a data set that the options name does not exist.
        HubError: The list cannot be read.
        HubUnreachableError: The Hub does not answer.
    """
    found = [_named(api, name) for name in options.datasets] if options.datasets else _list(api, options.max_datasets)
    held_out = {name.lower() for name in (task.dataset, *exclude)}
    closed = {name.lower() for name in task.closed} if options.leave_task_out else set()
    selected: list[DatasetCandidate] = []
    rejected: list[Rejection] = []
    for info in found:
        try:
            files = _check_card(info, held_out, closed)
            if len(selected) >= options.max_datasets:
                raise DatasetError("over_budget", f"{options.max_datasets} data sets before this one fit")
            selected.append(_examine(api, info, files))
        except HubUnreachableError:
            raise
        except (DatasetError, HubError) as error:
            reason = error.reason if isinstance(error, DatasetError) else reason_of(error)
            rejected.append(Rejection(info.id, reason, str(error)))
    return DatasetDiscovery(tuple(selected), tuple(rejected))


def load_instructions(api: HfApi, candidate: DatasetCandidate, *, max_rows: int) -> list[Row]:
    """Read the rows of one data set.

    Args:
        api: Where the Hub is, and who asks.
        candidate: What `discover_datasets` selected.
        max_rows: At most this many rows are read.

    Returns:
        The rows that have a prompt and a completion, in the order of the files.

    Raises:
        DatasetError: A file cannot be read.
        HubError: The Hub did not give the bytes.
    """
    files = _sizes(api, candidate.repo_id, candidate.revision, candidate.files)
    rows = read_rows(api, candidate.repo_id, candidate.revision, files)
    pairs = ((index, to_prompt_completion(candidate.shape, row)) for index, row in enumerate(islice(rows, max_rows)))
    return [Row(*pair, source=candidate.repo_id, index=index) for index, pair in pairs if pair]


def _named(api: HfApi, name: str) -> DatasetInfo:
    """Look up a data set that the user named."""
    try:
        return call(f"data set {name}", api.dataset_info, name, expand=EXPAND)
    except HubError as error:
        if reason_of(error) != "not_found":
            raise
        raise DatasetError("not_found", f"{error}; it is named in discover.datasets") from error


def _list(api: HfApi, wanted: int) -> list[DatasetInfo]:
    """List data sets that may hold instructions, each once, most downloaded first."""
    found: dict[str, DatasetInfo] = {}
    for tag in FILTERS:
        page = call(f"data sets with the tag {tag}", _list_once, api, tag, wanted * PER_FILTER)
        found |= {info.id: info for info in page}
    return sorted(found.values(), key=lambda info: (-(info.downloads or 0), info.id))


def _list_once(api: HfApi, tag: str, limit: int) -> list[DatasetInfo]:
    """List the most downloaded data sets with one tag."""
    return list(api.list_datasets(filter=tag, sort="downloads", limit=limit, expand=EXPAND))


def _check_card(info: DatasetInfo, held_out: Collection[str], closed: Collection[str]) -> tuple[str, ...]:
    """Refuse what must not be trained on, by what the list tells; returns the train split's files."""
    if info.id.lower() in held_out:
        raise DatasetError("evaluation_set", "the task is evaluated on it")
    if "benchmark:official" in (info.tags or ()):
        raise DatasetError("benchmark", "the Hub lists it as a benchmark")
    if origin := next((name for name in (info.id.lower(), *_sources(info)) if name in closed), None):
        raise DatasetError("leave_task_out", f"made from {origin}, the task's own training data")
    if not info.sha:
        raise DatasetError("unpinned", "the Hub does not tell its commit")
    files = train_files([sibling.rfilename for sibling in info.siblings or ()], info.card_data)
    if not files:
        raise DatasetError("no_data_files", "no parquet, JSON or CSV file of a train split")
    return files[:MAX_FILES]


def _sources(info: DatasetInfo) -> list[str]:
    """Return the ids of the data sets that a data set says it was made from, in lower case."""
    value: Any = info.card_data.get("source_datasets") if info.card_data else None
    names = value if isinstance(value, list) else [value]
    tagged = [tag.partition(":")[2] for tag in info.tags or () if tag.startswith("source_datasets:")]
    return [name.lower().removeprefix("extended|") for name in [*names, *tagged] if isinstance(name, str)]


def _examine(api: HfApi, info: DatasetInfo, files: tuple[str, ...]) -> DatasetCandidate:
    """Read the first rows of a data set and see whether its columns are understood.

    Raises:
        DatasetError: They are not, or the file cannot be read.
        HubError: The file cannot be had, for example because it is gated.
    """
    sized = _sizes(api, info.id, str(info.sha), files)
    rows = list(islice(read_rows(api, info.id, str(info.sha), sized), PROBED_ROWS))
    columns = list(dict.fromkeys(column for row in rows for column in row))
    shape = detect_shape(columns)
    if shape is None:
        raise DatasetError("unknown_columns", f"columns {', '.join(map(str, columns))[:300] or 'none'}")
    total = sum(size for _, size in sized)
    return DatasetCandidate(info.id, str(info.sha), declared(info.card_data), shape, files, total)


def _sizes(api: HfApi, repo_id: str, revision: str, files: tuple[str, ...]) -> list[tuple[str, int]]:
    """Pair the data files with their sizes in bytes."""
    found = call(repo_id, api.get_paths_info, repo_id, list(files), revision=revision, repo_type="dataset")
    sizes = {item.path: item.size for item in found if isinstance(item, RepoFile)}
    if missing := next((file for file in files if file not in sizes), None):
        raise DatasetError("unreadable", f"{repo_id}: {missing} is listed, but not there")
    return [(file, sizes[file]) for file in files]
