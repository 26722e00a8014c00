"""`--hub demo | FOLDER | URL`: point the Hub libraries of this process to a hub, and back at the end."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rocket_hub.errors import EndpointError, HubUnreachableError, InputError
from rocket_hub.localhub.importing import get_json, import_tree, is_hub_folder, living_server, read_manifest
from rocket_hub.localhub.server import DEFAULT_TOKEN, LocalHub
from rocket_hub.localhub.store import Store, is_store

DEMO = Path(__file__).parent / "demo"

OWN_CACHE = "ROCKET_HUB_CACHE"
"""Names the cache while `HF_HOME` is the home of a local hub; `connect` sets it."""

# What would lead a Hub library past HF_HOME, or keep it from asking a hub on this machine.
_IN_THE_WAY = (
    "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_ASSETS_CACHE", "HF_DATASETS_CACHE", "HF_MODULES_CACHE",
    "HF_XET_CACHE", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE",
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where a local hub lives on this machine: its name, its store, the `HF_HOME` of its clients."""

    name: str
    store: Path
    home: Path


@dataclass(frozen=True)
class Connection:
    """A hub in use."""

    url: str | None  # its address; None for the real Hub
    name: str  # what to call it
    cache: Path  # the `HF_HOME` of everything that comes from it
    recipes: Mapping[str, str] = field(default_factory=dict)  # the recipes that it brings along: YAML text by task


def cache_folder() -> Path:
    """Return rocket_hub's own cache, `$HF_HOME/rocket_hub`; it stays the same while `HF_HOME` is one of a local hub."""
    if kept := os.environ.get(OWN_CACHE):
        return Path(kept)
    return hub_home() / "rocket_hub"


def hub_home() -> Path:
    """Return the `HF_HOME` of the environment, by the rule of huggingface_hub."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.path.expandvars(os.environ.get("HF_HOME") or default)).expanduser()


def local_place(hub: str) -> Place:
    """Find, or make, the store behind `demo` or a folder.

    A folder that is a store is used as it is. A plain folder of repositories is imported into a store under
    `cache_folder()`, so that pushes to it never touch the folder; what changed in the folder is imported again.

    Raises:
        InputError: If `hub` is neither.
    """
    if hub == "demo":
        if not is_hub_folder(DEMO):
            raise InputError("--hub demo: this installation came without the demo hub; install rocket-hub from a wheel")
        return _imported(DEMO, cache_folder() / "hubs" / "demo")
    folder = Path(hub).expanduser().resolve()
    name = _file_name(folder.name) or "hub"
    place = cache_folder() / "hubs" / f"{name}-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"
    if is_store(folder):
        return Place(name, folder, place / "home")
    if is_hub_folder(folder):
        return _imported(folder, place)
    found = "is not there" if not folder.exists() else "has neither of them" if folder.is_dir() else "is a file"
    raise InputError(
        f"--hub {hub}: expected `demo`, an address that begins with http:// or https://, or a folder with models/ or "
        f"datasets/ in it (or a store that a local hub made); {folder} {found}"
    )


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.-]", "-", text, flags=re.ASCII)


def _imported(folder: Path, place: Path) -> Place:
    store = Store(place / "store")
    import_tree(store, folder)
    return Place((read_manifest(store) or {}).get("name", place.name), store.root, place / "home")


@contextmanager
def connect(hub: str | None) -> Iterator[Connection]:
    """Use a hub: serve it if it is local, and point the Hub libraries to it by environment variables.

    Enter it before the first Hub library is imported: they read their endpoint at import.

    Args:
        hub: None for the real Hub (or what `HF_ENDPOINT` says), an address, `demo`, or a folder.

    Yields:
        The connection. The environment is put back at the end.

    Raises:
        InputError: If `hub` is none of these.
        HubUnreachableError: If nothing answers at an address on this machine.
        EndpointError: If a Hub library was imported for another endpoint.
    """
    if hub is None:
        url = os.environ.get("HF_ENDPOINT")
        yield Connection(url, urlsplit(url).netloc if url else "huggingface.co", _home())
    elif hub.startswith(("http://", "https://")):
        yield from _connect_url(hub.rstrip("/"))
    else:
        yield from _connect_place(local_place(hub))


def _connect_url(url: str) -> Iterator[Connection]:
    try:
        host, _ = urlsplit(url).hostname, urlsplit(url).port
    except ValueError as error:
        raise InputError(f"--hub {url}: this is no address: {error}") from error
    if not host:
        raise InputError(f"--hub {url}: this address names no host")
    if not _is_loopback(host):
        with _environment(url, {"HF_ENDPOINT": url}):
            yield Connection(url, urlsplit(url).netloc, _home())
        return
    try:
        manifest = get_json(f"{url}/api/rocket-hub/manifest")
    except OSError as error:
        raise HubUnreachableError(
            f"--hub {url}: nothing answers there ({error}); start it with `rocket-hub hub serve`, or check the port"
        ) from error
    manifest = manifest if isinstance(manifest, dict) else {}
    name = _file_name(urlsplit(url).netloc)
    home = cache_folder() / "hubs" / name / "home"
    with _environment(url, _local_variables(url, home, os.environ.get("HF_TOKEN", DEFAULT_TOKEN))):
        yield Connection(url, str(manifest.get("name", name)), _home(), _texts(manifest.get("recipes")))


def _connect_place(place: Place) -> Iterator[Connection]:
    """Use a hub on this machine: the server that is there, or one of our own."""
    store = Store(place.store)
    manifest = read_manifest(store) or {}
    url, own = living_server(store), None
    if url is None:
        own = _serve(place)
        url = own.url
    try:
        token = manifest.get("token") or DEFAULT_TOKEN
        with _environment(url, _local_variables(url, place.home, token)):
            yield Connection(url, manifest.get("name", place.name), _home(), _texts(manifest.get("recipes")))
    finally:
        if own is not None:
            own.stop()


def _serve(place: Place) -> LocalHub:
    """Serve a store; on the port that the Hub libraries of this process know, if they know one for this very hub."""
    constants = _constants()
    if constants is not None and Path(constants.HF_HOME) == place.home:
        known = urlsplit(constants.ENDPOINT)
        try:
            return LocalHub(place.store, known.port or 0).start()
        except OSError:  # taken by now; the check of the endpoint will say what to do
            pass
    return LocalHub(place.store).start()


def _local_variables(url: str, home: Path, token: str) -> dict[str, str | None]:
    """Return the environment for a hub on this machine; None means unset."""
    no_proxy = ",".join(filter(None, (os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), "127.0.0.1,localhost")))
    return {
        **dict.fromkeys(_IN_THE_WAY, None),
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_TOKEN": token,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": no_proxy,
        "no_proxy": no_proxy,
        OWN_CACHE: str(cache_folder()),
    }


@contextmanager
def _environment(url: str, variables: Mapping[str, str | None]) -> Iterator[None]:
    """Set environment variables, unless it is too late for that, and put the old ones back."""
    constants = _constants()
    if constants is not None and url != constants.ENDPOINT:
        raise EndpointError(
            f"huggingface_hub was imported for {constants.ENDPOINT} and cannot be pointed to {url} any more: set "
            f"HF_ENDPOINT={url} before the first import, or use the command line, or run in a fresh process"
        )
    before = {name: os.environ.get(name) for name in variables}
    _set(variables)
    try:
        yield
    finally:
        _set(before)


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _home() -> Path:
    """Return the `HF_HOME` that the Hub libraries use: the one they were imported with, or will be."""
    constants = _constants()
    return Path(constants.HF_HOME) if constants is not None else hub_home()


def _constants() -> Any:
    """Return the constants that huggingface_hub read at its import, None if it was not imported yet."""
    return sys.modules.get("huggingface_hub.constants")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _texts(recipes: Any) -> dict[str, str]:
    """Return the recipes of a manifest; it may come from anybody, so nothing but text passes."""
    items = recipes.items() if isinstance(recipes, dict) else ()
    return {str(task): text for task, text in items if isinstance(text, str)}
