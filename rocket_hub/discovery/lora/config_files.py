"""`adapter_config.json` of an adapter: asked for once, kept for ever; a closed door is not knocked at twice an hour."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, Any

from huggingface_hub.errors import GatedRepoError
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

from rocket_hub.discovery.access.cache import load, recall, remember, save
from rocket_hub.discovery.access.files import fetch
from rocket_hub.discovery.lora.configs import MAX_CONFIG_BYTES, parse_config
from rocket_hub.discovery.lora.listing import CONFIG, Listed
from rocket_hub.errors import AdapterError, HubError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

REFUSED_FOR = 3600.0
"""Seconds for which it is remembered, for one token, that the Hub gave no access."""


def read_config(api: HfApi, item: Listed) -> dict[str, Any]:
    """Read the configuration of a listed adapter with at most one request.

    Args:
        api: Where the Hub is, and who asks.
        item: The adapter, which `check_listed` has passed.

    Returns:
        The configuration.

    Raises:
        AdapterError: `broken_config`; or `gated`, as the Hub said less than an hour ago.
        HubError: It cannot be read; `reason_of` names the fault.
    """
    part = load(api, "file", item.repo_id, item.revision, CONFIG)
    if part is None:
        if (refused := _refused(api, item)) is not None:
            raise AdapterError("gated", refused)
        try:
            part = fetch(api, item.repo_id, item.revision, CONFIG, length=MAX_CONFIG_BYTES + 1)
        except HubError as error:
            if isinstance(error.__cause__, GatedRepoError):
                remember(api, str(error), *_refusal(api, item))
            raise
        part = part._replace(size=max(part.size, len(part.data)))
        if part.size > MAX_CONFIG_BYTES:
            part = part._replace(data=b"")  # nothing of it counts but its size
        if part.hash:  # else it is not certain that the Hub said it
            save(api, part, "file", item.repo_id, item.revision, CONFIG)
    return parse_config(part.data, part.size)


def is_config_kept(api: HfApi, item: Listed) -> bool:
    """Return whether reading the configuration costs no request."""
    kept = load(api, "file", item.repo_id, item.revision, CONFIG)
    return kept is not None or _refused(api, item) is not None


def _refused(api: HfApi, item: Listed) -> str | None:
    """Return what the Hub said when it gave no access, None if it did not in the last hour."""
    kept = recall(api, *_refusal(api, item))
    if kept is None or not 0 <= time.time() - kept[0] < REFUSED_FOR:
        return None
    minutes = (time.time() - kept[0]) / 60
    return f"{kept[1]} (said {minutes:.0f} minutes ago; the Hub is asked again after {REFUSED_FOR / 60:.0f})"


def _refusal(api: HfApi, item: Listed) -> tuple[str, ...]:
    """Name the refusal of one adapter to one user."""
    who = build_hf_headers(token=api.token).get("authorization", "")
    return ("refusal", hashlib.sha256(who.encode()).hexdigest(), item.repo_id, item.revision)
