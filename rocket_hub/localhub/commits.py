"""Commits, and the discussions and pull requests that lead to them.

Files arrive as LFS objects beforehand, then in a commit that becomes a whole new tree, or nothing.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rocket_hub.localhub.files import send_file
from rocket_hub.localhub.listing import check_card
from rocket_hub.localhub.messages import Request, Response, json_object, json_response, text_of
from rocket_hub.localhub.store import Entry, RefusedError, Repository, Store, Tree, merge_trees, now, travels_as_lfs

PAGE = 50
Discussion = dict[str, Any]


def open_discussion(
    repository: Repository, author: str, title: str, description: str, *, base: str | None = None, status: str = "open"
) -> int:
    """Add a discussion to a repository that the store has lent for changing, and return its number, from 1.

    A pull request has a `base`, the commit that it starts from; the description is the first comment; the status is
    `open` or `draft`.
    """
    number = len(repository.discussions) + 1
    discussion = {
        "num": number,
        "title": title,
        "author": {"name": author},
        "createdAt": now(),
        "status": status,
        "isPullRequest": base is not None,
        "repo": {"name": repository.id, "type": repository.kind},
        "mergeCommitId": None,
        "events": [],
    }
    repository.discussions.append(discussion)
    _add_comment(discussion, author, description)
    if base is not None:
        repository.point(f"refs/pr/{number}", base)
    return number


def list_discussions(request: Request, kind: str, repo: str) -> Response:
    """Answer `GET .../discussions?type=&status=&author=&p=`."""
    repository = request.visible(kind, repo)
    wanted, status, author = request.value("type") or "all", request.value("status"), request.value("author")
    found = [
        discussion
        for discussion in reversed(repository.discussions)
        if wanted in ("all", "pull_request" if discussion["isPullRequest"] else "discussion")
        and status in (None, "all", "closed" if discussion["status"] in ("closed", "merged") else "open")
        and author in (None, discussion["author"]["name"])
    ]
    start = request.number("p", 0) * PAGE
    page = [{key: value for key, value in item.items() if key != "events"} for item in found[start : start + PAGE]]
    return json_response({"discussions": page, "count": len(found), "start": start})


def create_discussion(request: Request, kind: str, repo: str) -> Response:
    """Answer `POST .../discussions {title, description, pullRequest}`; a pull request begins as a draft."""
    request.visible(kind, repo)
    user, payload = request.signed_in(), request.json()
    is_pull_request = payload.get("pullRequest") is True
    with request.store.change(kind, repo) as repository:
        number = open_discussion(
            repository,
            user.name,
            text_of(payload, "title"),
            text_of(payload, "description", ""),
            base=repository.resolve("main") if is_pull_request else None,
            status="draft" if is_pull_request else "open",
        )
    url = f"{request.site.web_url(kind, repo)}/discussions/{number}"
    return json_response({"num": number, "url": url, "pullRequest": is_pull_request})


def show_discussion(request: Request, kind: str, repo: str, number: str) -> Response:
    """Answer `GET .../discussions/{number}`."""
    discussion = _numbered(request.visible(kind, repo), number)
    changes = {"base": "refs/heads/main", "mergeCommitId": discussion["mergeCommitId"]}
    return json_response({**discussion, "changes": changes, "filesWithConflicts": [], "diff": ""})


def merge(request: Request, kind: str, repo: str, number: str) -> Response:
    """Answer `POST .../discussions/{number}/merge`: a merge commit on main, or 409 if both sides changed a file."""
    user = request.writable(kind, repo)
    with request.store.change(kind, repo) as repository:
        discussion = _numbered(repository, number)
        if not discussion["isPullRequest"] or discussion["status"] in ("merged", "closed"):
            raise RefusedError(400, f"#{number} is not an open pull request")
        ours, theirs = repository.resolve("main"), repository.resolve(f"refs/pr/{number}")
        sha = repository.add_commit(
            "main",
            merge_trees(repository, ours, theirs),
            title=f"{discussion['title']} (#{number})",
            author=user.name,
            date=now(),
            parents=[ours, theirs],
        )
        discussion |= {"status": "merged", "mergeCommitId": sha}
        _add_event(discussion, user.name, "status-change", {"status": "merged"})
    return json_response({})


def comment(request: Request, kind: str, repo: str, number: str) -> Response:
    """Answer `POST .../discussions/{number}/comment {comment}`."""
    with _changed(request, kind, repo, number) as (discussion, author, payload):
        event = _add_comment(discussion, author, text_of(payload, "comment"))
    return json_response({"newMessage": event})


def change_status(request: Request, kind: str, repo: str, number: str) -> Response:
    """Answer `POST .../discussions/{number}/status {status}`."""
    with _changed(request, kind, repo, number) as (discussion, author, payload):
        status = text_of(payload, "status")
        if status not in ("open", "closed") or discussion["status"] == "merged":
            raise RefusedError(400, f"#{number} is {discussion['status']} and cannot become {status[:20]!r}")
        discussion["status"] = status
        event = _add_event(discussion, author, "status-change", {"status": status})
    return json_response({"newStatus": event})


def change_title(request: Request, kind: str, repo: str, number: str) -> Response:
    """Answer `POST .../discussions/{number}/title {title}`."""
    with _changed(request, kind, repo, number) as (discussion, author, payload):
        old, discussion["title"] = discussion["title"], text_of(payload, "title")
        event = _add_event(discussion, author, "title-change", {"from": old, "to": discussion["title"]})
    return json_response({"newTitle": event})


@contextmanager
def _changed(request: Request, kind: str, repo: str, number: str) -> Iterator[tuple[Discussion, str, dict[str, Any]]]:
    """Lend a discussion to change, with who changes it and the request's JSON."""
    request.visible(kind, repo)
    user, payload = request.signed_in(), request.json()
    with request.store.change(kind, repo) as repository:
        yield _numbered(repository, number), user.name, payload


def _numbered(repository: Repository, number: str) -> Discussion:
    if not 1 <= int(number) <= len(repository.discussions):
        raise RefusedError(404, f"Discussion {number} not found")
    return repository.discussions[int(number) - 1]


def _add_comment(discussion: Discussion, author: str, text: str) -> dict[str, Any]:
    data = {"edited": False, "hidden": False, "latest": {"raw": text, "html": ""}, "history": []}
    return _add_event(discussion, author, "comment", data)


def _add_event(discussion: Discussion, author: str, kind: str, data: dict[str, Any]) -> dict[str, Any]:
    event = {
        "id": f"{len(discussion['events']):024x}",
        "type": kind,
        "createdAt": now(),
        "author": {"name": author},
        "data": data,
    }
    discussion["events"].append(event)
    return event


LARGEST_UPLOAD = 2**30
LARGEST_COMMIT = 256 * 2**20
"""Bytes of a commit request; regular files travel in it, base64-coded."""
LONGEST_PATH = 1024

NO_XET = "this hub has no Xet storage: set HF_HUB_DISABLE_XET=1, then files travel as LFS objects"

_OID = re.compile(r"[0-9a-f]{64}")
_FOREIGN = re.compile(r"\\|^[A-Za-z]:")  # a backslash or a drive

Operation = tuple[str, Mapping[str, Any]]
"""Kind and value."""


def preupload(request: Request, kind: str, repo: str, rev: str) -> Response:
    """Answer `POST .../preupload/{rev}`: how each file shall travel, and what is there already."""
    repository = request.visible(kind, repo)
    request.writer()
    tree, answers = repository.tree(rev), []
    for file in _objects(request.json(), "files"):
        path, size = text_of(file, "path"), _size(file)
        lfs = travels_as_lfs(path, size)
        answer = {"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
        # The client skips a file whose hash is the one that is here; the hash depends on how the new one would travel.
        if path in tree and tree[path].lfs == lfs:
            answer["oid"] = tree[path].etag
        answers.append(answer)
    return json_response({"files": answers})


def xet_token(request: Request, kind: str, repo: str, **rest: str) -> Response:
    """Refuse Xet, which huggingface_hub 2 uses for every large file unless it is told not to."""
    raise RefusedError(404, NO_XET)


def batch(request: Request, repo: str, kind: str = "model") -> Response:
    """Answer `POST /{id}.git/info/lfs/objects/batch`: where to put each object, nothing for those that are here."""
    request.writer(repo)
    request.visible(kind, repo)
    answers = []
    for item in _objects(request.json(), "objects"):
        oid = _oid(text_of(item, "oid"))
        answer: dict[str, Any] = {"oid": oid, "size": _size(item)}
        if not request.store.blob(oid).exists():
            places = {"upload": f"{request.site.url}/_lfs/{oid}", "verify": f"{request.site.url}/_lfs/{oid}/verify"}
            answer["actions"] = {name: {"href": place, "header": {}} for name, place in places.items()}
        answers.append(answer)
    content = json_response({"transfer": "basic", "objects": answers})
    return Response(200, content.content, content_type="application/vnd.git-lfs+json")


def put_object(request: Request, oid: str) -> Response:
    """Answer `PUT /_lfs/{oid}`: stream the object to the disk and keep it if it has the hash it should have.

    As on the Hub this request carries no token: its address is the permission.
    """
    if request.body.length is None:
        raise RefusedError(411, "an upload needs a Content-Length")
    request.store.receive(request.body.pieces(LARGEST_UPLOAD), _oid(oid))
    return Response()


def get_object(request: Request, oid: str) -> Response:
    """Answer `GET /_lfs/{oid}`."""
    blob = request.store.blob(_oid(oid))
    if not blob.exists():
        raise RefusedError(404, "no such object")
    return send_file(request, blob, {"ETag": f'"{oid}"'})


def verify(request: Request, oid: str) -> Response:
    """Answer `POST /_lfs/{oid}/verify`."""
    blob, size = request.store.blob(_oid(oid)), _size(request.json())
    if not blob.exists() or blob.stat().st_size != size:
        raise RefusedError(404, f"the object {oid} of {size} bytes is not here")
    return json_response({})


def _objects(payload: dict[str, Any], key: str) -> list[dict[str, Any]]:
    value = payload.get(key)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise RefusedError(400, f'"{key}" must be a list of objects')
    return value


def _size(item: dict[str, Any]) -> int:
    size = item.get("size")
    if not isinstance(size, int) or size < 0:
        raise RefusedError(400, f'"size" must be a number of bytes, not {size!r:.40}')
    return size


def _oid(text: str) -> str:
    """Return a SHA-256 in hex; it becomes a file name, so nothing else passes."""
    if not _OID.fullmatch(text):
        raise RefusedError(400, f"{text[:80]!r} is not a SHA-256")
    return text


def commit(request: Request, kind: str, repo: str, rev: str) -> Response:
    """Answer `POST .../commit/{rev}[?create_pr=1]`: newline-delimited JSON, one header and the operations."""
    request.visible(kind, repo)
    as_pull_request = request.flag("create_pr")
    user = request.writer(None if as_pull_request else repo)
    header, operations = _parse(request.body.read(LARGEST_COMMIT))
    title, description = text_of(header, "summary"), text_of(header, "description", "")
    if not title:
        raise RefusedError(400, "summary is required")
    url, answer = request.site.web_url(kind, repo), {}
    with request.store.change(kind, repo) as repository:
        base = repository.resolve(rev)
        if rev not in repository.branches and rev not in repository.other_refs:
            raise RefusedError(404, f"{rev} is not a branch", code="RevisionNotFound")
        parent = text_of(header, "parentCommit", "")
        if parent and not as_pull_request and not base.startswith(parent):
            raise RefusedError(412, "A commit has happened since. Please refresh and try again.")
        tree = changed_tree(request.store, repository.commits[base].tree, operations)
        if as_pull_request:
            number = open_discussion(repository, user.name, title, description, base=base)
            rev = f"refs/pr/{number}"
            answer = {"pullRequestUrl": f"{url}/discussions/{number}"}
        sha = repository.add_commit(
            rev, tree, title=title, message=description, author=user.name, date=now(), parents=[base]
        )
    sent = {"success": True, "hookOutput": "", "commitOid": sha, "commitUrl": f"{url}/commit/{sha}"}
    return json_response(sent | answer)


def _parse(data: bytes) -> tuple[dict[str, Any], list[Operation]]:
    header: dict[str, Any] = {}
    operations: list[Operation] = []
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


def changed_tree(store: Store, tree: Tree, operations: list[Operation]) -> Tree:
    """Return what a commit's operations make of a tree, which is left as it is."""
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
    _refuse_clashes(tree)
    return tree


def safe_path(path: str) -> str:
    """Return a path that stays inside a repository, wherever that is downloaded to."""
    bad_part = any(part in ("", ".", "..") or part.lower() == ".git" for part in path.rstrip("/").split("/"))
    if bad_part or _FOREIGN.search(path) or len(path) > LONGEST_PATH or not path.isprintable():
        raise RefusedError(400, f"Invalid path: {path[:200]!r}")
    return path.rstrip("/")


def _regular_file(store: Store, path: str, value: Mapping[str, Any]) -> Entry:
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
    if not _OID.fullmatch(oid) or not store.blob(oid).exists():
        raise RefusedError(400, f"LFS object {oid[:80]!r} was not uploaded")
    return store.entry(oid, lfs=True)


def _existing(tree: Tree, path: str) -> Entry:
    if path not in tree:
        raise RefusedError(404, f"A file with this name doesn't exist: {path}", code="EntryNotFound")
    return tree[path]


def _refuse_clashes(tree: Tree) -> None:
    """Refuse a tree in which a path is a file and a folder at once."""
    for path in tree:
        parts = path.split("/")
        for level in range(1, len(parts)):
            if "/".join(parts[:level]) in tree:
                raise RefusedError(400, f"{'/'.join(parts[:level])!r} cannot be a file and a folder")
