"""What a safetensors file holds, read from its first bytes: names, types and shapes, but no weights."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rocket_hub.discovery.access.cache import load, save
from rocket_hub.discovery.access.files import Part, fetch
from rocket_hub.errors import AdapterError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

FIRST_READ = 100_000
"""Bytes; nearly every header ends within these, so that one request is enough."""
MAX_HEADER = 10_000_000

_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U8": 8, "BOOL": 8}


@dataclass(frozen=True)
class Tensor:
    """One tensor of a safetensors file.

    Attributes:
        dtype: As the format names it, for example `BF16`.
        shape: Its sizes.
    """

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """What the first bytes of a safetensors file say.

    Attributes:
        tensors: By name.
        size: Bytes of the whole file.
        sha256: Of the whole file; empty if the Hub did not tell.
    """

    tensors: Mapping[str, Tensor]
    size: int
    sha256: str


def read_header(api: HfApi, repo_id: str, revision: str, filename: str) -> Header:
    """Read the header of a safetensors file on the Hub with one Range request, two if it is unusually long.

    The header is kept for ever: the same commit costs no request again. What cannot be read as a header, and cannot be
    checked against the file's hash, is asked for once more, and kept only if the Hub says the same again.

    Args:
        api: Where the Hub is, and who asks.
        repo_id: `namespace/name`.
        revision: Commit hash.
        filename: Path in the repository.

    Returns:
        The header.

    Raises:
        AdapterError: `broken_weights`: not a safetensors file, a truncated one, or a header above `MAX_HEADER`.
        HubError: The Hub did not give the bytes.
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
    """Return whether a header can be had without a request."""
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
    """Return where the header of a file ends, as its first bytes say."""
    return 8 + int.from_bytes(data[:8], "little")


def _is_header(part: Part) -> bool:
    """Return whether a header can be read."""
    try:
        parse_header(part.data, part.size)
    except AdapterError:
        return False
    return True


def header_end(data: bytes, size: int) -> int:
    """Return where the header ends.

    Args:
        data: The first bytes of the file, at least 8.
        size: Bytes of the whole file.

    Raises:
        AdapterError: `broken_weights`: there can be no such header.
    """
    end = _claimed_end(data)
    if len(data) < 8 or end > size:
        raise AdapterError("broken_weights", f"not a safetensors file, or cut off: {size:,} bytes, header up to {end}")
    if end > MAX_HEADER:
        raise AdapterError("broken_weights", f"its header has {end:,} bytes, more than the {MAX_HEADER:,} read here")
    return end


def parse_header(data: bytes, size: int) -> dict[str, Tensor]:
    """Read the tensors from the first bytes of a safetensors file.

    Args:
        data: The first bytes, with the whole header.
        size: Bytes of the whole file.

    Returns:
        The tensors by name.

    Raises:
        AdapterError: `broken_weights`: the header does not describe a file of this size.
    """
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
