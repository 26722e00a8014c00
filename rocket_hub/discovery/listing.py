"""What the Hub lists: the adapters of a base model, and data sets. What a list says is checked and bounded."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any
from urllib.parse import quote, urlencode

from huggingface_hub import HfApi
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from rocket_hub.discovery.data_files import train_files, why_no_files
from rocket_hub.discovery.hub.answers import get, or_last, pages
from rocket_hub.discovery.hub.client import call, collect, reason_of
from rocket_hub.discovery.known_data import own_data
from rocket_hub.discovery.licences import declared, judge
from rocket_hub.errors import AdapterError, DatasetError, HubError
from rocket_hub.options import DiscoverOptions
from rocket_hub.rows.layouts import LABELS
from rocket_hub.rows.parquet import class_names
from rocket_hub.serialization import from_dict, to_dict

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
MLX = "adapters.safetensors"
TOKENIZER = ("chat_template.jinja", "chat_template.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model")
EXPAND = ("sha", "siblings", "cardData", "downloads", "lastModified", "disabled", "tags")
DATASET_EXPAND = ("sha", "siblings", "cardData", "tags", "downloads", "description", "disabled", "gated", "mainSize")
DESCRIPTION = 500
"""Characters of what a card says that are kept."""

HUB_ID = re.compile(r"[\w-][\w.-]{0,95}/[\w.-]{1,96}", re.ASCII)
DATASET_ID = re.compile(r"([\w-][\w.-]{0,95}/)?[\w.-]{1,96}", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
# Tags that say nothing about what an adapter is good for.
_PLAIN_TAGS = frozenset((
    "adapter", "autotrain_compatible", "base_model", "conversational", "endpoints_compatible", "generated_from_trainer",
    "lora", "peft", "pytorch", "safetensors", "sft", "text-generation", "text-generation-inference", "transformers",
    "trl", "unsloth",
))  # fmt: skip
_MANY = ("multilingual", "multi", "mul", "translation")
_NO_LANGUAGES = ("code", "und", "zxx", "unknown", "other", "python")
_LANGUAGES = {"english": "en", "eng": "en", "chinese": "zh", "german": "de", "french": "fr", "spanish": "es"}
_MOST = 200
"""Texts of a list, and characters of each, that are read."""

Query = tuple[tuple[str, str], ...]
"""Conditions of one list, for example `(("filter", "language:en"), ("search", "math"))`."""


@dataclass(frozen=True)
class Listed:
    """One adapter as a list shows it."""

    repo_id: str  # `namespace/name`, or what stands in its place
    revision: str = ""  # commit hash; empty if there is none
    files: tuple[str, ...] = ()  # which of the files that matter it has at its root
    licence: str = ""  # what its card declares
    datasets: tuple[str, ...] = ()  # training data that its card declares
    text: str = ""  # what its name, tags and card say, in at most 500 characters
    downloads: int = 0  # as the Hub counts them
    modified: str = ""  # when it was changed last (ISO 8601); empty if untold
    disabled: bool = False  # whether the Hub has closed it


def list_adapters(api: HfApi, bases: Sequence[str], workers: int) -> tuple[tuple[Listed, ...], float]:
    """List everything that may be an adapter of a base model, given by its id and ids of copies of it.

    Returns:
        The adapters, each once, sorted by id; and 0, or when they were listed if the Hub libraries are offline.
    """
    # No single filter finds them all: cards are written by hand, and the Hub infers the relation from them.
    filters = [
        filters
        for base in bases
        for filters in ((f"base_model:adapter:{base}",), (f"base_model:{base}", "peft"), (f"base_model:{base}", "lora"))
    ]

    def ask() -> list[dict[str, Any]]:
        found: dict[str, Listed] = {}
        for listed in collect(lambda wanted: _list(api, wanted), filters, workers):
            for item in listed:
                found.setdefault(item.repo_id, item)
        return [to_dict(found[repo_id]) for repo_id in sorted(found)]

    items, date = or_last(api, ask, "adapters 1", *bases)
    return tuple(from_dict(Listed, item, "the kept list") for item in items), date


def _list(api: HfApi, filters: Sequence[str]) -> list[Listed]:
    # By date, new ones first: what is uploaded meanwhile cannot push another one past the end of a page.
    query = [*(("filter", tag) for tag in filters), ("sort", "createdAt"), *_expanded(EXPAND)]
    found = pages(api, f"adapters with the tag {filters[0]}", "/api/models", query)
    return [read_item(item) for page in found for item in page]


def read_item(item: Any) -> Listed:
    """Read one item of a list of adapters, whatever it holds."""
    if not isinstance(item, dict):
        return Listed(repr(item)[:200])
    card, name, modified, files = _card(item), item.get("id"), item.get("lastModified"), _paths(item)
    repo_id = _printable(name) if isinstance(name, str) else repr(name)[:200]
    datasets = _printables(card.get("datasets"))
    tags = [tag for tag in _printables(item.get("tags")) if ":" not in tag and tag.lower() not in _PLAIN_TAGS]
    return Listed(
        repo_id=repo_id,
        revision=_revision(item),
        files=tuple(file for file in (CONFIG, WEIGHTS, PICKLE, MLX, *TOKENIZER) if file in files),
        licence=declared(card),
        datasets=datasets,
        text=_about(repo_id, *_printables(card.get("model_name")), ", ".join(dict.fromkeys(tags)), ", ".join(datasets)),
        downloads=_count(item.get("downloads")),
        modified=_printable(modified) if isinstance(modified, str) else "",
        disabled=item.get("disabled") is True,
    )


def check_listed(item: Listed, options: DiscoverOptions, closed: Collection[str]) -> tuple[str, ...]:
    """Refuse what the list alone shows to be no safe LoRA adapter, or not to be used; `closed` is the task's own data.

    Returns:
        Flags: `own_tokenizer` if it brings a tokenizer or chat template, `task_data` if it was trained on the task's
        own data.
    """
    if not HUB_ID.fullmatch(item.repo_id) or ".." in item.repo_id:
        raise AdapterError("bad_name", "not a repository id of the form namespace/name")
    if item.disabled:
        raise AdapterError("disabled", "the Hub has closed the repository")
    if CONFIG not in item.files:
        raise AdapterError("not_an_adapter", f"there is no {CONFIG} at the root of the repository")
    if WEIGHTS not in item.files:
        _refuse_files(item)
    if not item.revision:
        raise AdapterError("unpinned", "the Hub does not tell its commit")
    if judge(item.licence, options.allow_licences):
        hint = f"name '{item.licence}' in discover.allow_licences (--allow-licence) to accept that"
        raise AdapterError("licence", f"its licence {item.licence} restricts the result; {hint}")
    used = next(iter(own_data(item.datasets, closed).values()), "")
    if used and options.leave_task_out:
        raise AdapterError("task_data", f"trained on {used}, the task's own data")
    own = any(file in item.files for file in TOKENIZER)
    return (*(("own_tokenizer",) if own else ()), *(("task_data",) if used else ()))


def _refuse_files(item: Listed) -> None:
    """Refuse an adapter without safetensors weights, by what it has instead."""
    if PICKLE in item.files:
        raise AdapterError("pickle_only", f"only {PICKLE}, which can run code when it is read; nobody opens it here")
    if MLX in item.files:
        raise AdapterError("not_lora", f"saved by mlx-lm ({MLX}), and PEFT cannot load that")
    raise AdapterError("no_weights", f"there is no {WEIGHTS} at the root of the repository")


@dataclass(frozen=True)
class ListedDataset:
    """One data set as a list shows it."""

    repo_id: str  # `namespace/name`, or what stands in its place
    revision: str = ""  # commit hash; empty if there is none
    files: tuple[str, ...] = ()  # data files of the train split
    missing: tuple[str, ...] = ()  # if there are none, the reason and what was found
    licence: str = ""  # what its card declares
    languages: tuple[str, ...] = ()  # what its card declares, see `languages_of`
    sources: tuple[str, ...] = ()  # data sets that it says it was made from, in lower case
    names: tuple[str, ...] = ()  # names of the classes of its label
    text: str = ""  # what its name, tags and card say, in at most 500 characters
    rows: int = 0  # rows of the train split, as the card says; 0 = it does not
    size: int = 0  # bytes of the repository; 0 = untold
    downloads: int = 0  # as the Hub counts them
    benchmark: bool = False  # whether the Hub lists it as a benchmark
    disabled: bool = False  # whether the Hub has closed it
    gated: bool = False  # whether one has to ask for access


def list_datasets(api: HfApi, queries: Sequence[Query], limit: int, workers: int) -> list[ListedDataset]:
    """List the data sets for each of some queries, `limit` of each; offline, what was listed the last time.

    Returns:
        The data sets, each once, most downloaded first.
    """

    def read(query: Query) -> list[dict[str, Any]]:
        whole = [*query, ("sort", "downloads"), ("limit", str(limit)), *_expanded(DATASET_EXPAND)]
        what = "data sets with " + ", ".join(f"{key} {value}" for key, value in query)
        items = (item for page in pages(api, what, "/api/datasets", whole) for item in page)
        return [to_dict(read_dataset(item)) for item in islice(items, limit)]

    def ask(query: Query) -> list[dict[str, Any]]:
        items, _ = or_last(
            api, lambda: read(query), "datasets 1", str(limit), *(part for pair in query for part in pair)
        )
        return items

    found = {item["repo_id"]: item for items in collect(ask, queries, workers) for item in reversed(items)}
    listed = [from_dict(ListedDataset, item, "the kept list") for item in found.values()]
    return sorted(listed, key=lambda item: (-item.downloads, item.repo_id))


def named_dataset(api: HfApi, name: str) -> ListedDataset:
    """Look up a data set that the user named; offline, what was found the last time."""
    what = f"data set {name}"

    def ask() -> dict[str, Any]:
        call(what, validate_repo_id, name)
        path, query = f"/api/datasets/{quote(name)}", urlencode(_expanded(DATASET_EXPAND))
        return to_dict(read_dataset(call(what, get, api, path, query, dict)[0]))

    try:
        item, _ = or_last(api, ask, "dataset 1", name)
    except HubError as error:
        if reason_of(error) != "not_found":
            raise
        raise DatasetError("not_found", f"{error}; it is named in discover.datasets") from error
    return from_dict(ListedDataset, item, "the kept answer")


def read_dataset(item: Any) -> ListedDataset:
    """Read one item of a list of data sets, whatever it holds."""
    if not isinstance(item, dict):
        return ListedDataset(ascii(item)[:200])
    card, tags, name, paths = _card(item), strings(item.get("tags")), item.get("id"), _paths(item)
    files = train_files(paths, card)
    repo_id = name if isinstance(name, str) and DATASET_ID.fullmatch(name) else ascii(name)[:200]
    topics = [tag for tag in tags if ":" not in tag or tag.startswith(("task_categories:", "task_ids:"))]
    description = item.get("description") or card.get("pretty_name")
    said = description[: 4 * DESCRIPTION] if isinstance(description, str) else ""
    return ListedDataset(
        repo_id=repo_id,
        revision=_revision(item),
        files=files,
        missing=() if files else why_no_files(paths),
        licence=declared(card),
        languages=languages_of(card, tags),
        sources=sources_of(card, tags),
        names=label_names(card),
        text=_about(repo_id, ", ".join(tag.rpartition(":")[2].replace("-", " ") for tag in topics), said),
        rows=declared_rows(card),
        size=_count(item.get("mainSize")),
        downloads=_count(item.get("downloads")),
        benchmark="benchmark:official" in tags,
        disabled=item.get("disabled") is True,
        gated=item.get("gated") not in (None, False),
    )


def _expanded(fields: Sequence[str]) -> list[tuple[str, str]]:
    return [("expand", field) for field in fields]


def _card(item: Mapping[str, Any]) -> dict[str, Any]:
    card = item.get("cardData")
    return card if isinstance(card, dict) else {}


def _paths(item: Mapping[str, Any]) -> list[str]:
    siblings = item.get("siblings")
    entries = siblings if isinstance(siblings, list) else []
    paths = [entry.get("rfilename") for entry in entries if isinstance(entry, dict)]
    return [path for path in paths if isinstance(path, str)]


def _revision(item: Mapping[str, Any]) -> str:
    sha = item.get("sha")
    return sha if isinstance(sha, str) and COMMIT.fullmatch(sha) else ""


def _count(value: Any) -> int:
    """Return a number that counts something; 0 if it is none."""
    return value if type(value) is int and 0 <= value < 1 << 50 else 0


def _about(repo_id: str, *told: str) -> str:
    """Return what a repository says of itself: the words of its name, and what is told, each once."""
    name = re.sub(r"[-_./]+", " ", repo_id.rpartition("/")[2])
    return " ".join("; ".join(dict.fromkeys(part for part in (name, *told) if part)).split())[:DESCRIPTION]


def strings(value: Any) -> tuple[str, ...]:
    """Return the texts in a value, one or a list, bounded."""
    values = value if isinstance(value, list) else [value]
    return tuple(entry[:_MOST] for entry in values[:_MOST] if isinstance(entry, str))


def _printable(text: str) -> str:
    """Return a text of somebody else's, bounded, as it may be shown on a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:_MOST])


def _printables(value: Any) -> tuple[str, ...]:
    """Return at most 100 texts in a value as they may be shown on a terminal."""
    return tuple(map(_printable, strings(value)[:100]))


def languages_of(card: Mapping[str, Any], tags: Iterable[str]) -> tuple[str, ...]:
    """Return the languages that a card or the tags declare.

    Returns:
        Codes of two or three letters in lower case, each once; `mul` for many; nothing if nothing is declared, or only
        a language of computers.
    """
    told = [*strings(card.get("language")), *(tag.partition(":")[2] for tag in tags if tag.startswith("language:"))]
    codes = [re.split(r"[-_]", name.strip().lower())[0] for name in told]
    codes = ["mul" if code in _MANY else _LANGUAGES.get(code, code) for code in codes]
    return tuple(dict.fromkeys(code for code in codes if code and code not in _NO_LANGUAGES))


def sources_of(card: Mapping[str, Any], tags: Iterable[str]) -> tuple[str, ...]:
    """Return the ids, in lower case, of the data sets that a data set says it was made from."""
    tagged = (tag.partition(":")[2] for tag in tags if tag.startswith("source_datasets:"))
    told = (*strings(card.get("source_datasets")), *tagged)
    names = [name.strip().lower().removeprefix("extended|") for name in told]
    return tuple(dict.fromkeys(name for name in names if name not in ("", "original", "extended")))


def label_names(card: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the classes that a card declares for the label; empty where there are none."""
    for info in _infos(card):
        features = info.get("features")
        for feature in features[:_MOST] if isinstance(features, list) else ():
            kind = feature.get("dtype") if isinstance(feature, dict) else None
            told = kind.get("class_label") if isinstance(kind, dict) else None
            if isinstance(told, dict) and str(feature.get("name")).lower() in LABELS:
                return class_names(told.get("names"))
    return ()


def declared_rows(card: Mapping[str, Any]) -> int:
    """Return how many rows a card says its train split has, 0 if it does not; to be shown, never to be trusted."""
    for info in _infos(card):
        splits = info.get("splits")
        for split in splits[:_MOST] if isinstance(splits, list) else ():
            rows = split.get("num_examples") if isinstance(split, dict) and split.get("name") == "train" else None
            if type(rows) is int and 0 <= rows < 1 << 50:
                return rows
    return 0


def _infos(card: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
    told = card.get("dataset_info")
    return [info for info in (told if isinstance(told, list) else [told])[:_MOST] if isinstance(info, dict)]
