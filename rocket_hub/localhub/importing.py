from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

from rocket_hub.errors import InputError
from rocket_hub.localhub.commits import safe_path
from rocket_hub.localhub.messages import Request, Response, json_response
from rocket_hub.localhub.store import (
    EPOCH,
    KINDS,
    RefusedError,
    Repository,
    Store,
    Tree,
    checked_settings,
    is_repository_id,
)

MANIFEST = "manifest.json"
MANIFEST_KEYS = {"name", "token", "repositories", "recipes"}
ANNOUNCEMENT = "server.json"
LARGEST_ANSWER = 16 * 2**20
PATIENCE = 3.0
"""Seconds that a server on this machine is waited for."""
AUTHOR = "rocket-hub"
NOT_IMPORTED = frozenset({".git", ".cache", ".DS_Store", "__pycache__"})

_NAME = re.compile(r"[\w.-]{1,64}", re.ASCII)


def is_hub_folder(folder: Path) -> bool:
    """Return whether a folder is laid out as `models/<namespace>/<name>/...` or `datasets/...`."""
    return any((folder / f"{kind}s").is_dir() for kind in KINDS)


def import_folder(
    store: Store, kind: str, repo_id: str, folder: Path, *, date: str = EPOCH, settings: Mapping[str, Any] | None = None
) -> str:
    """Make the files of a folder the content of a repository.

    A new repository gets one commit. An imported one gets a commit more if the folder has changed since, and none if
    it has not, whatever was pushed to it in the meantime.

    Args:
        store: Where to.
        kind: `model`, `dataset` or `space`.
        repo_id: `namespace/name`.
        folder: The files.
        date: The date of the commit; the same files with the same date give the same hash.
        settings: What `DEFAULT_SETTINGS` lists, where it is to differ.

    Returns:
        The hash of the commit that holds the folder.
    """
    settings = checked_settings(settings or {}, repo_id)
    if kind not in KINDS or not is_repository_id(repo_id):
        raise InputError(f"cannot import {folder} as {kind} {repo_id!r}: the id must be namespace/name")
    if not folder.is_dir():
        raise InputError(f"cannot import {repo_id}: there is no folder {folder}")
    tree = _tree(store, folder)
    found = store.find(kind, repo_id)
    if found and _holds(found, tree) and found.settings.items() >= settings.items():
        return str(found.settings["imported"])
    if found is None:
        repository = Repository(kind, repo_id, {**settings})
        sha = _add(repository, tree, date, [])
        with suppress(RefusedError):  # another process was faster
            store.create(repository)
            return sha
    with store.change(kind, repo_id) as repository:
        repository.settings |= settings
        if not _holds(repository, tree):
            _add(repository, tree, date, [repository.resolve("main")])
        return str(repository.settings["imported"])


def import_tree(store: Store, folder: Path) -> dict[str, str]:
    """Import a whole folder of repositories, with its `hub.json` if it has one, into a store.

    It is laid out as `models/<namespace>/<name>/...` and `datasets/<namespace>/<name>/...`. Repositories of the store
    that the folder does not have stay as they are.

    Returns:
        The commit of each repository, by `models/<namespace>/<name>`.
    """
    if not is_hub_folder(folder):
        raise InputError(f"{folder} is no folder of repositories: it has neither models/ nor datasets/")
    manifest = _read_hub_json(folder)
    found = [place for kind in KINDS for place in sorted(folder.glob(f"{kind}s/*/*")) if place.is_dir()]
    places = {place.relative_to(folder).as_posix(): place for place in found}
    settings = manifest["repositories"] if manifest else {}
    if missing := sorted(set(settings) - set(places)):
        raise InputError(f"{folder / 'hub.json'}: repositories: {missing[0]} is not in the folder")
    commits = {}
    for key, place in places.items():
        kind, _, repo_id = key.partition("s/")
        _refuse_links_out(place, folder)
        commits[key] = import_folder(store, kind, repo_id, place, settings=settings.get(key, {}))
    if manifest:
        kept = {key: manifest[key] for key in ("name", "token", "recipes")}
        store.write_text(MANIFEST, json.dumps(kept, indent=1))
    return commits


def _tree(store: Store, folder: Path) -> Tree:
    tree = {}
    for file in sorted(folder.rglob("*")):
        path = file.relative_to(folder).as_posix()
        if not file.is_file() or not NOT_IMPORTED.isdisjoint(path.split("/")):
            continue
        try:
            tree[safe_path(path)] = store.add_file(path, file)
        except RefusedError as refusal:
            raise InputError(f"cannot import {folder}: {refusal}") from refusal
    return tree


def _holds(repository: Repository, tree: Tree) -> bool:
    """Return whether the last import into a repository had the same files."""
    sha = repository.settings.get("imported")
    return sha is not None and repository.commits[sha].tree == tree


def _add(repository: Repository, tree: Tree, date: str, parents: list[str]) -> str:
    sha = repository.add_commit("main", tree, title="import", author=AUTHOR, date=date, parents=parents)
    repository.settings["imported"] = sha
    return sha


def _refuse_links_out(place: Path, folder: Path) -> None:
    """Refuse a folder that would publish files from elsewhere on this machine."""
    root = folder.resolve()
    for file in place.rglob("*"):
        if file.is_symlink() and not file.resolve().is_relative_to(root):
            raise InputError(f"{file} is a link that leads out of {folder}")


def _read_hub_json(folder: Path) -> dict[str, Any] | None:
    """Read and check a `hub.json`; the recipes that it names become their texts."""
    file = folder / "hub.json"
    if not file.exists():
        return None
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise InputError(f"{file}: not an object")
    if unknown := sorted(set(data) - MANIFEST_KEYS):
        raise InputError(f"{file}: unknown key {unknown[0]!r}; known: {', '.join(sorted(MANIFEST_KEYS))}")
    manifest: dict[str, Any] = {"name": folder.name, "token": None, "repositories": {}, "recipes": {}, **data}
    name, repositories, recipes = manifest["name"], manifest["repositories"], manifest["recipes"]
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(f"{file}: name must be one word of letters, digits, '.', '_' and '-', not {name!r}")
    if not isinstance(manifest["token"], (str, type(None))):
        raise InputError(f"{file}: token must be a string")
    if not all(isinstance(table, dict) for table in (repositories, recipes, *repositories.values())):
        raise InputError(f"{file}: repositories and recipes must be objects, and so must each repository")
    return manifest | {"recipes": {task: _recipe(folder, path) for task, path in recipes.items()}}


def _recipe(folder: Path, path: Any) -> str:
    file = (folder / str(path)).resolve()
    if not isinstance(path, str) or not file.is_relative_to(folder.resolve()):
        raise InputError(f"{folder / 'hub.json'}: recipes: {path!r} leads out of the folder")
    if not file.is_file():
        raise InputError(f"{folder / 'hub.json'}: recipes: there is no file {path!r}")
    return file.read_text(encoding="utf-8")


def read_manifest(store: Store) -> dict[str, Any] | None:
    """Return what the store keeps of a `hub.json`: `name`, `recipes` (task -> YAML text), perhaps `token`."""
    try:
        return json.loads((store.root / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def show_manifest(request: Request) -> Response:
    """Answer `GET /api/rocket-hub/manifest`; the token is not told."""
    manifest = read_manifest(request.store)
    if manifest is None:
        raise RefusedError(404, "this hub has no manifest")
    return json_response({"name": manifest["name"], "recipes": manifest["recipes"]})


def store_key(store: Store) -> str:
    """Return a short name of the store's folder, by which a client can tell whether a server serves it."""
    return hashlib.sha256(str(store.root).encode()).hexdigest()[:16]


def show_store(request: Request) -> Response:
    """Answer `GET /api/rocket-hub/store`."""
    return json_response({"store": store_key(request.store)})


def announce(store: Store, url: str, *, lasting: bool) -> None:
    """Write down that a server of this process serves a store at an address.

    Other processes may rely on it if it is `lasting`: `hub serve` stays, a build goes when it is done.
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


def _announced(store: Store) -> dict[str, Any]:
    """Return the store's announcement, whether its server still lives or not."""
    try:
        value = json.loads((store.root / ANNOUNCEMENT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def get_json(url: str) -> Any:
    """Return the JSON answer of a server on this machine, asked past any proxy; None for an error or no JSON."""
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=PATIENCE) as response:
            return json.loads(response.read(LARGEST_ANSWER))
    except HTTPError as error:  # an answer, too, and an open file
        error.close()
        return None
    except (ValueError, RecursionError, HTTPException):
        return None
