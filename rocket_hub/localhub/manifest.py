"""What a hub says about itself: a name and recipes, from the `hub.json` of the folder it was made from."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from rocket_hub.localhub.messages import Request, Response, json_response
from rocket_hub.localhub.refusal import RefusedError
from rocket_hub.localhub.store import Store

MANIFEST = "manifest.json"


def read_manifest(store: Store) -> dict[str, Any] | None:
    """Return what the store knows of its manifest: `name`, `recipes` (task -> YAML text), perhaps `token`."""
    try:
        return json.loads((store.root / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def write_manifest(store: Store, manifest: dict[str, Any]) -> None:
    """Keep a manifest in the store."""
    store.write_text(MANIFEST, json.dumps(manifest, indent=1))


def store_key(store: Store) -> str:
    """Return a short name of the store's folder, by which a client can tell whether a server serves it."""
    return hashlib.sha256(str(store.root).encode()).hexdigest()[:16]


def show_manifest(request: Request) -> Response:
    """Answer `GET /api/rocket-hub/manifest`; the token is not told."""
    manifest = read_manifest(request.store)
    if manifest is None:
        raise RefusedError(404, "this hub has no manifest")
    return json_response({"name": manifest["name"], "recipes": manifest["recipes"]})


def show_store(request: Request) -> Response:
    """Answer `GET /api/rocket-hub/store`."""
    return json_response({"store": store_key(request.store)})
