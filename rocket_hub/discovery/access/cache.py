"""What was read from the Hub, kept: bytes at a commit for ever, and the last answers with their date.

`$HF_HOME/rocket_hub/discovery`, so that a local Hub has its own. Only what the Hub said is kept here, never a verdict.
A file appears whole or not at all and begins with its checksum, so what another run left is never trusted blindly.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from huggingface_hub import constants

from rocket_hub.discovery.access.files import Part

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_DIGEST = 32
MAX_KEPT = 64 * 2**20
"""Bytes of a file here that are read back."""


def folder() -> Path:
    """Return where everything is kept."""
    return Path(constants.HF_HOME) / "rocket_hub" / "discovery"


def load(api: HfApi, *name: str) -> Part | None:
    """Return what `save` kept under a name, None if there is nothing, or nothing whole.

    Args:
        api: Where the Hub is: what two Hubs say is kept apart.
        *name: For example `model`, repository, commit, file. A commit must be in it: what it names never changes.
    """
    path = _path(api, name)
    data = _read(path)
    if data is None:
        return None
    head, _, body = data.partition(b"\n")
    size, found = head.decode("ascii").split()
    return Part(body, int(size), "" if found == "-" else found)


def save(api: HfApi, part: Part, *name: str) -> None:
    """Keep what was read; a cache that cannot be written costs a request the next time and is no fault now."""
    _write(_path(api, name), f"{part.size} {part.hash or '-'}\n".encode("ascii") + part.data)


def remember(api: HfApi, value: Any, *name: str) -> None:
    """Keep an answer that may be another tomorrow, as JSON, with the present time."""
    _write(_path(api, name), json.dumps({"time": time.time(), "value": value}).encode())


def recall(api: HfApi, *name: str) -> tuple[float, Any] | None:
    """Return what `remember` kept under a name and when (seconds since 1970); None if there is nothing whole."""
    data = _read(_path(api, name))
    if data is None:
        return None
    kept = json.loads(data)
    return kept["time"], kept["value"]


def _path(api: HfApi, name: tuple[str, ...]) -> Path:
    """Return where something is kept; nothing that a repository is called becomes part of a path."""
    hub = urlsplit(api.endpoint)  # without its port: a local Hub has another one each time
    key = hashlib.sha256("\0".join((f"{hub.hostname}{hub.path}", *name)).encode("utf-8", "replace")).hexdigest()
    return folder() / key[:2] / key


def _read(path: Path) -> bytes | None:
    """Read a file if it is whole and the one that was written there."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_KEPT)
    except OSError:
        return None
    return data[_DIGEST:] if data[:_DIGEST] == _digest(path, data[_DIGEST:]) else None


def _write(path: Path, data: bytes) -> None:
    """Write a file with its checksum, whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(_digest(path, data) + data)
        partial.replace(path)
    except OSError:
        with suppress(OSError):
            partial.unlink()


def _digest(path: Path, data: bytes) -> bytes:
    """Return the checksum of a file's content and place."""
    return hashlib.sha256(path.name.encode() + data).digest()
