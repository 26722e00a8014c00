from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING

from huggingface_hub.hf_api import RepoFile

from rocket_hub.discovery.data_files import MAX_FILES, read_rows
from rocket_hub.discovery.datasets import DatasetSearch, is_bearable, probe, search_datasets
from rocket_hub.discovery.hub.answers import recall, remember
from rocket_hub.discovery.hub.client import call, collect, reason_of
from rocket_hub.discovery.listing import ListedDataset
from rocket_hub.discovery.verdicts import GIVE_UP, OUTAGES
from rocket_hub.errors import DatasetError, HubError
from rocket_hub.options import DiscoverOptions
from rocket_hub.records import DatasetCandidate, DatasetDiscovery, Example, Rejection
from rocket_hub.rows.layouts import detect_shape, first_number, is_read, to_prompt_completion
from rocket_hub.rows.values import Reading, flat_rows
from rocket_hub.tasks.task import Task

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from rocket_hub.inference.models import Encoder

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
    sizes = candidate.sizes or _sizes(api, candidate.repo_id, candidate.revision, candidate.files)
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
    sizes = (seen.size,) if single else tuple(_sizes(api, item.repo_id, item.revision, item.files))
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


def _sizes(api: HfApi, repo_id: str, revision: str, files: Sequence[str]) -> list[int]:
    """Ask for the sizes of data files, in bytes; at the same commit again without a request."""
    name = ("dataset sizes 1", repo_id, revision, *files)
    if kept := recall(api, *name):
        return list(kept[1])
    found = call(repo_id, api.get_paths_info, repo_id, list(files), revision=revision, repo_type="dataset")
    known = {item.path: item.size for item in found if isinstance(item, RepoFile)}
    if missing := next((file for file in files if file not in known), None):
        raise DatasetError("unreadable", f"{repo_id}: {missing} is listed, but not there")
    sizes = [known[file] for file in files]
    remember(api, sizes, *name)
    return sizes
