"""Which function answers which address, and what is done to whole repositories and their references."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from rocket_hub.localhub import commits, files, importing, listing
from rocket_hub.localhub.messages import Request, Response, json_response, text_of, whoami
from rocket_hub.localhub.store import RefusedError, Repository, now

GITATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
_REFERENCE = re.compile(r"[\w][\w./-]{0,200}", re.ASCII)

REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
API = rf"/api/(?P<kind>model|dataset|space)s/{REPO}"
WEB = rf"/(?:(?P<kind>dataset|space)s/)?{REPO}"
REV = r"(?P<rev>[^/]+)"  # percent-encoded, so a slash inside a branch's name is no slash here
PATH = r"(?P<path>.+)"
OBJECT = r"/_lfs/(?P<oid>[0-9a-f]+)"
DISCUSSION = rf"{API}/discussions/(?P<number>[0-9]{{1,6}})"


def create(request: Request) -> Response:
    """Answer `POST /api/repos/create {name, organization?, type?, visibility?}`."""
    payload = request.json()
    kind, repo_id = _target(request, payload)
    user = request.writer(repo_id)
    private = payload.get("visibility") == "private" or payload.get("private") is True
    repository = Repository(kind, repo_id, {"private": private, "createdAt": now()})
    tree = {".gitattributes": request.store.add_bytes(".gitattributes", GITATTRIBUTES)}
    repository.add_commit("main", tree, title="initial commit", author=user.name, date=now(), parents=[])
    url = request.site.web_url(kind, repo_id)
    try:
        request.store.create(repository)
    except RefusedError as refusal:
        # With exist_ok=True the client reads the address out of this error.
        raise RefusedError(refusal.status, str(refusal), body={**refusal.body, "url": url}) from refusal
    return json_response({"url": url, "name": repo_id, "id": repo_id})


def delete(request: Request) -> Response:
    """Answer `DELETE /api/repos/delete`."""
    kind, repo_id = _target(request, request.json())
    repository = request.visible(kind, repo_id)
    request.writer(repo_id)
    request.store.delete(repository)
    return Response(200, b"OK", content_type="text/plain")


def settings(request: Request, kind: str, repo: str) -> Response:
    """Answer `PUT .../settings {gated?, visibility?, private?}`."""
    request.writable(kind, repo)
    payload = request.json()
    changes: dict[str, Any] = {key: payload[key] for key in ("gated", "private") if key in payload}
    if "visibility" in payload:
        changes["private"] = payload["visibility"] == "private"
    gated, private = changes.get("gated", False), changes.get("private", False)
    if gated not in (False, "auto", "manual") or not isinstance(private, bool):
        raise RefusedError(400, f"these settings are not known here: {sorted(payload)}")
    with request.store.change(kind, repo) as repository:
        repository.settings |= changes
    return json_response(changes)


def auth_check(request: Request, kind: str, repo: str, write: str | None = None) -> Response:
    """Answer `GET .../auth-check[/write]`."""
    request.readable(kind, repo)
    if write:
        request.writer(repo)
    return json_response({})


def _target(request: Request, payload: dict[str, Any]) -> tuple[str, str]:
    """Return kind and id of the repository that a request is about."""
    user = request.writer()
    namespace = text_of(payload, "organization", "") or user.name
    return text_of(payload, "type", "model"), f"{namespace}/{text_of(payload, 'name')}"


def create_branch(request: Request, kind: str, repo: str, rev: str) -> Response:
    """Answer `POST .../branch/{name} {startingPoint?}`."""
    request.writable(kind, repo)
    start = text_of(request.json(), "startingPoint", "main")
    with request.store.change(kind, repo) as repository:
        if rev in repository.branches:
            raise RefusedError(409, f"Reference already exists: refs/heads/{rev}")
        repository.branches[_checked(rev)] = repository.resolve(start)
    return json_response({})


def create_tag(request: Request, kind: str, repo: str, rev: str) -> Response:
    """Answer `POST .../tag/{revision} {tag, message?}`."""
    request.writable(kind, repo)
    name = _checked(text_of(request.json(), "tag"))
    with request.store.change(kind, repo) as repository:
        if name in repository.tags:
            raise RefusedError(409, f"Tag already exists: refs/tags/{name}")
        repository.tags[name] = repository.resolve(rev)
    return json_response({})


def delete_reference(request: Request, kind: str, repo: str, table: str, rev: str) -> Response:
    """Answer `DELETE .../branch/{name}` and `DELETE .../tag/{name}`."""
    request.writable(kind, repo)
    with request.store.change(kind, repo) as repository:
        if (table, rev) == ("branch", "main"):
            raise RefusedError(403, "Cannot delete branch main")
        references = repository.branches if table == "branch" else repository.tags
        if references.pop(rev, None) is None:
            raise RefusedError(404, f"{table.capitalize()} {rev} not found", code="RevisionNotFound")
    return json_response({})


def _checked(name: str) -> str:
    """Return the name of a new branch or tag; full references cannot be made by hand."""
    if not _REFERENCE.fullmatch(name) or ".." in name or name.startswith("refs/"):
        raise RefusedError(400, f"Invalid reference name: {name[:80]!r}")
    return name


def agent_harnesses(request: Request) -> Response:
    """Answer a question of the client's telemetry: nothing is known here."""
    return json_response({"standardEnvVars": [], "harnesses": {}})


def ignore(request: Request) -> Response:
    """Swallow telemetry."""
    return Response(204)


def not_found(request: Request) -> Response:
    """Refuse an address that none of the others take, and ids without a namespace (`gpt2`), which there are not."""
    looks_like_a_repository = re.match(r"/api/(model|dataset|space)s/", request.path) or "/resolve/" in request.path
    code = "RepoNotFound" if looks_like_a_repository else None
    raise RefusedError(404, f"this hub has nothing at {request.method} {request.path[:200]}", code=code)


ROUTES: list[tuple[str, re.Pattern[str], Callable[..., Response]]] = [
    (methods, re.compile(pattern, re.ASCII), function)
    for methods, pattern, function in (
        ("GET", "/api/whoami-v2", whoami),
        ("GET", "/api/agent-harnesses", agent_harnesses),
        ("GET POST", "/api/telemetry.*", ignore),
        ("POST", "/api/validate-yaml", listing.validate),
        ("GET", "/api/rocket-hub/manifest", importing.show_manifest),
        ("GET", "/api/rocket-hub/store", importing.show_store),
        ("POST", "/api/repos/create", create),
        ("DELETE", "/api/repos/delete", delete),
        ("GET", "/api/(?P<kind>model|dataset|space)s", listing.list_repositories),
        ("GET", API, listing.show),
        ("GET", f"{API}/revision/{REV}", listing.show),
        ("GET", f"{API}/tree/{REV}(?:/{PATH})?", files.show_tree),
        ("POST", f"{API}/paths-info/{REV}", files.show_paths),
        ("GET", f"{API}/refs", files.show_refs),
        ("GET", f"{API}/commits/{REV}", files.show_commits),
        ("GET", f"{API}/auth-check(?:/(?P<write>write))?", auth_check),
        ("PUT POST", f"{API}/settings", settings),
        ("GET", f"{API}/xet-(?:read|write)-token/{REV}", commits.xet_token),
        ("POST", f"{API}/preupload/{REV}", commits.preupload),
        ("POST", f"{API}/commit/{REV}", commits.commit),
        ("POST", f"{API}/branch/{REV}", create_branch),
        ("POST", f"{API}/tag/{REV}", create_tag),
        ("DELETE", f"{API}/(?P<table>branch|tag)/{REV}", delete_reference),
        ("GET", f"{API}/discussions", commits.list_discussions),
        ("POST", f"{API}/discussions", commits.create_discussion),
        ("GET", DISCUSSION, commits.show_discussion),
        ("POST", f"{DISCUSSION}/merge", commits.merge),
        ("POST", f"{DISCUSSION}/comment", commits.comment),
        ("POST", f"{DISCUSSION}/status", commits.change_status),
        ("POST", f"{DISCUSSION}/title", commits.change_title),
        ("POST", rf"{WEB}\.git/info/lfs/objects/batch", commits.batch),
        ("PUT", OBJECT, commits.put_object),
        ("GET", OBJECT, commits.get_object),
        ("POST", f"{OBJECT}/verify", commits.verify),
        ("GET", f"{WEB}/resolve/{REV}/{PATH}", files.resolve),
    )
]


def answer(request: Request) -> Response:
    """Find the function for a request and call it with the named parts of the address."""
    method = "GET" if request.method == "HEAD" else request.method
    for methods, pattern, function in ROUTES:
        match = pattern.fullmatch(request.path)
        if match and method in methods.split():
            parts = {name: unquote(value) for name, value in match.groupdict().items() if value is not None}
            return function(request, **parts)
    return not_found(request)
