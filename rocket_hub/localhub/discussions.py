from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rocket_hub.localhub.access import signed_in, visible, writable
from rocket_hub.localhub.errors import RefusedError
from rocket_hub.localhub.messages import Request, Response, json_response, text_of
from rocket_hub.localhub.repository import Repository, merge_trees, now

PAGE = 50
Discussion = dict[str, Any]


def open_discussion(
    repository: Repository, author: str, title: str, description: str, *, base: str | None = None, status: str = "open"
) -> int:
    """Add a discussion to a repository that the store has lent for changing, and return its number, from 1.

    Args:
        repository: The repository.
        author: Name of who opens it.
        title: Its title.
        description: Its first comment.
        base: For a pull request the commit that it starts from; None for a plain discussion.
        status: `open` or `draft`.
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
    repository = visible(request, kind, repo)
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
    visible(request, kind, repo)
    user, payload = signed_in(request), request.json()
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
    discussion = _numbered(visible(request, kind, repo), number)
    changes = {"base": "refs/heads/main", "mergeCommitId": discussion["mergeCommitId"]}
    return json_response({**discussion, "changes": changes, "filesWithConflicts": [], "diff": ""})


def merge(request: Request, kind: str, repo: str, number: str) -> Response:
    """Answer `POST .../discussions/{number}/merge`: a merge commit on main, or 409 if both sides changed a file."""
    user = writable(request, kind, repo)
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
    visible(request, kind, repo)
    user, payload = signed_in(request), request.json()
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
