"""The list pass: everything on the Hub that says it is an adapter of a base model, each once."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rocket_hub.discovery.access.answers import or_last, pages
from rocket_hub.discovery.access.pool import collect
from rocket_hub.discovery.licences import declared, judge
from rocket_hub.errors import AdapterError
from rocket_hub.options import DiscoverOptions
from rocket_hub.serialization import from_dict, to_dict
from rocket_hub.tasks.own_data import own_data

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
MLX = "adapters.safetensors"
TOKENIZER = ("chat_template.jinja", "chat_template.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model")
EXPAND = ("sha", "siblings", "cardData", "downloads", "lastModified", "disabled", "tags")
DESCRIPTION = 500
"""Characters of what a card says that are kept."""

HUB_ID = re.compile(r"[\w-][\w.-]{0,95}/[\w.-]{1,96}", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
# Tags that say nothing about what an adapter is good for.
_PLAIN_TAGS = frozenset((
    "adapter", "autotrain_compatible", "base_model", "conversational", "endpoints_compatible", "generated_from_trainer",
    "lora", "peft", "pytorch", "safetensors", "sft", "text-generation", "text-generation-inference", "transformers",
    "trl", "unsloth",
))  # fmt: skip


@dataclass(frozen=True)
class Listed:
    """One adapter as a list shows it; what a list says is checked for its type and bounded.

    Attributes:
        repo_id: `namespace/name`, or what stands in its place.
        revision: Commit hash; empty if there is none.
        files: Which of the files that matter it has at its root.
        licence: What its card declares.
        datasets: Training data that its card declares.
        text: What its name, tags and card say, in at most 500 characters.
        downloads: As the Hub counts them.
        modified: When it was changed last (ISO 8601); empty if untold.
        disabled: Whether the Hub has closed it.
    """

    repo_id: str
    revision: str = ""
    files: tuple[str, ...] = ()
    licence: str = ""
    datasets: tuple[str, ...] = ()
    text: str = ""
    downloads: int = 0
    modified: str = ""
    disabled: bool = False


def list_adapters(api: HfApi, bases: Sequence[str], workers: int) -> tuple[tuple[Listed, ...], float]:
    """List everything that may be an adapter of a base model.

    Args:
        api: Where the Hub is, and who asks.
        bases: The base model's id, and ids of copies of it.
        workers: How many lists are read at once.

    Returns:
        The adapters, each once, sorted by id; and 0, or when they were listed if the Hub libraries are offline.

    Raises:
        HubError: A list cannot be read.
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
    """Read all pages for one filter."""
    # By date, new ones first: what is uploaded meanwhile cannot push another one past the end of a page.
    query = [*(("filter", tag) for tag in filters), ("sort", "createdAt"), *(("expand", name) for name in EXPAND)]
    found = pages(api, f"adapters with the tag {filters[0]}", "/api/models", query)
    return [read_item(item) for page in found for item in page]


def read_item(item: Any) -> Listed:
    """Read one item of a list, whatever it holds."""
    if not isinstance(item, dict):
        return Listed(repr(item)[:200])
    card = item.get("cardData")
    card = card if isinstance(card, dict) else {}
    name = item.get("id")
    repo_id = _printable(name) if isinstance(name, str) else repr(name)[:200]
    sha, modified, downloads = item.get("sha"), item.get("lastModified"), item.get("downloads")
    siblings = item.get("siblings")
    entries = [entry for entry in siblings if isinstance(entry, dict)] if isinstance(siblings, list) else []
    files = [entry.get("rfilename") for entry in entries]
    datasets = _strings(card.get("datasets"))
    return Listed(
        repo_id=repo_id,
        revision=sha if isinstance(sha, str) and COMMIT.fullmatch(sha) else "",
        files=tuple(file for file in (CONFIG, WEIGHTS, PICKLE, MLX, *TOKENIZER) if file in files),
        licence=declared(card),
        datasets=datasets,
        text=_text(repo_id, card, _strings(item.get("tags")), datasets),
        downloads=downloads if type(downloads) is int and 0 <= downloads < 1 << 50 else 0,
        modified=_printable(modified) if isinstance(modified, str) else "",
        disabled=item.get("disabled") is True,
    )


def _strings(value: Any) -> tuple[str, ...]:
    """Return the texts in a card's value, one or a list, bounded."""
    values = value if isinstance(value, list) else [value]
    return tuple(_printable(entry) for entry in values[:100] if isinstance(entry, str))


def _printable(text: str) -> str:
    """Return a text of somebody else's, bounded, as it may be shown on a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:200])


def _text(repo_id: str, card: Mapping[str, Any], tags: Sequence[str], datasets: Sequence[str]) -> str:
    """Say what an adapter is about, by its name, the name and tags in its card, and its data."""
    name = re.sub(r"[-_./]+", " ", repo_id.rpartition("/")[2])
    told = [tag for tag in dict.fromkeys(tags) if ":" not in tag and tag.lower() not in _PLAIN_TAGS]
    parts = [name, *_strings(card.get("model_name")), ", ".join(told), ", ".join(datasets)]
    return " ".join("; ".join(dict.fromkeys(part for part in parts if part)).split())[:DESCRIPTION]


def check_listed(item: Listed, options: DiscoverOptions, closed: Collection[str]) -> tuple[str, ...]:
    """Refuse what the list alone shows to be no safe LoRA adapter, or not to be used.

    Args:
        item: The adapter.
        options: Which licences are accepted, and whether the task's own data are left out.
        closed: Ids of the task's own data.

    Returns:
        Flags: `own_tokenizer` if it brings a tokenizer or chat template, `task_data` if it was trained on the task's
        own data.

    Raises:
        AdapterError: `reason` names the fault.
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
    """Say what there is instead of safetensors weights."""
    if PICKLE in item.files:
        raise AdapterError("pickle_only", f"only {PICKLE}, which can run code when it is read; nobody opens it here")
    if MLX in item.files:
        raise AdapterError("not_lora", f"saved by mlx-lm ({MLX}), and PEFT cannot load that")
    raise AdapterError("no_weights", f"there is no {WEIGHTS} at the root of the repository")
