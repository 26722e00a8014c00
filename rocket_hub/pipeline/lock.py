"""The lock file: every ingredient of a build at its commit, and builds that accept nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rocket_hub.errors import LockError
from rocket_hub.pipeline.context import Context
from rocket_hub.records import Pinned
from rocket_hub.runs import read_json, write_json
from rocket_hub.serialization import from_dict, to_dict


def ingredients(results: Mapping[str, Any]) -> dict[str, Pinned]:
    """Name what the first stage pinned: base, encoder, evaluation set, usable adapters and data sets."""
    first = results["1-discover"]
    pins = [from_dict(Pinned, first[key], key) for key in ("encoder", "evaluation")]
    pins.append(from_dict(Pinned, first["adapters"]["base"], "base"))
    for kind, key in (("model", "adapters"), ("dataset", "datasets")):
        pins += [
            Pinned(found["repo_id"], found["revision"], kind, found["licence"]) for found in first[key]["selected"]
        ]
    return {f"{pin.kind}s/{pin.repo_id}": pin for pin in pins}


def used(results: Mapping[str, Any]) -> list[Pinned]:
    """List what is in the result itself: the base, the chosen experts, the data sets that rows were taken from."""
    pins = ingredients(results)
    base = results["1-discover"]["adapters"]["base"]["repo_id"]
    experts = results["2-select-experts"]["selected"]
    sources = [source for source, count in results["3-select-instructions"]["per_source"].items() if count]
    keys = [f"models/{name}" for name in (base, *experts)] + [f"datasets/{name}" for name in sources]
    return [pins[key] for key in keys]


def write_lock(context: Context, results: Mapping[str, Any]) -> None:
    """Write `lock.json`: all that was looked at and could be used, and which of it is in the result."""
    inside = {f"{pin.kind}s/{pin.repo_id}" for pin in used(results)}
    entries = {key: {**to_dict(pin), "used": key in inside} for key, pin in sorted(ingredients(results).items())}
    write_json(context.run.path / "lock.json", {"format_version": 1, "ingredients": entries})


def check_lock(path: Path, first: Mapping[str, Any]) -> None:
    """Refuse a build whose ingredients are not those of a lock file.

    Raises:
        LockError: The file is no lock file, or an ingredient is new, gone or at another commit.
    """
    lock = read_json(path)
    if not isinstance(lock, dict) or lock.get("format_version") != 1 or not isinstance(lock.get("ingredients"), dict):
        raise LockError(f"{path}: not a lock file of format 1; use the lock.json of an earlier run folder")
    entries = lock["ingredients"].items()
    if broken := next((key for key, entry in entries if not isinstance(entry, dict)), None):
        raise LockError(
            f"{path}: ingredients: {broken}: expected a mapping; use the lock.json of an earlier run folder"
        )
    wanted = {key: entry.get("revision") for key, entry in entries}
    found = {key: pin.revision for key, pin in ingredients({"1-discover": first}).items()}
    for key in sorted(wanted.keys() | found.keys()):
        if wanted.get(key) != found.get(key):
            raise LockError(
                f"{path}: {key}: locked at {wanted.get(key) or 'nothing'}, the Hub has {found.get(key) or 'nothing'}; "
                "build without --locked to take what is there now"
            )
