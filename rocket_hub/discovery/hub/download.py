"""Files of a repository at a commit, and parts of them: bounded, and checked against their hash.

huggingface_hub checks a download's length but, over plain HTTP, not its hash.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections import OrderedDict
from io import SEEK_CUR, SEEK_END, SEEK_SET
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from huggingface_hub import HfApi, get_session, hf_hub_url, try_to_load_from_cache
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, httpx, validate_repo_id  # type: ignore[attr-defined]

from rocket_hub.discovery.hub.client import FileError, call
from rocket_hub.errors import HubError

TIMEOUT = 30.0
"""Seconds without a byte after which a read is given up and tried again."""
DEADLINE = 300.0
"""Seconds after which it is given up although bytes still trickle in."""
MAX_ERROR = 65_536
"""Bytes of an error message that are read."""
MAX_NODE = 2**20
"""Bytes of what the Hub says of one file."""
FIRST = 128 * 2**10
"""Bytes that a `RangeFile` asks for at least; a shorter request costs the Hub as much."""
AHEAD = 4 * 2**20
"""Bytes that it asks for at least where it is read from one end to the other."""
LARGEST = 256 * 2**20
"""Bytes that it asks for at most."""

_KEPT = 4
_OF_THE_BODY = ("content-length", "content-encoding", "transfer-encoding")
SHA1, SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")


def told_hash(response: Any) -> str:
    """Return the hash of the whole file that the Hub told; what a storage elsewhere calls an ETag is none."""
    first = (response.history or [response])[0].url
    own = [hop for hop in (*response.history, response) if _origin(hop.url) == _origin(first)]
    headers = own[-1].headers
    tag = (headers.get("X-Linked-Etag") or headers.get("ETag") or "").strip().removeprefix("W/").strip('"')
    return tag if SHA1.fullmatch(tag) or SHA256.fullmatch(tag) else ""


def _origin(url: Any) -> tuple[str, str, int | None]:
    """Return what a token may be sent to."""
    return url.scheme, url.host, url.port


def hash_of(data: bytes, like: str) -> str:
    """Return the SHA-256 of a file's bytes, or git's SHA-1 if `like` is one."""
    if SHA256.fullmatch(like):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def has_hash(path: Path, expected: str) -> bool:
    """Return whether a file has the SHA-256, or git's SHA-1; true where what is given is neither."""
    if not SHA256.fullmatch(expected) and not SHA1.fullmatch(expected):
        return True
    digest = hashlib.sha256()
    if SHA1.fullmatch(expected):
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest() == expected


class Part(NamedTuple):
    """A part of a file.

    Attributes:
        data: The bytes.
        size: Bytes of the whole file.
        hash: Git's SHA-1 of the whole file, or its SHA-256 if it is an LFS file; empty if the Hub did not tell.
    """

    data: bytes
    size: int
    hash: str


def is_plain_path(path: str) -> bool:
    """Return whether a path in a repository can stay inside a folder: relative, without `..`, bounded."""
    parts = path.split("/")
    return len(path) <= 512 and "\\" not in path and "\0" not in path and not {"", ".", ".."} & set(parts)


def fetch(
    api: HfApi, repo_id: str, revision: str, filename: str, *, length: int, start: int = 0, kind: str = "model"
) -> Part:
    """Read at most `length` bytes of a file of a `model` or `dataset` with one GET; fewer if the file ends before."""
    url = hf_hub_url(repo_id, filename, repo_type=kind, revision=revision, endpoint=api.endpoint)
    headers = build_hf_headers(token=api.token)
    headers |= {"Range": f"bytes={start}-{start + length - 1}", "Accept-Encoding": "identity"}
    return call(f"{repo_id}: {filename}", _get_part, url, headers, start, length)


def _get_part(url: str, headers: dict[str, str], start: int, length: int) -> Part:
    """Send one GET and read at most `length` bytes of its body, also from a server that ignores `Range`."""
    with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT) as response:
        if response.status_code == 416:  # the file ends before `start`
            return Part(b"", _number(response.headers.get("Content-Range", "").rpartition("/")[2]), "")
        raise_for_status(response)
        partial = response.status_code == 206
        told = response.headers.get("Content-Range" if partial else "Content-Length", "")
        if partial and not told.startswith(f"bytes {start}-"):
            raise FileError("damaged", f"another part than was asked for ({told[:50]!r}, not from byte {start} on)")
        data, ended = read_bounded(response, length, skip=0 if partial else start)
        size = _number(told.rpartition("/")[2]) or (start + len(data) if ended and not partial else 0)
        if partial and len(data) != min(length, size - start):
            raise FileError("damaged", f"{len(data):,} bytes of the part that was asked for ({told[:50]!r}), not all")
        part = Part(data, size, told_hash(response))
    if start == 0 and len(data) == size and part.hash and hash_of(data, part.hash) != part.hash:
        raise FileError("damaged", "the bytes have a wrong hash")
    return part


def raise_for_status(response: Any) -> None:
    """Raise the client's error for a refusal, from at most `MAX_ERROR` bytes of its body, which was not read yet."""
    if not response.is_error:
        return
    body, _ = read_bounded(response, MAX_ERROR)
    kept = {key: value for key, value in response.headers.items() if key.lower() not in _OF_THE_BODY}
    status, request = response.status_code, response.request
    try:
        hf_raise_for_status(httpx.Response(status, headers=kept, content=body, request=request))
    except (AttributeError, TypeError, RecursionError):  # the client expects an object if it is JSON
        hf_raise_for_status(httpx.Response(status, headers=kept, content=b"", request=request))


def read_bounded(response: Any, length: int, *, skip: int = 0, unpack: bool = False) -> tuple[bytes, bool]:
    """Read at most `length` bytes of a body after the first `skip`; returns them, and whether the body ended.

    What is skipped is not kept, and a file is not unpacked, whatever its answer says it is packed with.
    """
    data, give_up = bytearray(), time.monotonic() + DEADLINE
    # To the end where it comes in time, so that the connection can be used again.
    for piece in response.iter_bytes() if unpack else response.iter_raw():
        data += piece[skip:]
        skip = max(0, skip - len(piece))
        if len(data) > length:
            return bytes(data[:length]), False
        if time.monotonic() > give_up:
            raise httpx.ReadTimeout(f"not done after {DEADLINE:.0f} seconds", request=response.request)
    return bytes(data), True


def read_answer(response: Any, expected: type, most: int) -> Any:
    """Read an answer of the Hub's API, a `list` or a `dict`, of at most so many bytes, unpacked."""
    raise_for_status(response)
    data, ended = read_bounded(response, most, unpack=True)
    try:
        value = json.loads(data) if ended else None
    except (ValueError, RecursionError) as error:
        raise FileError("damaged", f"the answer is not JSON ({str(error)[:100]})") from error
    if not isinstance(value, expected):
        raise FileError("damaged", f"the answer is no {expected.__name__}, or has more than {most:,} bytes")
    return value


def _number(text: str) -> int:
    """Read a size from a header; 0 if it has none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else 0


def download(api: HfApi, repo_id: str, revision: str, filename: str, *, kind: str = "model", max_bytes: int) -> Path:
    """Download one file of a `model` or `dataset` at a commit into the Hub cache, and verify it; returns its path.

    A file that is in the cache, and whole, costs no request. The Hub's scan for malware is asked for here: a list does
    not tell it, and one request for each listed adapter would double the crawl.

    Raises:
        HubError: The file is not there, larger than `max_bytes`, unsafe by the Hub's scan, or arrives with a wrong hash
            twice; otherwise as `call`.
    """
    where = f"{repo_id}: {filename}"
    if not is_plain_path(filename):
        raise HubError(f"{where[:300]}: not a plain relative path; the repository cannot be trusted, leave it out")
    cached = try_to_load_from_cache(repo_id, filename, revision=revision, repo_type=kind)
    if isinstance(cached, str):
        blob = Path(cached).resolve()  # the cache names a blob by its hash
        if blob.stat().st_size <= max_bytes and has_hash(blob, blob.name):
            return Path(cached)
    node = call(where, _get_node, api, f"{kind}s/{repo_id}/paths-info/{revision}", filename)
    size, lfs, scan = node.get("size"), node.get("lfs"), node.get("securityFileStatus")
    if type(size) is not int:
        raise HubError(f"{where}: no such file at {revision[:12]}; it may have been moved or deleted")
    if size > max_bytes:
        raise HubError(f"{where}: {size:,} bytes, more than the {max_bytes:,} that are read here; leave it out")
    expected = str(lfs.get("oid") if isinstance(lfs, dict) else node.get("oid"))
    if isinstance(scan, dict) and scan.get("status") in ("unsafe", "infected"):
        fault = FileError("unsafe_scan", f"the Hub's scan calls it {scan['status']}")
        raise HubError(f"{where}: {fault}; leave it out") from fault
    for _ in range(2):
        path = Path(call(where, api.hf_hub_download, repo_id, filename, revision=revision, repo_type=kind))
        if path.stat().st_size == size and has_hash(path, expected):
            return path
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
    damage = FileError("damaged", "the bytes have a wrong hash")
    raise HubError(f"{where}: {damage}, twice; the connection or the repository is damaged") from damage


def _get_node(api: HfApi, path: str, filename: str) -> dict[str, Any]:
    """Ask what the Hub knows of one file; returns nothing if there is none.

    `HfApi.get_paths_info` has no timeout, and crashes on an answer of another form.
    """
    validate_repo_id(path.partition("/")[2].partition("/paths-info/")[0])
    form, headers = {"paths": [filename], "expand": "true"}, build_hf_headers(token=api.token)
    with get_session().stream(
        "POST", f"{api.endpoint}/api/{quote(path)}", data=form, headers=headers, timeout=TIMEOUT
    ) as response:
        nodes = read_answer(response, list, MAX_NODE)
    if not all(isinstance(node, dict) for node in nodes):
        raise FileError("damaged", "the answer does not describe files")
    return next((node for node in nodes if node.get("path") == filename), {})


class RangeFile:
    """A binary file object over Range requests, without a copy on disk.

    A part of a file cannot be checked against the file's hash, so its parser must trust nothing. The last few parts
    are kept, because Parquet readers look twice.

    Attributes:
        size: Bytes of the whole file.
        fetched: Bytes that were asked for so far.
    """

    def __init__(self, api: HfApi, repo_id: str, revision: str, path: str) -> None:
        """Read the start of a file; a small file is read whole, and checked."""
        if not is_plain_path(path):
            raise HubError(f"{repo_id}: {path[:200]}: not a plain relative path; leave the repository out")
        self._source = (api, repo_id, revision, path)
        self._position, self._ahead = 0, FIRST
        self._parts: OrderedDict[int, bytes] = OrderedDict()
        self._first, self.size, _ = fetch(api, repo_id, revision, path, length=FIRST, kind="dataset")
        self.fetched = len(self._first)
        if self.size < len(self._first):
            raise HubError(f"{self._where}: the Hub does not say how large it is; try again later")

    def read(self, count: int = -1) -> bytes:
        """Read so many bytes from the present position, fewer only at the end of the file; -1 = to the end."""
        left = max(0, self.size - self._position)
        count = left if count < 0 else min(count, left)
        if count > LARGEST:
            raise HubError(
                f"{self._where}: {count:,} bytes wanted at once, more than the {LARGEST:,} that are read here"
            )
        data = self._kept(count) if count else b""
        if data is None:
            data = self._fetch(count)
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        """Move the position, and return it."""
        start = {SEEK_SET: 0, SEEK_CUR: self._position, SEEK_END: self.size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    @property
    def _where(self) -> str:
        return f"{self._source[1]}: {self._source[3]}"

    def _kept(self, count: int) -> bytes | None:
        """Return bytes at the position out of a part that is kept; None if none has them all."""
        for start, part in ((0, self._first), *self._parts.items()):
            begin = self._position - start
            if begin >= 0 and begin + count <= len(part):
                return part[begin : begin + count]
        return None

    def _fetch(self, count: int) -> bytes:
        api, repo_id, revision, path = self._source
        on = self._position in (len(self._first), *(start + len(part) for start, part in self._parts.items()))
        self._ahead = min(2 * self._ahead, AHEAD) if on else FIRST
        wanted = min(max(count, self._ahead), self.size - self._position)
        data = fetch(api, repo_id, revision, path, start=self._position, length=wanted, kind="dataset").data
        if len(data) != wanted:
            raise HubError(f"{self._where}: ends after {self._position + len(data):,} of {self.size:,} bytes; damaged")
        self.fetched += len(data)
        if wanted <= 2 * AHEAD:
            self._parts[self._position] = data
        if len(self._parts) > _KEPT:
            self._parts.popitem(last=False)
        return data[:count]
