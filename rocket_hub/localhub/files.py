from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from email.utils import formatdate
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, quote

from rocket_hub.localhub.listing import POINTER_SIZE
from rocket_hub.localhub.messages import SMALL_BODY, FileSlice, Request, Response, json_object, json_response
from rocket_hub.localhub.store import Commit, RefusedError, Tree

PAGE, PAGE_EXPANDED = 1000, 50
MOST_PATHS = 1000

_RANGE = re.compile(r"bytes=([0-9]{0,15})-([0-9]{0,15})")


def show_tree(request: Request, kind: str, repo: str, rev: str, path: str = "") -> Response:
    """Answer `GET .../tree/{rev}[/{path}]`: one level, or all with `recursive=true`; paged."""
    repository = request.visible(kind, repo)
    sha = repository.resolve(rev)
    history, expand = repository.history(sha), request.flag("expand")
    tree = history[0].tree
    path = path.strip("/")
    prefix = f"{path}/" if path else ""
    files = [name for name in sorted(tree) if name == path or name.startswith(prefix)]
    if path and not files:
        headers = {"X-Repo-Commit": sha}
        raise RefusedError(404, f'{path} does not exist on "{rev}"', code="EntryNotFound", headers=headers)
    nodes: dict[str, dict[str, Any]] = {}
    for name in files:
        parts = name[len(prefix) :].split("/") if name != path else [name]
        depth = len(parts) if request.flag("recursive") else 1
        for level in range(1, min(depth, len(parts) - 1) + 1):
            folder = prefix + "/".join(parts[:level])
            if folder not in nodes:
                nodes[folder] = _folder(folder, history, expand)
        if depth == len(parts):
            nodes[name] = _file(name, history, expand, repository.settings["unsafe_files"])
    page, headers = request.page(list(nodes.values()), PAGE_EXPANDED if expand else PAGE)
    return json_response(page, headers=headers)


def show_paths(request: Request, kind: str, repo: str, rev: str) -> Response:
    """Answer `POST .../paths-info/{rev}`; paths that do not exist are left out."""
    repository = request.visible(kind, repo)
    history = repository.history(repository.resolve(rev))
    tree = history[0].tree
    form = _form(request)
    expand = str(form.get("expand", ["false"])[0]).lower() == "true"
    paths = form.get("paths", [])
    if len(paths) > MOST_PATHS:
        raise RefusedError(400, f"at most {MOST_PATHS} paths, not {len(paths)}")
    nodes = []
    for path in map(str, paths):
        if path in tree:
            nodes.append(_file(path, history, expand, repository.settings["unsafe_files"]))
        elif any(name.startswith(f"{path}/") for name in tree):
            nodes.append(_folder(path, history, expand))
    return json_response(nodes)


def show_refs(request: Request, kind: str, repo: str) -> Response:
    """Answer `GET .../refs`."""
    repository = request.visible(kind, repo)

    def references(table: Mapping[str, str], prefix: str) -> list[dict[str, str]]:
        return [
            {"name": name.removeprefix(prefix), "ref": prefix + name.removeprefix(prefix), "targetCommit": sha}
            for name, sha in table.items()
            if table is not repository.other_refs or name.startswith(prefix)
        ]

    refs = {
        "branches": references(repository.branches, "refs/heads/"),
        "tags": references(repository.tags, "refs/tags/"),
        "converts": references(repository.other_refs, "refs/convert/"),
    }
    if request.value("include_prs") is not None:
        refs["pullRequests"] = references(repository.other_refs, "refs/pr/")
    return json_response(refs)


def show_commits(request: Request, kind: str, repo: str, rev: str) -> Response:
    """Answer `GET .../commits/{rev}`, newest first; paged."""
    repository = request.visible(kind, repo)
    history = repository.history(repository.resolve(rev))
    commits, headers = request.page(history, PAGE_EXPANDED)
    page = [{**_summary(commit), "message": commit.message, "authors": [{"user": commit.author}]} for commit in commits]
    return json_response(page, headers={"X-Total-Count": str(len(history)), **headers})


def _form(request: Request) -> Mapping[str, list[Any]]:
    data = request.body.read(SMALL_BODY)
    if (request.headers.get("Content-Type") or "").startswith("application/json"):
        payload = json_object(data)
        return {key: value if isinstance(value, list) else [value] for key, value in payload.items()}
    return parse_qs(data.decode("utf-8", "replace"))


def _file(path: str, history: list[Commit], expand: bool, unsafe: Mapping[str, str]) -> dict[str, Any]:
    """Return a file as trees list it; `unsafe` is what a security scan would say."""
    entry = history[0].tree[path]
    node: dict[str, Any] = {"type": "file", "path": path, "size": entry.size, "oid": entry.oid}
    if entry.lfs:
        # Never an `xetHash`: the client would ask this hub for Xet storage, which it has not.
        node["lfs"] = {"oid": entry.sha256, "size": entry.size, "pointerSize": POINTER_SIZE}
    if expand:
        node["lastCommit"] = _last_change(history, lambda tree: tree.get(path))
        status = unsafe.get(path, "safe")
        node["securityFileStatus"] = {"status": status, "avScan": {"status": status}, "pickleImportScan": None}
    return node


def _folder(path: str, history: list[Commit], expand: bool) -> dict[str, Any]:
    def content(tree: Tree) -> str:
        return "\n".join(f"{name} {tree[name].oid}" for name in sorted(tree) if name.startswith(f"{path}/"))

    oid = hashlib.sha1(content(history[0].tree).encode()).hexdigest()
    node: dict[str, Any] = {"type": "directory", "path": path, "size": 0, "oid": oid}
    return node | ({"lastCommit": _last_change(history, content)} if expand else {})


def _last_change(history: list[Commit], content: Callable[[Tree], object]) -> dict[str, str]:
    """Return the commit that gave something the content it has at the head of a history."""
    same = takewhile(lambda commit: content(commit.tree) == content(history[0].tree), history)
    *_, commit = same
    return _summary(commit)


def _summary(commit: Commit) -> dict[str, str]:
    return {"id": commit.id, "title": commit.title, "date": commit.date}


def resolve(request: Request, repo: str, rev: str, path: str, kind: str = "model") -> Response:
    """Answer `GET` and `HEAD` of `/{id}/resolve/{rev}/{path}`.

    `path` is looked up in the commit's tree and never on the disk.
    """
    repository = request.readable(kind, repo)
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
    """Return a blob, or the part of it that the `Range` header asks for."""
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
