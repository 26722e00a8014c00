"""Branches and tags."""

from __future__ import annotations

import re

from rocket_hub.localhub.access import visible, writer
from rocket_hub.localhub.messages import Request, Response, json_response, text_of
from rocket_hub.localhub.refusal import RefusedError

_NAME = re.compile(r"[\w][\w./-]{0,200}", re.ASCII)


def create_branch(request: Request, kind: str, repo: str, rev: str) -> Response:
    """Answer `POST .../branch/{name} {startingPoint?}`."""
    visible(request, kind, repo)
    writer(request, repo)
    start = text_of(request.json(), "startingPoint", "main")
    with request.store.change(kind, repo) as repository:
        if rev in repository.branches:
            raise RefusedError(409, f"Reference already exists: refs/heads/{rev}")
        repository.branches[_checked(rev)] = repository.resolve(start)
    return json_response({})


def delete_branch(request: Request, kind: str, repo: str, rev: str) -> Response:
    """Answer `DELETE .../branch/{name}`."""
    visible(request, kind, repo)
    writer(request, repo)
    with request.store.change(kind, repo) as repository:
        if rev == "main":
            raise RefusedError(403, "Cannot delete branch main")
        if repository.branches.pop(rev, None) is None:
            raise RefusedError(404, f"Branch {rev} not found", code="RevisionNotFound")
    return json_response({})


def create_tag(request: Request, kind: str, repo: str, rev: str) -> Response:
    """Answer `POST .../tag/{revision} {tag, message?}`."""
    visible(request, kind, repo)
    writer(request, repo)
    name = _checked(text_of(request.json(), "tag"))
    with request.store.change(kind, repo) as repository:
        if name in repository.tags:
            raise RefusedError(409, f"Tag already exists: refs/tags/{name}")
        repository.tags[name] = repository.resolve(rev)
    return json_response({})


def delete_tag(request: Request, kind: str, repo: str, rev: str) -> Response:
    """Answer `DELETE .../tag/{name}`."""
    visible(request, kind, repo)
    writer(request, repo)
    with request.store.change(kind, repo) as repository:
        if repository.tags.pop(rev, None) is None:
            raise RefusedError(404, f"Tag {rev} not found", code="RevisionNotFound")
    return json_response({})


def _checked(name: str) -> str:
    """Return the name of a new branch or tag; full references cannot be made by hand."""
    if not _NAME.fullmatch(name) or ".." in name or name.startswith("refs/"):
        raise RefusedError(400, f"Invalid reference name: {name[:80]!r}")
    return name
