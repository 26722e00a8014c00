"""The search for instruction data, as far as lists and cards go: before anything of a data set is read."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rocket_hub.discovery.data.listing import ListedDataset, list_datasets, named_dataset
from rocket_hub.discovery.data.plan import DatasetPlan, plan_datasets
from rocket_hub.discovery.data.queries import likeliest_first, queries_for, search_words
from rocket_hub.discovery.data.rules import Rules
from rocket_hub.options import DiscoverOptions
from rocket_hub.records import Rejection
from rocket_hub.tasks.task import Task

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from rocket_hub.inference.models import Encoder

PER_LIST = 10
"""How many data sets are listed per query for each one that may be taken."""


@dataclass(frozen=True)
class DatasetSearch:
    """What a search found.

    Attributes:
        candidates: Data sets that their cards do not rule out, likeliest first.
        rejected: The others, with the reason.
        task_data: Ids of the candidates that were made from the task's own training data.
        words: What was searched for, besides tags and languages.
        plan: What it will cost to look at the candidates and to read as many as may be taken.
    """

    candidates: tuple[ListedDataset, ...]
    rejected: tuple[Rejection, ...]
    task_data: tuple[str, ...]
    words: tuple[str, ...]
    plan: DatasetPlan


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
