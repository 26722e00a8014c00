"""The hashes by which the Hub names files: SHA-256 of an LFS file, git's SHA-1 of another."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

SHA1, SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")


def told_hash(response: Any) -> str:
    """Return the hash of the whole file that the Hub told; what a storage elsewhere calls an ETag is none."""
    first = (response.history or [response])[0].url
    own = [hop for hop in (*response.history, response) if _origin(hop.url) == _origin(first)]
    headers = own[-1].headers
    tag = (headers.get("X-Linked-Etag") or headers.get("ETag") or "").strip().removeprefix("W/").strip('"')
    return tag if SHA1.fullmatch(tag) or SHA256.fullmatch(tag) else ""


def _origin(url: Any) -> tuple[str, str, int | None]:
    """Return what a token may be sent to."""
    return url.scheme, url.host, url.port


def hash_of(data: bytes, like: str) -> str:
    """Return the SHA-256 of a file's bytes, or git's SHA-1 if `like` is one."""
    if SHA256.fullmatch(like):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def has_hash(path: Path, expected: str) -> bool:
    """Return whether a file has the SHA-256, or git's SHA-1; true where what is given is neither."""
    if not SHA256.fullmatch(expected) and not SHA1.fullmatch(expected):
        return True
    digest = hashlib.sha256()
    if SHA1.fullmatch(expected):
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest() == expected
