"""How a second client of a store finds the server that is there already."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

from rocket_hub.localhub.manifest import store_key
from rocket_hub.localhub.store import Store

ANNOUNCEMENT = "server.json"
LARGEST_ANSWER = 16 * 2**20
PATIENCE = 3.0


def announce(store: Store, url: str, *, lasting: bool) -> None:
    """Write down that a server of this process serves a store.

    Args:
        store: The store.
        url: Where.
        lasting: Whether other processes may rely on it: `hub serve` stays, a build goes when it is done.
    """
    if living_server(store) is None:
        with suppress(OSError):  # a store that cannot be written can be served all the same
            store.write_text(ANNOUNCEMENT, json.dumps({"url": url, "pid": os.getpid(), "lasting": lasting}))


def withdraw(store: Store, url: str) -> None:
    """Take back what `announce` wrote; leaves the announcement of another server alone."""
    if _announced(store).get("url") == url:
        with suppress(OSError):
            (store.root / ANNOUNCEMENT).unlink()


def living_server(store: Store) -> str | None:
    """Return the address of a server that serves this store and can be relied on, None if there is none."""
    announced = _announced(store)
    url = announced.get("url")
    if not isinstance(url, str) or not (announced.get("lasting") or announced.get("pid") == os.getpid()):
        return None
    try:
        answer = get_json(f"{url}/api/rocket-hub/store")
    except OSError:
        return None
    return url if isinstance(answer, dict) and answer.get("store") == store_key(store) else None


def get_json(url: str) -> Any:
    """Ask a server on this machine, past any proxy.

    Args:
        url: The address.

    Returns:
        The JSON answer; None if the server answered with an error or with something else.

    Raises:
        OSError: If it did not answer.
    """
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=PATIENCE) as response:
            return json.loads(response.read(LARGEST_ANSWER))
    except HTTPError as error:  # an answer, too, and an open file
        error.close()
        return None
    except (ValueError, RecursionError, HTTPException):
        return None


def _announced(store: Store) -> dict[str, Any]:
    """Return what the store's announcement says, living or not."""
    try:
        value = json.loads((store.root / ANNOUNCEMENT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
