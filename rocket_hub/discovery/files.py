"""Files of a repository: parts of them, and whole ones into the Hub cache; pinned, bounded and verified.

Over plain HTTP the client checks a download's length but not its hash, so that is done here.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import get_session, hf_hub_url, try_to_load_from_cache

# The library re-exports these lazily, which mypy cannot see.
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

from rocket_hub.discovery.hub import call
from rocket_hub.errors import HubError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

TIMEOUT = 30.0
"""Seconds without a byte after which a read is given up and tried again."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


def is_plain_path(path: str) -> bool:
    """Return whether a path in a repository can stay inside a folder: relative, without `..`, bounded."""
    parts = path.split("/")
    return len(path) <= 512 and "\\" not in path and "\0" not in path and not {"", ".", ".."} & set(parts)


def read_part(
    api: HfApi, repo_id: str, revision: str, filename: str, *, length: int, start: int = 0, kind: str = "model"
) -> tuple[bytes, int]:
    """Read a part of a file at a commit with one GET, and never more than was asked for.

    Args:
        api: Where the Hub is, and who asks.
        repo_id: `namespace/name`.
        revision: Commit hash.
        filename: Path in the repository.
        length: At most this many bytes.
        start: The first byte.
        kind: `model` or `dataset`.

    Returns:
        The bytes, fewer if the file ends before, and the size of the whole file.

    Raises:
        HubError: As `call`.
    """
    url = hf_hub_url(repo_id, filename, repo_type=kind, revision=revision, endpoint=api.endpoint)
    headers = build_hf_headers(token=api.token)
    headers |= {"Range": f"bytes={start}-{start + length - 1}", "Accept-Encoding": "identity"}
    return call(f"{repo_id}: {filename}", _get_part, url, headers, start, length)


def _get_part(url: str, headers: dict[str, str], start: int, length: int) -> tuple[bytes, int]:
    """Send one GET and read at most `length` bytes of its body, also from a server that ignores `Range`."""
    with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT) as response:
        if response.status_code == 416:  # the file ends before `start`
            return b"", _number(response.headers.get("Content-Range", "").rpartition("/")[2])
        if response.is_error:
            response.read()
        hf_raise_for_status(response)
        partial = response.status_code == 206
        total = response.headers.get("Content-Range" if partial else "Content-Length", "").rpartition("/")[2]
        skip = 0 if partial else start
        data = bytearray()
        for piece in response.iter_bytes():
            data += piece
            if len(data) >= skip + length:
                break
        return bytes(data[skip : skip + length]), _number(total)


def _number(text: str) -> int:
    """Read a size from a header; 0 if it has none."""
    return int(text) if text.isdecimal() and len(text) < 20 else 0


def download(api: HfApi, repo_id: str, revision: str, filename: str, *, kind: str = "model", max_bytes: int) -> Path:
    """Download one file at a commit into the Hub cache, and verify it.

    A file that is in the cache, and whole, costs no request.

    Args:
        api: Where the Hub is, and who asks.
        repo_id: `namespace/name`.
        revision: Commit hash.
        filename: Path in the repository.
        kind: `model` or `dataset`.
        max_bytes: A larger file is not fetched.

    Returns:
        Where the file lies in the cache.

    Raises:
        HubError: The file is not there, too large, or arrives with a wrong hash twice; otherwise as `call`.
    """
    where = f"{repo_id}: {filename}"
    if not is_plain_path(filename):
        raise HubError(f"{where[:300]}: not a plain relative path; the repository cannot be trusted, leave it out")
    cached = try_to_load_from_cache(repo_id, filename, revision=revision, repo_type=kind)
    if isinstance(cached, str):
        blob = Path(cached).resolve()  # the cache names the blob of an LFS file by its SHA-256
        if blob.stat().st_size <= max_bytes and _has_hash(blob, blob.name):
            return Path(cached)
    found = call(where, api.get_paths_info, repo_id, [filename], revision=revision, repo_type=kind)
    size = getattr(found[0], "size", None) if found else None
    if size is None:
        raise HubError(f"{where}: no such file at {revision[:12]}; it may have been moved or deleted")
    if size > max_bytes:
        raise HubError(f"{where}: {size:,} bytes, more than the {max_bytes:,} that are read here; leave it out")
    lfs = getattr(found[0], "lfs", None)
    for _ in range(2):
        path = Path(call(where, api.hf_hub_download, repo_id, filename, revision=revision, repo_type=kind))
        if path.stat().st_size == size and _has_hash(path, lfs.sha256 if lfs else ""):
            return path
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
    raise HubError(f"{where}: the bytes have a wrong hash, twice; the connection or the repository is damaged")


def _has_hash(path: Path, sha256: str) -> bool:
    """Return whether a file has a SHA-256; true where what is given is none, as git's own files have none."""
    if not _SHA256.fullmatch(sha256):
        return True
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest() == sha256
