"""The list pass: data sets on the Hub that may hold instructions, each once.

The lists are read as plain JSON: huggingface_hub turns cards into objects of its own and fails, for the whole list, on
one card that has a key of a name such as `self`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from huggingface_hub import get_session
from huggingface_hub.utils import build_hf_headers, validate_repo_id  # type: ignore[attr-defined]

from rocket_hub.discovery.access.answers import MAX_ANSWER, or_last, pages
from rocket_hub.discovery.access.files import TIMEOUT, raise_for_status, read_bounded
from rocket_hub.discovery.access.hub import call, reason_of
from rocket_hub.discovery.access.pool import collect
from rocket_hub.discovery.data.cards import declared_rows, label_names, languages_of, sources_of, strings
from rocket_hub.discovery.data.trainfiles import train_files, why_no_files
from rocket_hub.discovery.licences import declared
from rocket_hub.errors import DatasetError, HubError
from rocket_hub.serialization import from_dict, to_dict

if TYPE_CHECKING:
    from huggingface_hub import HfApi

EXPAND = ("sha", "siblings", "cardData", "tags", "downloads", "description", "disabled", "gated", "mainSize")
DESCRIPTION = 500
"""Characters of what a card says that are kept."""

HUB_ID = re.compile(r"([\w-][\w.-]{0,95}/)?[\w.-]{1,96}", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class ListedDataset:
    """One data set as a list shows it; what a list says is checked for its type and bounded.

    Attributes:
        repo_id: `namespace/name`, or what stands in its place.
        revision: Commit hash; empty if there is none.
        files: Data files of the train split.
        missing: If there are none, the reason and what was found.
        licence: What its card declares.
        languages: What its card declares, see `languages_of`.
        sources: Data sets that it says it was made from, in lower case.
        names: Names of the classes of its label.
        text: What its name, tags and card say, in at most 500 characters.
        rows: Rows of the train split, as the card says; 0 = it does not.
        size: Bytes of the repository; 0 = untold.
        downloads: As the Hub counts them.
        benchmark: Whether the Hub lists it as a benchmark.
        disabled: Whether the Hub has closed it.
        gated: Whether one has to ask for access.
    """

    repo_id: str
    revision: str = ""
    files: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    licence: str = ""
    languages: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    text: str = ""
    rows: int = 0
    size: int = 0
    downloads: int = 0
    benchmark: bool = False
    disabled: bool = False
    gated: bool = False


Query = tuple[tuple[str, str], ...]
"""Conditions of one list, for example `(("filter", "language:en"), ("search", "math"))`."""


def list_datasets(api: HfApi, queries: Sequence[Query], limit: int, workers: int) -> list[ListedDataset]:
    """List the most downloaded data sets for each of some queries; offline, what was listed the last time.

    Args:
        api: Where the Hub is, and who asks.
        queries: Conditions of each list.
        limit: At most this many data sets per query.
        workers: How many lists are read at once.

    Returns:
        The data sets, each once, most downloaded first.

    Raises:
        HubError: A list cannot be read.
    """

    def read(query: Query) -> list[dict[str, Any]]:
        whole = [*query, ("sort", "downloads"), ("limit", str(limit)), *(("expand", name) for name in EXPAND)]
        what = "data sets with " + ", ".join(f"{key} {value}" for key, value in query)
        items = (item for page in pages(api, what, "/api/datasets", whole) for item in page)
        return [to_dict(read_item(item)) for item in islice(items, limit)]

    def ask(query: Query) -> list[dict[str, Any]]:
        items, _ = or_last(
            api, lambda: read(query), "datasets 1", str(limit), *(part for pair in query for part in pair)
        )
        return items

    found = {item["repo_id"]: item for items in collect(ask, queries, workers) for item in reversed(items)}
    listed = [from_dict(ListedDataset, item, "the kept list") for item in found.values()]
    return sorted(listed, key=lambda item: (-item.downloads, item.repo_id))


def named_dataset(api: HfApi, name: str) -> ListedDataset:
    """Look up a data set that the user named; offline, what was found the last time.

    Raises:
        DatasetError: `not_found`: there is none.
        HubError: The Hub does not answer, or the name is none.
    """
    what = f"data set {name}"

    def get() -> Any:
        url = f"{api.endpoint}/api/datasets/{quote(name)}?{urlencode([('expand', field) for field in EXPAND])}"
        with get_session().stream("GET", url, headers=build_hf_headers(token=api.token), timeout=TIMEOUT) as response:
            raise_for_status(response)
            return json.loads(read_bounded(response, MAX_ANSWER, unpack=True)[0])

    def ask() -> dict[str, Any]:
        call(what, validate_repo_id, name)
        return to_dict(read_item(call(what, get)))

    try:
        item, _ = or_last(api, ask, "dataset 1", name)
    except HubError as error:
        if reason_of(error) != "not_found":
            raise
        raise DatasetError("not_found", f"{error}; it is named in discover.datasets") from error
    return from_dict(ListedDataset, item, "the kept answer")


def read_item(item: Any) -> ListedDataset:
    """Read one item of a list, whatever it holds."""
    if not isinstance(item, dict):
        return ListedDataset(ascii(item)[:200])
    card = item.get("cardData")
    card = card if isinstance(card, dict) else {}
    tags = strings(item.get("tags"))
    name, sha = item.get("id"), item.get("sha")
    siblings = item.get("siblings")
    entries = (
        [entry.get("rfilename") for entry in siblings if isinstance(entry, dict)] if isinstance(siblings, list) else []
    )
    paths = [path for path in entries if isinstance(path, str)]
    files = train_files(paths, card)
    repo_id = name if isinstance(name, str) and HUB_ID.fullmatch(name) else ascii(name)[:200]
    return ListedDataset(
        repo_id=repo_id,
        revision=sha if isinstance(sha, str) and _COMMIT.fullmatch(sha) else "",
        files=files,
        missing=() if files else why_no_files(paths),
        licence=declared(card),
        languages=languages_of(card, tags),
        sources=sources_of(card, tags),
        names=label_names(card),
        text=_text(repo_id, tags, item.get("description") or card.get("pretty_name")),
        rows=declared_rows(card),
        size=_count(item.get("mainSize")),
        downloads=_count(item.get("downloads")),
        benchmark="benchmark:official" in tags,
        disabled=item.get("disabled") is True,
        gated=item.get("gated") not in (None, False),
    )


def _count(value: Any) -> int:
    """Return a number that counts something; 0 if it is none."""
    return value if type(value) is int and 0 <= value < 1 << 50 else 0


def _text(repo_id: str, tags: Sequence[str], description: Any) -> str:
    """Say what a data set is about, by its name, its own tags and the start of its card."""
    name = re.sub(r"[-_./]+", " ", repo_id.rpartition("/")[2])
    told = [tag for tag in tags if ":" not in tag or tag.startswith(("task_categories:", "task_ids:"))]
    own = [tag.rpartition(":")[2].replace("-", " ") for tag in told]
    said = description if isinstance(description, str) else ""
    return " ".join("; ".join(part for part in (name, ", ".join(own), said[: 4 * DESCRIPTION]) if part).split())[
        :DESCRIPTION
    ]
