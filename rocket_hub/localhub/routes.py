"""Which function answers which address."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import unquote

from rocket_hub.localhub.access import whoami
from rocket_hub.localhub.branches import create_branch, create_tag, delete_branch, delete_tag
from rocket_hub.localhub.cards import validate
from rocket_hub.localhub.commits import commit
from rocket_hub.localhub.discussions import (
    change_status,
    change_title,
    comment,
    create_discussion,
    list_discussions,
    merge,
    show_discussion,
)
from rocket_hub.localhub.files import resolve
from rocket_hub.localhub.listing import list_repositories, show
from rocket_hub.localhub.manifest import show_manifest, show_store
from rocket_hub.localhub.messages import Request, Response, json_response
from rocket_hub.localhub.refusal import RefusedError
from rocket_hub.localhub.repositories import auth_check, create, delete, settings
from rocket_hub.localhub.trees import show_commits, show_paths, show_refs, show_tree
from rocket_hub.localhub.uploads import batch, get_object, preupload, put_object, verify, xet_token

REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
API = rf"/api/(?P<kind>model|dataset|space)s/{REPO}"
WEB = rf"/(?:(?P<kind>dataset|space)s/)?{REPO}"
REV = r"(?P<rev>[^/]+)"  # percent-encoded, so a slash inside a branch's name is no slash here
PATH = r"(?P<path>.+)"
OBJECT = r"/_lfs/(?P<oid>[0-9a-f]+)"
DISCUSSION = rf"{API}/discussions/(?P<number>[0-9]{{1,6}})"


def agent_harnesses(request: Request) -> Response:
    """Answer a question of the client's telemetry: nothing is known here."""
    return json_response({"standardEnvVars": [], "harnesses": {}})


def ignore(request: Request) -> Response:
    """Swallow telemetry."""
    return Response(204)


def not_found(request: Request) -> Response:
    """Refuse an address that none of the others take.

    Names without a namespace (`gpt2`) end here: this hub has none, and the client wants to hear that in its own word.
    """
    looks_like_a_repository = re.match(r"/api/(model|dataset|space)s/", request.path) or "/resolve/" in request.path
    code = "RepoNotFound" if looks_like_a_repository else None
    raise RefusedError(404, f"this hub has nothing at {request.method} {request.path[:200]}", code=code)


ROUTES: list[tuple[str, re.Pattern[str], Callable[..., Response]]] = [
    (methods, re.compile(pattern, re.ASCII), function)
    for methods, pattern, function in (
        ("GET", "/api/whoami-v2", whoami),
        ("GET", "/api/agent-harnesses", agent_harnesses),
        ("GET POST", "/api/telemetry.*", ignore),
        ("POST", "/api/validate-yaml", validate),
        ("GET", "/api/rocket-hub/manifest", show_manifest),
        ("GET", "/api/rocket-hub/store", show_store),
        ("POST", "/api/repos/create", create),
        ("DELETE", "/api/repos/delete", delete),
        ("GET", "/api/(?P<kind>model|dataset|space)s", list_repositories),
        ("GET", API, show),
        ("GET", f"{API}/revision/{REV}", show),
        ("GET", f"{API}/tree/{REV}(?:/{PATH})?", show_tree),
        ("POST", f"{API}/paths-info/{REV}", show_paths),
        ("GET", f"{API}/refs", show_refs),
        ("GET", f"{API}/commits/{REV}", show_commits),
        ("GET", f"{API}/auth-check(?:/(?P<write>write))?", auth_check),
        ("PUT POST", f"{API}/settings", settings),
        ("GET", f"{API}/xet-(?:read|write)-token/{REV}", xet_token),
        ("POST", f"{API}/preupload/{REV}", preupload),
        ("POST", f"{API}/commit/{REV}", commit),
        ("POST", f"{API}/branch/{REV}", create_branch),
        ("DELETE", f"{API}/branch/{REV}", delete_branch),
        ("POST", f"{API}/tag/{REV}", create_tag),
        ("DELETE", f"{API}/tag/{REV}", delete_tag),
        ("GET", f"{API}/discussions", list_discussions),
        ("POST", f"{API}/discussions", create_discussion),
        ("GET", DISCUSSION, show_discussion),
        ("POST", f"{DISCUSSION}/merge", merge),
        ("POST", f"{DISCUSSION}/comment", comment),
        ("POST", f"{DISCUSSION}/status", change_status),
        ("POST", f"{DISCUSSION}/title", change_title),
        ("POST", rf"{WEB}\.git/info/lfs/objects/batch", batch),
        ("PUT", OBJECT, put_object),
        ("GET", OBJECT, get_object),
        ("POST", f"{OBJECT}/verify", verify),
        ("GET", f"{WEB}/resolve/{REV}/{PATH}", resolve),
    )
]


def answer(request: Request) -> Response:
    """Find the function for a request and call it with the named parts of the address.

    Raises:
        RefusedError: If there is none, or if it refuses.
    """
    method = "GET" if request.method == "HEAD" else request.method
    for methods, pattern, function in ROUTES:
        match = pattern.fullmatch(request.path)
        if match and method in methods.split():
            parts = {name: unquote(value) for name, value in match.groupdict().items() if value is not None}
            return function(request, **parts)
    return not_found(request)
