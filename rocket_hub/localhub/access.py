from __future__ import annotations

from rocket_hub.localhub.errors import RefusedError
from rocket_hub.localhub.messages import Request, Response, User, json_response
from rocket_hub.localhub.repository import EPOCH, Repository

NOT_SIGNED_IN = "Invalid username or password."


def user_of(request: Request) -> User | None:
    """Return whose token the request carries, None without a token."""
    header = request.headers.get("Authorization") or ""
    if not header:
        return None
    user = request.site.users.get(header.removeprefix("Bearer ").strip())
    if user is None:
        raise RefusedError(401, "Invalid credentials in Authorization header")
    return user


def signed_in(request: Request) -> User:
    """Return whose token the request carries."""
    user = user_of(request)
    if user is None:
        raise RefusedError(401, NOT_SIGNED_IN)
    return user


def writer(request: Request, repo_id: str | None = None) -> User:
    """Return who writes to a repository, or with None, to something that any writer may write to."""
    user = signed_in(request)
    if user.role != "write" or (repo_id is not None and not owns(user, repo_id)):
        raise RefusedError(403, f"You don't have the rights to write to {repo_id or 'this hub'}")
    return user


def owns(user: User | None, repo_id: str) -> bool:
    """Return whether a repository is in a namespace of the user."""
    return user is not None and repo_id.split("/")[0] in (user.name, *user.orgs)


def may_read(user: User | None, repository: Repository) -> bool:
    """Return whether a user may read the files although the repository is private or gated."""
    return owns(user, repository.id) or (user is not None and user.name in repository.settings["allowed"])


def visible(request: Request, kind: str, repo_id: str) -> Repository:
    """Return a repository whose existence the user may know of."""
    user = user_of(request)
    repository = request.store.find(kind, repo_id)
    if repository is None or (repository.settings["private"] and not may_read(user, repository)):
        status, message = (404, "Repository not found") if user else (401, NOT_SIGNED_IN)
        raise RefusedError(status, message, code="RepoNotFound")
    return repository


def readable(request: Request, kind: str, repo_id: str) -> Repository:
    """Return a repository whose files the user may read."""
    repository = visible(request, kind, repo_id)
    user = user_of(request)
    if repository.settings["gated"] and not may_read(user, repository):
        restricted = f"Access to {kind} {repo_id} is restricted"
        if user is None:
            message = f"{restricted}. You must have access to it and be authenticated to access it."
            raise RefusedError(401, message, code="GatedRepo")
        page = request.site.web_url(kind, repo_id)
        message = f"{restricted} and you are not in the authorized list. Visit {page} to ask for access."
        raise RefusedError(403, message, code="GatedRepo")
    return repository


def writable(request: Request, kind: str, repo_id: str) -> User:
    """Return who writes to a repository that is there; raises as `visible` and `writer` do."""
    visible(request, kind, repo_id)
    return writer(request, repo_id)


def whoami(request: Request) -> Response:
    """Answer `GET /api/whoami-v2`."""
    user = signed_in(request)
    token = {"displayName": "local", "role": user.role, "createdAt": EPOCH}
    return json_response(
        {
            "id": user.name,
            "name": user.name,
            "fullname": user.name,
            "type": "user",
            "email": None,
            "isPro": False,
            "orgs": [{"type": "org", "name": name, "roleInOrg": "admin"} for name in user.orgs],
            "auth": {"type": "access_token", "accessToken": token},
        }
    )
