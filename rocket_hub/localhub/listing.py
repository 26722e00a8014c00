"""Lists of repositories, and the record of one."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from rocket_hub.localhub.access import may_read, user_of, visible
from rocket_hub.localhub.info import NOT_IN_LISTS, describe
from rocket_hub.localhub.messages import Request, Response, json_response
from rocket_hub.localhub.metadata import View
from rocket_hub.localhub.refusal import RefusedError
from rocket_hub.localhub.repository import Repository
from rocket_hub.localhub.store import Store

SHORT = {"private", "downloads", "likes", "tags", "pipeline_tag", "library_name", "createdAt", "trendingScore"}
FULL = SHORT | {"author", "sha", "lastModified", "gated", "disabled", "siblings"}
DATASETS = (FULL - {"siblings"}) | {"cardData", "description"}

SORTS: dict[str, Callable[[View], Any]] = {
    "downloads": lambda view: view.repository.settings["downloads"],
    "likes": lambda view: view.repository.settings["likes"],
    "trendingScore": lambda view: view.repository.settings["trendingScore"],
    "createdAt": lambda view: view.repository.settings["createdAt"],
    "lastModified": lambda view: view.repository.commits[view.sha].date,
}


def list_repositories(request: Request, kind: str) -> Response:
    """Answer `GET /api/{kind}s`: filtered, sorted, one page."""
    sort = request.value("sort") or "trendingScore"
    if sort not in SORTS:
        raise RefusedError(400, f"Invalid sort: {sort}")
    fields = _fields(request, kind)
    found = [view for view in _seen(request, kind) if _matches(request, view)]
    found.sort(key=SORTS[sort], reverse=request.value("direction") != "1")  # stable, so equals stay sorted by id
    start = request.number("cursor", 0)
    end = start + min(request.number("limit", request.site.page), request.site.page)
    headers = request.next_page(end) if start < end < len(found) else {}
    return json_response([describe(view, fields) for view in found[start:end]], headers=headers)


def show(request: Request, kind: str, repo: str, rev: str = "main") -> Response:
    """Answer `GET /api/{kind}s/{id}` and `.../revision/{rev}`."""
    repository = visible(request, kind, repo)
    view = View(request.store, repository, repository.resolve(rev))
    expand = request.values("expand")
    if expand:
        return json_response(describe(view, expand))
    record = describe(view)
    if request.flag("blobs"):
        record["siblings"] = view.siblings(sizes=True)
    if request.flag("securityStatus"):
        record["securityRepoStatus"] = view.unsafe_files()
    return json_response(record)


def _seen(request: Request, kind: str) -> list[View]:
    """Return what the user may know of, each at the head of its main branch."""
    user = user_of(request)
    return [
        _view(request.store, repository)
        for repository in request.store.all(kind)
        if not repository.settings["private"] or may_read(user, repository)
    ]


@lru_cache(maxsize=8192)
def _view(store: Store, repository: Repository) -> View:
    """Return a repository at the head of its main branch; what was read off it once need not be read again.

    The store hands out the same object as long as a repository stays the same.
    """
    return View(store, repository, repository.resolve("main"))


def _matches(request: Request, view: View) -> bool:
    """Return whether a repository passes all conditions of the query."""
    repository = view.repository
    name = repository.id.lower()
    if request.value("author") not in (None, repository.namespace):
        return False
    if not all(word.lower() in name for word in request.values("search")):
        return False
    if request.value("gated") is not None and bool(repository.settings["gated"]) != request.flag("gated"):
        return False
    wanted = {tag for value in request.values("filter") for tag in value.split(",")}
    return (wanted | set(request.values("pipeline_tag"))) <= set(view.tags)


def _fields(request: Request, kind: str) -> set[str]:
    """Return the fields that each item of the list shall have."""
    expand = set(request.values("expand"))
    if forbidden := sorted(expand & NOT_IN_LISTS):
        raise RefusedError(400, f'"expand" contains an invalid value: {forbidden} (known for a single repository only)')
    if expand:
        return expand
    fields = DATASETS if kind == "dataset" else SHORT
    if request.flag("full"):
        fields = fields | FULL
    if kind == "model":
        return fields | {key for key in ("cardData", "config") if request.flag(key)}
    return fields - {"pipeline_tag", "library_name"}
