"""What the Hub was asked, and what is kept of it on disk: records, lists, and headers of safetensors files."""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from huggingface_hub import HfApi, constants, get_session
from huggingface_hub.utils import build_hf_headers, validate_repo_id  # type: ignore[attr-defined]

from rocket_hub.discovery.hub.client import call
from rocket_hub.discovery.hub.download import TIMEOUT, Part, fetch, read_answer
from rocket_hub.errors import AdapterError
from rocket_hub.lora.tensors import Tensor

MAX_KEPT = 64 * 2**20
"""Bytes of a kept file that are read back."""
MAX_ANSWER = 64 * 2**20
"""Bytes of one answer, unpacked."""
MAX_PAGES = 2_000
FIRST_READ = 100_000
"""Bytes; nearly every header ends within these, so that one request is enough."""
MAX_HEADER = 10_000_000

_DIGEST = 32
_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U8": 8, "BOOL": 8}


def folder() -> Path:
    """Return where everything is kept."""
    return Path(constants.HF_HOME) / "rocket_hub" / "discovery"


def load(api: HfApi, *name: str) -> Part | None:
    """Return what `save` kept under a name, None if there is nothing, or nothing whole; each Hub has its own cache.

    A name is for example `model`, repository, commit, file. It must have a commit, whose content never changes.
    """
    path = _path(api, name)
    data = _read(path)
    if data is None:
        return None
    head, _, body = data.partition(b"\n")
    size, found = head.decode("ascii").split()
    return Part(body, int(size), "" if found == "-" else found)


def save(api: HfApi, part: Part, *name: str) -> None:
    """Keep a part of a file; a cache that cannot be written is no error."""
    _write(_path(api, name), f"{part.size} {part.hash or '-'}\n".encode("ascii") + part.data)


def remember(api: HfApi, value: Any, *name: str) -> None:
    """Keep an answer that may change, as JSON, with the present time."""
    _write(_path(api, name), json.dumps({"time": time.time(), "value": value}).encode())


def recall(api: HfApi, *name: str) -> tuple[float, Any] | None:
    """Return what `remember` kept under a name and when (seconds since 1970); None if there is nothing whole."""
    data = _read(_path(api, name))
    if data is None:
        return None
    kept = json.loads(data)
    return kept["time"], kept["value"]


def _path(api: HfApi, name: tuple[str, ...]) -> Path:
    """Return where something is kept; no name becomes part of a path."""
    hub = urlsplit(api.endpoint)  # without its port: a local Hub has another one each time
    key = hashlib.sha256("\0".join((f"{hub.hostname}{hub.path}", *name)).encode("utf-8", "replace")).hexdigest()
    return folder() / key[:2] / key


def _read(path: Path) -> bytes | None:
    """Read a file if it is whole and the one that was written there."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_KEPT)
    except OSError:
        return None
    return data[_DIGEST:] if data[:_DIGEST] == _digest(path, data[_DIGEST:]) else None


def _write(path: Path, data: bytes) -> None:
    """Write a file with its checksum, whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(_digest(path, data) + data)
        partial.replace(path)
    except OSError:
        with suppress(OSError):
            partial.unlink()


def _digest(path: Path, data: bytes) -> bytes:
    return hashlib.sha256(path.name.encode() + data).digest()


def model_record(api: HfApi, repo_id: str) -> tuple[dict[str, Any], float]:
    """Ask for the record of a model with the hashes of its files; follows a repository that was renamed.

    Returns:
        The record (`id`, `sha`, `cardData`, `siblings`); and 0, or when it was asked if the Hub libraries are offline.
    """

    def ask() -> dict[str, Any]:
        call(f"base model {repo_id}", validate_repo_id, repo_id)
        path = f"/api/models/{quote(repo_id)}"
        record, _ = call(f"base model {repo_id}", get, api, path, "blobs=true", dict)
        return {key: record.get(key) for key in ("id", "sha", "cardData", "siblings")}

    return or_last(api, ask, "model", repo_id)


def pages(api: HfApi, what: str, path: str, query: Sequence[tuple[str, str]]) -> Iterator[list[Any]]:
    """Yield the items of each page of a list (`path`: for example `/api/models`); each page is tried again by itself.

    Only the query of the link to the next page is used: whatever its host, the token goes to no other than `api`'s.
    """
    text: str | None = urlencode(query)
    asked: set[str] = set()
    while text is not None and text not in asked and len(asked) < MAX_PAGES:
        asked.add(text)
        items, text = call(what, get, api, path, text, list)
        yield items


def get(api: HfApi, path: str, query: str, expected: type) -> tuple[Any, str | None]:
    """Send one GET; returns the answer, which is JSON of the expected type, and the query of the next page."""
    with get_session().stream(
        "GET", f"{api.endpoint}{path}?{query}", headers=build_hf_headers(token=api.token), timeout=TIMEOUT
    ) as response:
        value = read_answer(response, expected, MAX_ANSWER)
        link = response.links.get("next", {}).get("url")
    return value, urlsplit(link).query if link else None


def or_last(api: HfApi, ask: Callable[[], Any], *name: str) -> tuple[Any, float]:
    """Ask, and remember the answer, which is JSON data, under a name; offline, return the last one.

    Returns:
        The answer; and 0 if it is new, otherwise when it was given (seconds since 1970).

    Raises:
        HubUnreachableError: Offline, and there is no last answer.
        HubError: What `ask` raises.
    """
    kept = recall(api, *name) if constants.is_offline_mode() else None
    if kept is not None:
        return kept[1], kept[0]
    value = ask()
    remember(api, value, *name)
    return value, 0.0


def files_of(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the files of a model's record: path -> SHA-256 of an LFS file, git's SHA-1 of another, empty if untold."""
    files: dict[str, str] = {}
    siblings = record.get("siblings")
    for entry in siblings if isinstance(siblings, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("rfilename"), str):
            lfs = entry.get("lfs")
            told = lfs.get("sha256") if isinstance(lfs, dict) else entry.get("blobId")
            files[entry["rfilename"]] = told if isinstance(told, str) else ""
    return files


@dataclass(frozen=True)
class Header:
    """Tensors by name; bytes of the whole file; its SHA-256, empty if the Hub did not tell."""

    tensors: Mapping[str, Tensor]
    size: int
    sha256: str


def read_header(api: HfApi, repo_id: str, revision: str, filename: str) -> Header:
    """Read the header of a safetensors file at a commit with one Range request, two if it is unusually long.

    It is kept, so that the same commit costs no request again. What cannot be read as a header, and cannot be checked
    against the file's hash, is asked for once more, and kept only if the Hub says the same again.
    """
    name = ("header", repo_id, revision, filename)
    part = load(api, *name)
    if part is None:
        part = _fetch(api, repo_id, revision, filename)
        sure = bool(part.hash) and (len(part.data) == part.size or _is_header(part))
        if not sure:
            first, part = part, _fetch(api, repo_id, revision, filename)
            sure = bool(part.hash) and (part == first or _is_header(part))
        if sure:
            save(api, part._replace(data=part.data[: _claimed_end(part.data)]), *name)
    sha256 = part.hash if len(part.hash) == 64 else ""
    return Header(parse_header(part.data, part.size), part.size, sha256)


def is_kept(api: HfApi, repo_id: str, revision: str, filename: str) -> bool:
    """Return whether a header needs no request."""
    return load(api, "header", repo_id, revision, filename) is not None


def _fetch(api: HfApi, repo_id: str, revision: str, filename: str) -> Part:
    """Read the first bytes of a file, as far as its header says that it goes."""
    part = fetch(api, repo_id, revision, filename, length=FIRST_READ)
    end = _claimed_end(part.data)
    if len(part.data) < end <= min(part.size, MAX_HEADER):
        start = len(part.data)
        rest = fetch(api, repo_id, revision, filename, start=start, length=end - start)
        part = part._replace(data=part.data + rest.data)
    return part


def _claimed_end(data: bytes) -> int:
    return 8 + int.from_bytes(data[:8], "little")


def _is_header(part: Part) -> bool:
    try:
        parse_header(part.data, part.size)
    except AdapterError:
        return False
    return True


def header_end(data: bytes, size: int) -> int:
    """Return where the header ends, from the first bytes of a file of `size` bytes."""
    end = _claimed_end(data)
    if len(data) < 8 or end > size:
        raise AdapterError("broken_weights", f"not a safetensors file, or cut off: {size:,} bytes, header up to {end}")
    if end > MAX_HEADER:
        raise AdapterError("broken_weights", f"its header has {end:,} bytes, more than the {MAX_HEADER:,} read here")
    return end


def parse_header(data: bytes, size: int) -> dict[str, Tensor]:
    """Return the tensors by name, from the first bytes of a safetensors file of `size` bytes."""
    end = header_end(data, size)
    if len(data) < end:
        raise AdapterError("broken_weights", f"its header has {end:,} bytes, {len(data):,} of them could be read")
    try:
        header = json.loads(data[8:end])
    except (ValueError, RecursionError) as error:
        raise AdapterError("broken_weights", f"its header is not JSON: {str(error)[:100]}") from error
    if not isinstance(header, dict):
        raise AdapterError("broken_weights", f"its header is no JSON object but {type(header).__name__}")
    header.pop("__metadata__", None)
    tensors, last = {}, 0
    for name, entry in header.items():
        tensors[name], stop = _parse_tensor(name, entry)
        last = max(last, stop)
    if end + last != size:
        raise AdapterError("broken_weights", f"the file has {size:,} bytes, its header describes {end + last:,}")
    return tensors


def _parse_tensor(name: str, entry: Any) -> tuple[Tensor, int]:
    """Read one entry of a header; returns the tensor and where its data ends."""
    entry = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    plain = isinstance(dtype, str) and _are_sizes(shape, 8) and _are_sizes(offsets, 2) and len(offsets) == 2
    if not plain:
        raise AdapterError("broken_weights", f"its header describes the tensor '{name[:100]}' wrongly")
    # Other types (8-bit floats and the like) are left to whoever looks at the tensor.
    if dtype in _BITS and math.prod(shape) * _BITS[dtype] != (offsets[1] - offsets[0]) * 8:
        raise AdapterError("broken_weights", f"the tensor '{name[:100]}' has another size than its shape {shape} says")
    return Tensor(dtype, tuple(shape)), offsets[1]


def _are_sizes(value: Any, most: int) -> bool:
    """Return whether a value is a list of at most so many sizes; true is no size."""
    return (
        isinstance(value, list)
        and len(value) <= most
        and all(type(item) is int and 0 <= item < 1 << 50 for item in value)
    )
