"""The info record of a repository: one function per field, so that a list computes only what was asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from typing import Any

from rocket_hub.localhub.metadata import View
from rocket_hub.localhub.refusal import RefusedError

COMMON: dict[str, Callable[[View], Any]] = {
    "author": lambda view: view.repository.namespace,
    "sha": lambda view: view.sha,
    "lastModified": lambda view: view.repository.commits[view.sha].date,
    "createdAt": lambda view: view.repository.settings["createdAt"],
    "private": lambda view: view.repository.settings["private"],
    "gated": lambda view: view.repository.settings["gated"],
    "disabled": lambda view: False,
    "downloads": lambda view: view.repository.settings["downloads"],
    "downloadsAllTime": lambda view: view.repository.settings["downloads"],
    "likes": lambda view: view.repository.settings["likes"],
    "trendingScore": lambda view: view.repository.settings["trendingScore"],
    "tags": lambda view: view.tags,
    "cardData": lambda view: view.card,
    "siblings": lambda view: view.siblings(),
    "usedStorage": lambda view: sum(entry.size for entry in view.tree.values()),
    "resourceGroup": lambda view: None,
}
MODEL: dict[str, Callable[[View], Any]] = {
    **COMMON,
    "pipeline_tag": lambda view: view.card.get("pipeline_tag"),
    "library_name": lambda view: view.library,
    "config": lambda view: view.config(),
    "baseModels": lambda view: (
        {"relation": view.relation, "models": [{"id": base} for base in view.bases]} if view.bases else None
    ),
    "model-index": lambda view: view.card.get("model-index"),
    "safetensors": lambda view: view.parameters(),
    "evalResults": lambda view: view.evaluations(),
    "spaces": lambda view: [],
    # The real Hub fills these from services that a folder does not have.
    **dict.fromkeys(
        ("childrenModelCount", "gguf", "inference", "inferenceProviderMapping", "mask_token"), lambda view: None
    ),
    **dict.fromkeys(("transformersInfo", "widgetData"), lambda view: None),
}
DATASET: dict[str, Callable[[View], Any]] = {
    **COMMON,
    "description": lambda view: view.card.get("description"),
    "mainSize": lambda view: sum(entry.size for entry in view.tree.values()),
    **dict.fromkeys(("citation", "paperswithcode_id"), lambda view: None),
}
NOT_IN_LISTS = frozenset({"baseModels", "childrenModelCount", "usedStorage"})


def describe(view: View, fields: Collection[str] | None = None) -> dict[str, Any]:
    """Return the info record of a repository.

    Args:
        view: The repository at a commit.
        fields: The fields to compute; None means all.

    Returns:
        JSON data; fields without a value are left out.

    Raises:
        RefusedError: If a field does not exist (400).
    """
    repository = view.repository
    known = MODEL if repository.kind == "model" else DATASET
    if unknown := sorted(set(fields or ()) - set(known)):
        raise RefusedError(400, f'"expand" contains an invalid value: {unknown}')
    number = hashlib.sha256(f"{repository.kind}/{repository.id}".encode()).hexdigest()[:24]
    record: dict[str, Any] = {"_id": number, "id": repository.id}
    if repository.kind == "model":
        record["modelId"] = repository.id
    values = {field: known[field](view) for field in known if fields is None or field in fields}
    return record | {field: value for field, value in values.items() if value is not None}
