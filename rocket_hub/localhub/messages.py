from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlencode

from rocket_hub.localhub.store import EPOCH, RefusedError, Repository, Store

SMALL_BODY = 16 * 2**20
"""Bytes that a JSON or form body may have; commits, which carry files, have their own bound."""
PIECE = 2**20
LARGEST_DRAIN = 64 * 2**20
"""Unread bytes that are worth reading away to keep a connection; beyond, it is closed."""

NOT_SIGNED_IN = "Invalid username or password."

T = TypeVar("T")


@dataclass(frozen=True)
class User:
    """Who a token belongs to."""

    name: str  # the user's own namespace
    role: str = "write"  # `write` or `read`
    orgs: tuple[str, ...] = ()  # further namespaces that the user may write to and see

    def owns(self, repo_id: str) -> bool:
        """Return whether a repository is in a namespace of the user."""
        return repo_id.split("/")[0] in (self.name, *self.orgs)


@dataclass(frozen=True)
class Site:
    """What every route may use: the store, who may enter, the address, the length of a page of a list."""

    store: Store
    users: Mapping[str, User]
    url: str
    page: int

    def web_url(self, kind: str, repo_id: str) -> str:
        """Return the address that a person would open for a repository."""
        return f"{self.url}/{'' if kind == 'model' else kind + 's/'}{repo_id}"


@dataclass(frozen=True)
class FileSlice:
    """`length` bytes of a file, from byte `start` on."""

    path: Path
    start: int
    length: int


@dataclass(frozen=True)
class Response:
    """One answer: status, headers and a body that is in memory or a slice of a file."""

    status: int = 200
    content: bytes | FileSlice = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json; charset=utf-8"

    @property
    def length(self) -> int:
        """Bytes of the body."""
        return self.content.length if isinstance(self.content, FileSlice) else len(self.content)


def json_response(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return `value` as a JSON answer."""
    return Response(status, json.dumps(value).encode(), headers or {})


def refusal_response(refusal: RefusedError) -> Response:
    """Return what the client gets to see of a refusal."""
    # A header is one line of Latin-1, whatever the message quotes.
    line = " ".join(str(refusal).split()).encode("latin-1", "replace").decode("latin-1")
    headers = {"X-Error-Message": line, **({"X-Error-Code": refusal.code} if refusal.code else {}), **refusal.headers}
    return json_response(refusal.body, status=refusal.status, headers=headers)


class Body:
    """A body on the wire: sized or chunked.

    A route that refuses early leaves its body unread, and a kept-alive connection would take the rest for the next
    request; so whoever answers calls `drain()` first.

    Attributes:
        length: The declared bytes, None for a chunked body.
    """

    def __init__(self, stream: BinaryIO, headers: Mapping[str, str]) -> None:
        self.length: int | None = None
        self._read = False
        if "chunked" in (headers.get("Transfer-Encoding") or "").lower():
            self._pieces = _chunked(stream)
            return
        declared = (headers.get("Content-Length") or "0").strip()
        # No number: nothing tells where the next request would start, so nothing is read and the connection closes.
        self.length = int(declared) if declared.isascii() and declared.isdigit() and len(declared) < 16 else -1
        self._pieces = _sized(stream, max(self.length, 0))

    def pieces(self, limit: int) -> Iterator[bytes]:
        """Yield the body piece by piece, at most `limit` bytes."""
        if self.length == -1:
            raise RefusedError(400, "Content-Length is not a number")
        if (self.length or 0) > limit:
            raise RefusedError(413, f"a body of {self.length} bytes is over this hub's limit of {limit}")
        seen = 0
        for piece in self._pieces:
            seen += len(piece)
            if seen > limit:
                raise RefusedError(413, f"the body is over this hub's limit of {limit} bytes")
            yield piece
        self._read = True

    def read(self, limit: int) -> bytes:
        """Return the whole body; raises as `pieces` does."""
        return b"".join(self.pieces(limit))

    def drain(self) -> bool:
        """Read what is left of the body; returns whether the connection can be kept."""
        if self._read:
            return True
        if not 0 <= (self.length or 0) <= LARGEST_DRAIN:
            return False
        seen = 0
        try:
            for piece in self._pieces:
                seen += len(piece)
                if seen > LARGEST_DRAIN:
                    return False
        except (RefusedError, ConnectionError):
            return False
        return True


def _sized(stream: BinaryIO, left: int) -> Iterator[bytes]:
    while left:
        piece = stream.read(min(PIECE, left))
        if not piece:
            raise ConnectionResetError("the client went away in the middle of its body")
        left -= len(piece)
        yield piece


def _chunked(stream: BinaryIO) -> Iterator[bytes]:
    """Yield a chunked body (RFC 9112, section 7.1)."""
    while True:
        line = stream.readline(1024)
        try:
            size = int(line.split(b";")[0], 16)
        except ValueError:
            raise RefusedError(400, "the chunked body is broken") from None
        if size < 0:
            raise RefusedError(400, "the chunked body is broken")
        if size == 0:
            break
        yield from _sized(stream, size)
        stream.readline(8)
    while stream.readline(1024).strip():  # trailers
        pass


@dataclass(frozen=True)
class Request:
    """One request, with its body still on the wire."""

    site: Site  # what the routes may use
    method: str  # `GET`, `HEAD`, `POST`, `PUT` or `DELETE`
    path: str  # the path as sent, still percent-encoded, without the query
    query: Mapping[str, list[str]]  # the query's values by key
    headers: Mapping[str, str]  # the headers; keys in any case
    body: Body  # the body; nobody has read it yet

    @property
    def store(self) -> Store:
        """The hub's store."""
        return self.site.store

    @property
    def user(self) -> User | None:
        """Whose token the request carries, None without a token."""
        header = self.headers.get("Authorization") or ""
        if not header:
            return None
        user = self.site.users.get(header.removeprefix("Bearer ").strip())
        if user is None:
            raise RefusedError(401, "Invalid credentials in Authorization header")
        return user

    def signed_in(self) -> User:
        """Return whose token the request carries."""
        if self.user is None:
            raise RefusedError(401, NOT_SIGNED_IN)
        return self.user

    def writer(self, repo_id: str | None = None) -> User:
        """Return who writes to a repository, or with None, to something that any writer may write to."""
        user = self.signed_in()
        if user.role != "write" or (repo_id is not None and not user.owns(repo_id)):
            raise RefusedError(403, f"You don't have the rights to write to {repo_id or 'this hub'}")
        return user

    def may_read(self, repository: Repository) -> bool:
        """Return whether the user may read the files although the repository is private or gated."""
        user = self.user
        return user is not None and (user.owns(repository.id) or user.name in repository.settings["allowed"])

    def visible(self, kind: str, repo_id: str) -> Repository:
        """Return a repository whose existence the user may know of."""
        user, repository = self.user, self.store.find(kind, repo_id)
        if repository is None or (repository.settings["private"] and not self.may_read(repository)):
            status, message = (404, "Repository not found") if user else (401, NOT_SIGNED_IN)
            raise RefusedError(status, message, code="RepoNotFound")
        return repository

    def readable(self, kind: str, repo_id: str) -> Repository:
        """Return a repository whose files the user may read."""
        repository = self.visible(kind, repo_id)
        if repository.settings["gated"] and not self.may_read(repository):
            restricted = f"Access to {kind} {repo_id} is restricted"
            if self.user is None:
                message = f"{restricted}. You must have access to it and be authenticated to access it."
                raise RefusedError(401, message, code="GatedRepo")
            page = self.site.web_url(kind, repo_id)
            message = f"{restricted} and you are not in the authorized list. Visit {page} to ask for access."
            raise RefusedError(403, message, code="GatedRepo")
        return repository

    def writable(self, kind: str, repo_id: str) -> User:
        """Return who writes to a repository that is there; raises as `visible` and `writer` do."""
        self.visible(kind, repo_id)
        return self.writer(repo_id)

    def values(self, key: str) -> list[str]:
        """Return all values of a query key; lists come as repeated keys, from some clients as `key[]`."""
        return [*self.query.get(key, []), *self.query.get(key + "[]", [])]

    def value(self, key: str) -> str | None:
        """Return the first value of a query key."""
        return next(iter(self.query.get(key, [])), None)

    def flag(self, key: str) -> bool:
        """Return whether a query key is switched on."""
        return (self.value(key) or "").lower() in ("true", "1")

    def number(self, key: str, default: int) -> int:
        """Return a query key as a number that is not negative."""
        text = self.value(key)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit() and len(text) < 16):
            raise RefusedError(400, f'"{key}" must be a whole number, not {text[:40]!r}')
        return int(text)

    def json(self) -> dict[str, Any]:
        """Read the body as a JSON object; an empty body is an empty object."""
        return json_object(self.body.read(SMALL_BODY) or b"{}")

    def page(self, items: list[T], length: int) -> tuple[list[T], dict[str, str]]:
        """Return the items of the page that `cursor` asks for, and the `Link` header that leads to the next."""
        start = self.number("cursor", 0)
        end = start + length
        if not start < end < len(items):
            return items[start:end], {}
        query = urlencode({**self.query, "cursor": [str(end)]}, doseq=True)
        return items[start:end], {"Link": f'<{self.site.url}{self.path}?{query}>; rel="next"'}


def json_object(data: bytes) -> dict[str, Any]:
    """Parse a JSON object that came from a client."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise RefusedError(400, f"the body must be a JSON object, not a {type(value).__name__}")
    return value


def text_of(payload: Mapping[str, Any], key: str, default: str | None = None) -> str:
    """Return a string out of a client's JSON object.

    Raises:
        RefusedError: If it is missing or no string.
    """
    value = payload.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise RefusedError(400, f'"{key}" must be a string, not {type(value).__name__}')
    return value


def whoami(request: Request) -> Response:
    """Answer `GET /api/whoami-v2`."""
    user = request.signed_in()
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
