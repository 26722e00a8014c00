"""LoRA adapters on the Hub that fit a base model, or the reason why not."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rocket_hub.discovery.bases import BaseShapes, read_base
from rocket_hub.discovery.compatibility import MAX_CONFIG_BYTES, check_config, check_header, parse_config
from rocket_hub.discovery.files import read_part
from rocket_hub.discovery.headers import read_header
from rocket_hub.discovery.hub import call, reason_of
from rocket_hub.discovery.licences import declared
from rocket_hub.errors import AdapterError, HubError, HubUnreachableError
from rocket_hub.options import DiscoverOptions
from rocket_hub.records import AdapterCandidate, AdapterDiscovery, Rejection

if TYPE_CHECKING:
    from huggingface_hub import HfApi, ModelInfo

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
MAX_ADAPTER_BYTES = 2 * 2**30
MAX_CARD_BYTES = 50_000
DESCRIPTION = 500
"""Characters of a card that are kept."""


def discover_adapters(
    api: HfApi,
    base: str,
    *,
    options: DiscoverOptions,
    progress: Callable[[int, int], None] | None = None,
    max_bytes: int = MAX_ADAPTER_BYTES,
) -> AdapterDiscovery:
    """Find the LoRA adapters on the Hub that fit a base model.

    An adapter costs one read of its configuration, one of the header of its weights and, if it fits, one of its card;
    no weights are downloaded.

    Args:
        api: Where the Hub is, and who asks.
        base: The base model's repository id.
        options: How many adapters may go on.
        progress: Called with (adapters looked at, adapters listed).
        max_bytes: Adapters whose weights are larger are rejected.

    Returns:
        The candidates, most downloaded first, and everything else that was looked at with the reason why not.

    Raises:
        InputError: The base model cannot be used.
        HubError: The base model or the list cannot be read; what is wrong with one adapter only rejects that one.
        HubUnreachableError: The Hub does not answer.
    """
    pinned, shapes = read_base(api, base)
    found = _list(api, pinned.repo_id)
    selected: list[AdapterCandidate] = []
    rejected: list[Rejection] = []
    for number, info in enumerate(found, start=1):
        try:
            _check_files(info)
            if len(selected) >= options.max_adapters:
                raise AdapterError("over_budget", f"{options.max_adapters} adapters with more downloads fit")
            selected.append(_examine(api, info, shapes, max_bytes))
        except HubUnreachableError:
            raise
        except (AdapterError, HubError) as error:
            reason = error.reason if isinstance(error, AdapterError) else reason_of(error)
            rejected.append(Rejection(info.id, reason, str(error)))
        if progress:
            progress(number, len(found))
    return AdapterDiscovery(pinned, tuple(selected), tuple(rejected))


def _list(api: HfApi, base: str) -> list[ModelInfo]:
    """List everything that may be an adapter of the base model, each once, most downloaded first."""
    found: dict[str, ModelInfo] = {}
    # No single filter finds them all: cards are written by hand, and the Hub infers the relation from them.
    for tags in ([f"base_model:adapter:{base}"], [f"base_model:{base}", "peft"], [f"base_model:{base}", "lora"]):
        page = call(f"adapters of {base}", _list_once, api, tags)
        found |= {info.id: info for info in page}
    return sorted(found.values(), key=lambda info: (-(info.downloads or 0), info.id))


def _list_once(api: HfApi, tags: list[str]) -> list[ModelInfo]:
    """List all pages for one filter."""
    return list(api.list_models(filter=tags, expand=["sha", "siblings", "cardData", "downloads"]))


def _check_files(info: ModelInfo) -> None:
    """Refuse, by the names of its files alone, what cannot be a safe LoRA adapter."""
    files = {sibling.rfilename for sibling in info.siblings or ()}
    if CONFIG not in files:
        raise AdapterError("not_an_adapter", f"there is no {CONFIG} at the root of the repository")
    if WEIGHTS not in files:
        if PICKLE in files:
            raise AdapterError(
                "pickle_only", f"only {PICKLE}, which can run code when it is read; nobody opens it here"
            )
        raise AdapterError("no_weights", f"there is no {WEIGHTS} at the root of the repository")
    if not info.sha:
        raise AdapterError("unpinned", "the Hub does not tell its commit")


def _examine(api: HfApi, info: ModelInfo, base: BaseShapes, max_bytes: int) -> AdapterCandidate:
    """Read configuration, header and card of one adapter.

    Raises:
        AdapterError: It does not fit.
        HubError: A file cannot be read.
    """
    revision = str(info.sha)
    data, _ = read_part(api, info.id, revision, CONFIG, length=MAX_CONFIG_BYTES + 1)
    config = parse_config(data)
    flags = check_config(config, base)
    header, size = read_header(api, info.id, revision, WEIGHTS)
    if size > max_bytes:
        raise AdapterError("too_large", f"{WEIGHTS} has {size:,} bytes, more than {max_bytes:,}")
    facts = check_header(header, config, base, verified="base_unverified" not in flags)
    return AdapterCandidate(
        repo_id=info.id,
        revision=revision,
        licence=declared(info.card_data),
        rank=facts.rank,
        target_modules=facts.target_modules,
        size=size,
        downloads=info.downloads or 0,
        datasets=_datasets(info.card_data),
        flags=flags,
        description=_description(api, info, revision),
    )


def _datasets(card: Any) -> tuple[str, ...]:
    """Return the training data that a card declares."""
    value = card.get("datasets") if card else None
    names = value if isinstance(value, list) else [value]
    return tuple(name[:200] for name in names[:100] if isinstance(name, str))


def _description(api: HfApi, info: ModelInfo, revision: str) -> str:
    """Read the text of a card, without its metadata."""
    if "README.md" not in {sibling.rfilename for sibling in info.siblings or ()}:
        return ""
    data, _ = read_part(api, info.id, revision, "README.md", length=MAX_CARD_BYTES)
    text = data.decode("utf-8", "replace").lstrip("\ufeff").replace("\r\n", "\n")
    if text.startswith("---\n"):
        text = text.partition("\n---\n")[2]
    return " ".join(text.split())[:DESCRIPTION]
