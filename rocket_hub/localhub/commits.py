"""Commits: the client's list of operations becomes a whole new tree, or nothing."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any

from rocket_hub.localhub.access import visible, writer
from rocket_hub.localhub.cards import check_card
from rocket_hub.localhub.discussions import open_discussion
from rocket_hub.localhub.messages import Request, Response, json_object, json_response, text_of
from rocket_hub.localhub.refusal import RefusedError
from rocket_hub.localhub.repository import Entry, Tree, now
from rocket_hub.localhub.store import Store

LARGEST_COMMIT = 256 * 2**20
"""Bytes of a commit request; regular files travel in it, base64-coded."""

LONGEST_PATH = 1024

_FOREIGN = re.compile(r"\\|^[A-Za-z]:")  # a backslash or a drive


def commit(request: Request, kind: str, repo: str, rev: str) -> Response:
    """Answer `POST .../commit/{rev}[?create_pr=1]`: newline-delimited JSON, one header and the operations."""
    visible(request, kind, repo)
    as_pull_request = request.flag("create_pr")
    user = writer(request, None if as_pull_request else repo)
    header, operations = _parse(request.body.read(LARGEST_COMMIT))
    title = text_of(header, "summary")
    if not title:
        raise RefusedError(400, "summary is required")
    with request.store.change(kind, repo) as repository:
        base = repository.resolve(rev)
        if rev not in repository.branches and rev not in repository.other_refs:
            raise RefusedError(404, f"{rev} is not a branch", code="RevisionNotFound")
        parent = text_of(header, "parentCommit", "")
        if parent and not as_pull_request and not base.startswith(parent):
            raise RefusedError(412, "A commit has happened since. Please refresh and try again.")
        tree = changed_tree(request.store, repository.commits[base].tree, operations)
        answer: dict[str, Any] = {"success": True, "hookOutput": ""}
        description = text_of(header, "description", "")
        if as_pull_request:
            number = open_discussion(repository, user.name, title, description, base=base, status="open")
            rev = f"refs/pr/{number}"
            answer["pullRequestUrl"] = f"{request.site.web_url(kind, repo)}/discussions/{number}"
        sha = repository.add_commit(
            rev, tree, title=title, message=description, author=user.name, date=now(), parents=[base]
        )
    answer |= {"commitOid": sha, "commitUrl": f"{request.site.web_url(kind, repo)}/commit/{sha}"}
    return json_response(answer)


def changed_tree(store: Store, tree: Tree, operations: list[tuple[str, Mapping[str, Any]]]) -> Tree:
    """Apply a commit's operations to a tree.

    Args:
        store: Where files go.
        tree: The tree to start from; left as it is.
        operations: Kind and value of each.

    Returns:
        The new tree.

    Raises:
        RefusedError: If one of them cannot be done.
    """
    tree = dict(tree)
    for operation, value in operations:
        path = safe_path(text_of(value, "path"))
        if operation == "file":
            tree[path] = _regular_file(store, path, value)
        elif operation == "lfsFile":
            tree[path] = _lfs_file(store, value)
        elif operation == "copyFile":
            tree[path] = _existing(tree, text_of(value, "srcPath"))
        elif operation == "deletedFile":
            _existing(tree, path)
            del tree[path]
        elif operation == "deletedFolder":
            kept = {name: entry for name, entry in tree.items() if not name.startswith(f"{path.rstrip('/')}/")}
            if len(kept) == len(tree):
                raise RefusedError(404, f"A folder with this name doesn't exist: {path}", code="EntryNotFound")
            tree = kept
        else:
            raise RefusedError(400, f"Unknown operation {operation[:40]!r}")
    return _without_clashes(tree)


def safe_path(path: str) -> str:
    """Return a path that stays inside a repository, wherever that is downloaded to.

    Raises:
        RefusedError: If it is absolute, climbs, names git's own folder, or could mean something else on Windows.
    """
    bad_part = any(part in ("", ".", "..") or part.lower() == ".git" for part in path.rstrip("/").split("/"))
    if bad_part or _FOREIGN.search(path) or len(path) > LONGEST_PATH or not path.isprintable():
        raise RefusedError(400, f"Invalid path: {path[:200]!r}")
    return path.rstrip("/")


def _parse(data: bytes) -> tuple[dict[str, Any], list[tuple[str, Mapping[str, Any]]]]:
    """Split a commit's body into its header and its operations."""
    header: dict[str, Any] = {}
    operations: list[tuple[str, Mapping[str, Any]]] = []
    for line in data.split(b"\n"):
        if not line.strip():
            continue
        item = json_object(line)
        key, value = text_of(item, "key"), item.get("value")
        if not isinstance(value, dict):
            raise RefusedError(400, f"the value of {key[:40]!r} must be an object")
        if key == "header":
            header = value
        else:
            operations.append((key, value))
    return header, operations


def _regular_file(store: Store, path: str, value: Mapping[str, Any]) -> Entry:
    """Store a file that came inside the commit."""
    content = text_of(value, "content")
    try:
        data = base64.b64decode(content, validate=True) if value.get("encoding") == "base64" else content.encode()
    except (binascii.Error, ValueError) as error:
        raise RefusedError(400, f"{path}: the content is not base64") from error
    if path == "README.md":
        check_card(data.decode("utf-8", "replace"))
    return store.add_bytes(path, data)


def _lfs_file(store: Store, value: Mapping[str, Any]) -> Entry:
    """Return the entry of an LFS object that was uploaded before."""
    oid = text_of(value, "oid")
    if len(oid) != 64 or not set(oid) <= set("0123456789abcdef") or not store.blob(oid).exists():
        raise RefusedError(400, f"LFS object {oid[:80]!r} was not uploaded")
    return store.entry(oid, lfs=True)


def _existing(tree: Tree, path: str) -> Entry:
    """Return a file of the tree."""
    if path not in tree:
        raise RefusedError(404, f"A file with this name doesn't exist: {path}", code="EntryNotFound")
    return tree[path]


def _without_clashes(tree: Tree) -> Tree:
    """Return the tree, unless a path is a file and a folder at once."""
    for path in tree:
        parts = path.split("/")
        for level in range(1, len(parts)):
            if "/".join(parts[:level]) in tree:
                raise RefusedError(400, f"{'/'.join(parts[:level])!r} cannot be a file and a folder")
    return tree
