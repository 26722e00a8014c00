"""Files in: the question how each file shall travel, and large files over the LFS protocol."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rocket_hub.localhub.access import visible, writer
from rocket_hub.localhub.files import send_file
from rocket_hub.localhub.messages import Request, Response, json_response, text_of
from rocket_hub.localhub.refusal import RefusedError
from rocket_hub.localhub.store import travels_as_lfs

LARGEST_UPLOAD = 2**30

NO_XET = "this hub has no Xet storage: set HF_HUB_DISABLE_XET=1, then files travel as LFS objects"


def preupload(request: Request, kind: str, repo: str, rev: str) -> Response:
    """Answer `POST .../preupload/{rev}`: how each file shall travel, and what is there already."""
    repository = visible(request, kind, repo)
    writer(request)
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
    writer(request, repo)
    visible(request, kind, repo)
    answers = []
    for item in _objects(request.json(), "objects"):
        oid = _oid(text_of(item, "oid"))
        answer: dict[str, Any] = {"oid": oid, "size": _size(item)}
        if not request.store.blob(oid).exists():
            href = f"{request.site.url}/_lfs/{oid}"
            answer["actions"] = {
                "upload": {"href": href, "header": {}},
                "verify": {"href": f"{href}/verify", "header": {}},
            }
        answers.append(answer)
    content = json_response({"transfer": "basic", "objects": answers})
    return Response(200, content.content, content_type="application/vnd.git-lfs+json")


def put_object(request: Request, oid: str) -> Response:
    """Answer `PUT /_lfs/{oid}`: stream the object to the disk and keep it if it has the hash it should have.

    As on the Hub this request carries no token: its address is the permission.
    """
    if request.body.length is None:
        raise RefusedError(411, "an upload needs a Content-Length")
    request.store.receive(_bounded(request), _oid(oid))
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


def _bounded(request: Request) -> Iterator[bytes]:
    """Yield the body of an upload."""
    return request.body.pieces(LARGEST_UPLOAD)


def _objects(payload: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """Return a list of objects out of a client's JSON."""
    value = payload.get(key)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise RefusedError(400, f'"{key}" must be a list of objects')
    return value


def _size(item: dict[str, Any]) -> int:
    """Return a file size out of a client's JSON."""
    size = item.get("size")
    if not isinstance(size, int) or size < 0:
        raise RefusedError(400, f'"size" must be a number of bytes, not {size!r:.40}')
    return size


def _oid(text: str) -> str:
    """Return a SHA-256 in hex; it becomes a file name, so nothing else passes."""
    if len(text) != 64 or not set(text) <= set("0123456789abcdef"):
        raise RefusedError(400, f"{text[:80]!r} is not a SHA-256")
    return text
