"""The lock file: every ingredient of a build at its commit, and builds that accept nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rocket_hub.controls import FRESH, ROUTED
from rocket_hub.discovery.licences import combine
from rocket_hub.errors import LockError
from rocket_hub.pipeline.context import Context
from rocket_hub.pipeline.generated import SOURCE, made_from
from rocket_hub.records import Pinned
from rocket_hub.runs import read_json, write_json
from rocket_hub.serialization import from_dict, to_dict

UNTRAINED = ("base", "best_single", "uniform_merge")  # methods that see no rows


def made(results: Mapping[str, Any]) -> str:
    """Name the method that the build makes: the routed experts, or a fresh LoRA where no expert helps."""
    return ROUTED if results["2-select-experts"]["selected"] else FRESH


def group_of(results: Mapping[str, Any]) -> list[str]:
    """Name the experts that methods are made of; where none helps, a fresh LoRA takes the shape of the group."""
    selection = results["2-select-experts"]
    group: list[str] = selection["selected"] or selection["group"]
    return group


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


def used(results: Mapping[str, Any], method: str) -> list[Pinned]:
    """List what is in an adapter itself.

    Args:
        results: What the first three stages left.
        method: How the adapter was made, see `all_methods`.

    Returns:
        The base, then the experts whose weights it holds, then the data sets with rows that it was trained on; for
        what generated rows are made from see `behind_generated`.
    """
    pins, selection = ingredients(results), results["2-select-experts"]
    base, best = results["1-discover"]["adapters"]["base"]["repo_id"], selection["best_single"]
    experts = {"best_single": [best], "best_single_trained": [best], FRESH: []}.get(method, group_of(results))
    counts = results["3-select-instructions"]["per_source"] if method not in UNTRAINED else {}
    keys = [f"models/{name}" for name in (base, *experts)]
    sources = [name for name, count in counts.items() if count and not name.startswith(SOURCE)]
    return [pins[key] for key in keys + [f"datasets/{name}" for name in sources]]


def chosen_generated(results: Mapping[str, Any], method: str) -> int:
    """Count the generated rows that an adapter was trained on."""
    counts = results["3-select-instructions"]["per_source"] if method not in UNTRAINED else {}
    return sum(count for name, count in counts.items() if name.startswith(SOURCE))


def behind_generated(results: Mapping[str, Any], method: str) -> list[Pinned]:
    """List what the generated rows in an adapter are made from beside its base: a teacher, documents."""
    base = results["1-discover"]["adapters"]["base"]["repo_id"]
    pins = made_from(results["0-generate"]) if chosen_generated(results, method) else []
    return [pin for pin in pins if pin.repo_id != base]


def lock_file(context: Context, results: Mapping[str, Any], method: str) -> dict[str, Any]:
    """Say what `lock.json` holds: all that could be used, which of it is in the adapter, and what licences allow."""
    pins = used(results, method)
    ledger = combine([*pins, *behind_generated(results, method)], context.recipe.discover.allow_licences)
    inside = {f"{pin.kind}s/{pin.repo_id}" for pin in pins}
    entries = {key: {**to_dict(pin), "used": key in inside} for key, pin in sorted(ingredients(results).items())}
    licence = {"result": ledger.result, "restrictions": list(ledger.restrictions)}
    lock = {"format_version": 1, "licence": licence, "ingredients": entries}
    return lock | ({"generated": _generated(results, method)} if results.get("0-generate", {}).get("rows") else {})


def _generated(results: Mapping[str, Any], method: str) -> dict[str, Any]:
    """Name the generated rows by what is in them, and what they are made from."""
    facts = results["0-generate"]
    kept = {key: facts[key] for key in ("method", "maker", "rows", "sha256", "made_from")}
    return {**kept, "used": bool(chosen_generated(results, method))}


def write_lock(context: Context, results: Mapping[str, Any]) -> None:
    """Write the build's `lock.json`."""
    write_json(context.run.path / "lock.json", lock_file(context, results, made(results)))


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


def check_generated(path: Path, facts: Mapping[str, Any]) -> None:
    """Refuse a build whose generated rows are not those of a lock file; see `check_lock`, which comes before.

    Raises:
        LockError: They are others, or there are some on one side only.
    """
    locked = read_json(path).get("generated")
    wanted = locked.get("sha256") if isinstance(locked, dict) else None
    found = facts["sha256"] if facts["rows"] else None
    if wanted != found:
        raise LockError(
            f"{path}: generated rows: locked are {wanted or 'none'}, this build has {found or 'none'} (SHA-256); take "
            "the 0-generate folder of the locked run over, or build without --locked"
        )
