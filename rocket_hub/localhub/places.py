"""Where local hubs live on this machine: folders, and stores under the cache."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from rocket_hub.errors import InputError
from rocket_hub.localhub.importing import import_tree, is_hub_folder
from rocket_hub.localhub.manifest import read_manifest
from rocket_hub.localhub.store import Store, is_store

DEMO = Path(__file__).parent / "demo"

OWN_CACHE = "ROCKET_HUB_CACHE"
"""Names the cache while `HF_HOME` is the home of a local hub; `connect` sets it."""


@dataclass(frozen=True)
class Place:
    """Where a local hub lives on this machine: its name, its store, the `HF_HOME` of its clients."""

    name: str
    store: Path
    home: Path


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

    Args:
        hub: `demo`, or a folder.

    Raises:
        InputError: If it is neither.
    """
    if hub == "demo":
        if not is_hub_folder(DEMO):
            raise InputError("--hub demo: this installation came without the demo hub; install rocket-hub from a wheel")
        return _imported(DEMO, cache_folder() / "hubs" / "demo")
    folder = Path(hub).expanduser().resolve()
    name = re.sub(r"[^\w.-]", "-", folder.name, flags=re.ASCII) or "hub"
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


def _imported(folder: Path, place: Path) -> Place:
    """Import a folder of repositories into its store under the cache."""
    store = Store(place / "store")
    import_tree(store, folder)
    return Place((read_manifest(store) or {}).get("name", place.name), store.root, place / "home")
