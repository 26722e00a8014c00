"""A local Hub in a process of its own, so that its work does not slow down what is measured."""

import multiprocessing
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rocket_hub.localhub import Fault, LocalHub


@dataclass(frozen=True)
class Served:
    """A Hub in another process: its address, and the way to talk to it."""

    url: str
    pipe: Connection

    def ask(self, word: str, *values: Any) -> Any:
        """Call one of the functions below in the other process."""
        self.pipe.send((word, values))
        return self.pipe.recv()


@contextmanager
def serving(store: Path, page: int) -> Iterator[Served]:
    """Serve a store in another process."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(store, page, there), daemon=True)
    process.start()
    there.close()
    try:
        yield Served(here.recv(), here)
    finally:
        here.close()
        process.join(10)


def _serve(store: Path, page: int, pipe: Connection) -> None:
    """Serve until the other end of the pipe is closed."""
    with LocalHub(store, page=page) as hub:
        pipe.send(hub.url)
        while True:
            try:
                word, values = pipe.recv()
            except EOFError:
                return
            pipe.send(globals()[f"_{word}"](hub, *values))


def _limit(hub: LocalHub, requests: int | None, window: int) -> None:
    """Set the quota, and begin a new window."""
    hub.quota.limit, hub.quota.window = requests, window
    hub.quota._used.clear()


def _faults(hub: LocalHub, faults: list[Fault]) -> None:
    """Set the faults."""
    hub.faults[:] = faults


def _counts(hub: LocalHub) -> dict[str, Any]:
    """Count the requests since the last time, by kind; those that a fault of the kind `status` hit are apart."""
    kinds: Counter[str] = Counter()
    per_file: Counter[tuple[str, str]] = Counter()
    for record in hub.log:
        repo_id, _, rest = record.path.partition("/resolve/")
        file = rest.partition("/")[2]
        kind = file or ("list page" if record.path.startswith("/api/models?") else "model record")
        if record.fault == "status":
            kind = f"injected {record.status}"
        elif record.status == 429:
            kind = "429"
        elif file:
            per_file[repo_id, file] += 1
        kinds[kind] += 1
    hub.log.clear()
    return {"kinds": dict(kinds), "most per file": max(per_file.values(), default=0)}
