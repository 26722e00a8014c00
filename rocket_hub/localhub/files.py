"""Files out: `resolve` with its headers, and parts of files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import formatdate
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from rocket_hub.localhub.access import readable
from rocket_hub.localhub.messages import FileSlice, Request, Response
from rocket_hub.localhub.refusal import RefusedError

_RANGE = re.compile(r"bytes=([0-9]{0,15})-([0-9]{0,15})")


def resolve(request: Request, repo: str, rev: str, path: str, kind: str = "model") -> Response:
    """Answer `GET` and `HEAD` of `/{id}/resolve/{rev}/{path}`.

    `path` is looked up in the commit's tree and never on the disk.
    """
    repository = readable(request, kind, repo)
    sha = repository.resolve(rev)
    entry = repository.commits[sha].tree.get(path)
    if entry is None:
        # The commit beside the error lets the client remember that the file does not exist.
        raise RefusedError(404, "Entry not found", code="EntryNotFound", headers={"X-Repo-Commit": sha})
    name = quote(PurePosixPath(path).name)
    headers = {
        "X-Repo-Commit": sha,
        "ETag": f'"{entry.etag}"',
        "Content-Disposition": f"inline; filename*=UTF-8''{name}; filename=\"{name}\";",
    }
    return send_file(request, request.store.blob(entry.sha256), headers)


def send_file(request: Request, blob: Path, headers: Mapping[str, str]) -> Response:
    """Return a blob, or the part of it that the `Range` header asks for.

    Raises:
        RefusedError: If the part begins behind the end (416).
    """
    size = blob.stat().st_size
    headers = {"Accept-Ranges": "bytes", "Last-Modified": formatdate(0, usegmt=True), **headers}
    start, end = _range(request.headers.get("Range"), size)
    if (start, end) == (0, size):
        return Response(200, FileSlice(blob, 0, size), headers, "application/octet-stream")
    if start >= size:
        raise RefusedError(416, "Range Not Satisfiable", headers={"Content-Range": f"bytes */{size}"})
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    return Response(206, FileSlice(blob, start, end - start), headers, "application/octet-stream")


def _range(header: str | None, size: int) -> tuple[int, int]:
    """Return first byte and end of a `Range`; the whole file for none, or for one that makes no sense (RFC 9110)."""
    match = _RANGE.fullmatch((header or "").strip())
    if match is None or not (match[1] or match[2]):
        return 0, size
    if not match[1]:
        return max(0, size - int(match[2])), size
    start, end = int(match[1]), min(int(match[2]) + 1, size) if match[2] else size
    return (start, end) if start < end or start >= size else (0, size)
