"""Failures that a hub shows its clients on demand, and its rate limit.

| kind | what the client sees |
|---|---|
| `status` | `status`, `headers` and `body` instead of the answer; nothing is done |
| `reset` | a TCP reset: before anything is done if `after` is 0, else after that many bytes of the body |
| `lost_reply` | the request is done, then a TCP reset instead of the answer |
| `truncate` | a clean end of the connection after `after` bytes of the body |
| `delay` | the true answer, `seconds` late |
| `corrupt` | a body of the right length with flipped bits |
| `etag` / `size` | a wrong `ETag`, a wrong `X-Linked-Size` |
| `ignore_range` | the whole file although a part was asked for |
| `no_commit` | no `X-Repo-Commit` |
"""

from __future__ import annotations

import re
import socket
import struct
import threading
import time
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field

from rocket_hub.localhub.errors import RefusedError

UNLIMITED = 10**6
"""The quota that is told when there is none; the headers are always sent, as on the Hub."""
KINDS = ("status", "reset", "lost_reply", "truncate", "delay", "corrupt", "etag", "size", "ignore_range", "no_commit")
CORRUPTED = 64
"""Bytes at the start of every piece of a body that `corrupt` flips."""


class Quota:
    """Counts requests: `limit` a window of `window` seconds; None = no limit."""

    def __init__(self, limit: int | None, window: int) -> None:
        self.limit, self.window = limit, window
        self._lock = threading.Lock()
        self._used: dict[tuple[str, str], tuple[float, int]] = {}

    def spend(self, who: str, path: str) -> tuple[dict[str, str], RefusedError | None]:
        """Count one request to a path, of a token or of nobody; files are counted apart from the API.

        Returns:
            The headers of the answer, and the refusal (429) if the quota is spent.
        """
        kind = "resolvers" if "/resolve/" in path else "api"
        moment = time.monotonic()
        with self._lock:
            start, used = self._used.get((who, kind), (moment, 0))
            if moment - start >= self.window:
                start, used = moment, 0
            self._used[who, kind] = (start, used + 1)
        limit = self.limit if self.limit is not None else UNLIMITED
        left, wait = max(0, limit - used - 1), max(0, int(start + self.window - moment))
        headers = {
            "RateLimit": f'"{kind}";r={left};t={wait}',
            "RateLimit-Policy": f'"fixed window";"{kind}";q={limit};w={self.window}',
        }
        spent = self.limit is not None and used >= self.limit
        return headers, RefusedError(429, "Too many requests") if spent else None


@dataclass
class Fault:
    """One scripted failure."""

    match: str  # A regular expression, searched in `METHOD /path?query`
    kind: str  # one of `KINDS`
    times: int = 1  # how often it still happens; -1 means for ever
    status: int = 503  # the status of a `status` fault
    headers: Mapping[str, str] = field(default_factory=dict)  # its headers
    body: bytes = b'{"error": "injected"}'  # its body
    after: int = 0  # bytes of the body before a `reset` or `truncate`
    seconds: float = 0.0  # how long a `delay` lasts

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind of fault {self.kind!r}; known: {', '.join(KINDS)}")


def take_fault(faults: list[Fault], line: str) -> Fault | None:
    """Return the first fault that hits the request `METHOD /path?query`, and count it down."""
    for fault in faults:
        if fault.times != 0 and re.search(fault.match, line):
            fault.times -= 1
            return fault
    return None


def spoil_headers(fault: Fault | None, headers: MutableMapping[str, str]) -> None:
    """Change the headers of an answer as the fault says."""
    kind = fault.kind if fault else None
    if kind == "etag":
        headers["ETag"] = f'"{"0" * 40}"'
    elif kind == "size":
        headers["X-Linked-Size"] = str(int(headers["Content-Length"]) + 7)
    elif kind == "no_commit":
        headers.pop("X-Repo-Commit", None)


def spoil_piece(fault: Fault | None, piece: bytes) -> bytes:
    """Change a piece of a body as the fault says."""
    if fault is None or fault.kind != "corrupt":
        return piece
    return bytes(byte ^ 0xFF for byte in piece[:CORRUPTED]) + piece[CORRUPTED:]


def reset(connection: socket.socket) -> None:
    """Close a connection with a TCP reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
