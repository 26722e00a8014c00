"""What a safetensors file holds, read from its first bytes: names, types and shapes, but no weights."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rocket_hub.discovery.files import read_part
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


def read_header(api: HfApi, repo_id: str, revision: str, filename: str) -> tuple[dict[str, Tensor], int]:
    """Read the header of a safetensors file on the Hub with one Range request, two if it is unusually long.

    Args:
        api: Where the Hub is, and who asks.
        repo_id: `namespace/name`.
        revision: Commit hash.
        filename: Path in the repository.

    Returns:
        The tensors by name, and the size of the file in bytes.

    Raises:
        AdapterError: `broken_weights`: not a safetensors file, a truncated one, or a header above `MAX_HEADER`.
        HubError: The Hub did not give the bytes.
    """
    data, size = read_part(api, repo_id, revision, filename, length=FIRST_READ)
    end = header_end(data, size)
    if end > len(data):
        rest, _ = read_part(api, repo_id, revision, filename, start=len(data), length=end - len(data))
        data += rest
    return parse_header(data, size), size


def header_end(data: bytes, size: int) -> int:
    """Return where the header ends.

    Args:
        data: The first bytes of the file, at least 8.
        size: Bytes of the whole file.

    Raises:
        AdapterError: `broken_weights`: there can be no such header.
    """
    end = 8 + int.from_bytes(data[:8], "little")
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
