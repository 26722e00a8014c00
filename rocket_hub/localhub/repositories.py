"""Repositories come, go and change their settings."""

from __future__ import annotations

from typing import Any

from rocket_hub.localhub.access import readable, visible, writer
from rocket_hub.localhub.messages import Request, Response, json_response, text_of
from rocket_hub.localhub.refusal import RefusedError
from rocket_hub.localhub.repository import Repository, now

GITATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"


def create(request: Request) -> Response:
    """Answer `POST /api/repos/create {name, organization?, type?, visibility?}`."""
    payload = request.json()
    kind, repo_id = _target(request, payload)
    user = writer(request, repo_id)
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
    repository = visible(request, kind, repo_id)
    writer(request, repo_id)
    request.store.delete(repository)
    return Response(200, b"OK", content_type="text/plain")


def settings(request: Request, kind: str, repo: str) -> Response:
    """Answer `PUT .../settings {gated?, visibility?, private?}`."""
    visible(request, kind, repo)
    writer(request, repo)
    payload = request.json()
    changes: dict[str, Any] = {key: payload[key] for key in ("gated", "private") if key in payload}
    if "visibility" in payload:
        changes["private"] = payload["visibility"] == "private"
    if changes.get("gated", False) not in (False, "auto", "manual") or not isinstance(
        changes.get("private", False), bool
    ):
        raise RefusedError(400, f"these settings are not known here: {sorted(payload)}")
    with request.store.change(kind, repo) as repository:
        repository.settings |= changes
    return json_response(changes)


def auth_check(request: Request, kind: str, repo: str, write: str | None = None) -> Response:
    """Answer `GET .../auth-check[/write]`."""
    readable(request, kind, repo)
    if write:
        writer(request, repo)
    return json_response({})


def _target(request: Request, payload: dict[str, Any]) -> tuple[str, str]:
    """Return kind and id of the repository that a request is about."""
    user = writer(request)
    namespace = text_of(payload, "organization", "") or user.name
    return text_of(payload, "type", "model"), f"{namespace}/{text_of(payload, 'name')}"
