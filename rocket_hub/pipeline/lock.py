"""The lock file: every ingredient of a build at its commit, and builds that accept nothing else."""

from pathlib import Path
from typing import Any

from rocket_hub.controls.methods import FRESH, ROUTED
from rocket_hub.discovery.licences import combine
from rocket_hub.errors import LockError
from rocket_hub.pipeline.context import Context
from rocket_hub.pipeline.generated import SOURCE
from rocket_hub.records import Pinned
from rocket_hub.results import Chosen, Discovery, Generation
from rocket_hub.runs import plain, read_json, write_json
from rocket_hub.serialization import to_dict

UNTRAINED = ("base", "best_single", "uniform_merge")  # methods that see no rows


def made(chosen: Chosen) -> str:
    """Name the method that the build makes: the routed experts, or a fresh LoRA where no expert helps."""
    return ROUTED if chosen.experts.selected else FRESH


def used(chosen: Chosen, method: str) -> list[Pinned]:
    """List what is in an adapter itself: the base, then the experts whose weights it holds, then its data sets.

    Those are the data sets with rows that it was trained on; for what generated rows are made from see
    `behind_generated`.
    """
    pins, best = chosen.found.pins, chosen.experts.best_single
    experts = {"best_single": [best], "best_single_trained": [best], FRESH: []}.get(method, chosen.group)
    counts = chosen.rows.per_source if method not in UNTRAINED else {}
    sources = [name for name, count in counts.items() if count and not name.startswith(SOURCE)]
    return [chosen.found.base, *(pins[f"models/{name}"] for name in experts),
            *(pins[f"datasets/{name}"] for name in sources)]  # fmt: skip


def chosen_generated(chosen: Chosen, method: str) -> int:
    """Count the generated rows that an adapter was trained on."""
    counts = chosen.rows.per_source if method not in UNTRAINED else {}
    return sum(count for name, count in counts.items() if name.startswith(SOURCE))


def behind_generated(chosen: Chosen, method: str) -> list[Pinned]:
    """List what the generated rows in an adapter are made from beside its base: a teacher, documents."""
    pins = chosen.generated.made_from if chosen_generated(chosen, method) else ()
    return [pin for pin in pins if pin.repo_id != chosen.found.base.repo_id]


def lock_file(context: Context, chosen: Chosen, method: str) -> dict[str, Any]:
    """Say what `lock.json` holds: all that could be used, which of it is in the adapter, and what licences allow."""
    pins = used(chosen, method)
    ledger = combine([*pins, *behind_generated(chosen, method)], context.recipe.discover.allow_licences)
    inside = {f"{pin.kind}s/{pin.repo_id}" for pin in pins}
    entries = {key: {**to_dict(pin), "used": key in inside} for key, pin in sorted(chosen.found.pins.items())}
    licence = {"result": ledger.result, "restrictions": list(ledger.restrictions)}
    lock = {"format_version": 1, "licence": licence, "ingredients": entries}
    if (rows := chosen.generated).rows:
        kept = {key: plain(getattr(rows, key)) for key in ("method", "maker", "rows", "sha256", "made_from")}
        lock["generated"] = {**kept, "used": bool(chosen_generated(chosen, method))}
    return lock


def write_lock(context: Context, chosen: Chosen) -> None:
    """Write the build's `lock.json`."""
    write_json(context.run.path / "lock.json", lock_file(context, chosen, made(chosen)))


def check_lock(path: Path, first: Discovery) -> None:
    """Refuse a build whose ingredients are not those of a lock file."""
    lock = read_json(path)
    if not isinstance(lock, dict) or lock.get("format_version") != 1 or not isinstance(lock.get("ingredients"), dict):
        raise LockError(f"{path}: not a lock file of format 1; use the lock.json of an earlier run folder")
    entries = lock["ingredients"].items()
    if broken := next((key for key, entry in entries if not isinstance(entry, dict)), None):
        raise LockError(
            f"{path}: ingredients: {broken}: expected a mapping; use the lock.json of an earlier run folder"
        )
    wanted = {key: entry.get("revision") for key, entry in entries}
    found = {key: pin.revision for key, pin in first.pins.items()}
    for key in sorted(wanted.keys() | found.keys()):
        if wanted.get(key) != found.get(key):
            raise LockError(
                f"{path}: {key}: locked at {wanted.get(key) or 'nothing'}, the Hub has {found.get(key) or 'nothing'}; "
                "build without --locked to take what is there now"
            )


def check_generated(path: Path, facts: Generation) -> None:
    """Refuse a build whose generated rows are not those of a lock file; see `check_lock`, which comes before."""
    locked = read_json(path).get("generated")
    wanted = locked.get("sha256") if isinstance(locked, dict) else None
    found = facts.sha256 if facts.rows else None
    if wanted != found:
        raise LockError(
            f"{path}: generated rows: locked are {wanted or 'none'}, this build has {found or 'none'} (SHA-256); take "
            "the 0-generate folder of the locked run over, or build without --locked"
        )
