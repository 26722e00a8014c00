"""Thrift's compact protocol, as far as Parquet's headers need it: the few fields that are wanted, the rest passed over.

https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md. It reads as the C++ reader of Arrow
does, so that both see the same in the same bytes: a field of another kind than is wanted is passed over, of two fields
with one number the last one counts, and a number is cut to its bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

I32, I64 = 5, 6
_STRUCT = 12
_LISTS = (9, 10)
_DEEPEST = 16

Wanted = Mapping[int, Any]
"""Number of a field -> `I32`, `I64`, what is wanted of a struct, or a list with what is wanted of its structs."""


def read_struct(data: bytes, wanted: Wanted, at: int = 0, deep: int = 0) -> tuple[dict[int, Any], int]:
    """Read a struct.

    Args:
        data: Bytes.
        wanted: What is wanted of it.
        at: Where it begins.
        deep: How many structs it is in.

    Returns:
        Number of a field -> its value, of those that are wanted and there; and where the struct ends.

    Raises:
        IndexError: The bytes end before it does.
        ValueError: It is none.
    """
    if deep > _DEEPEST:
        raise ValueError("too many structs in one another")
    found: dict[int, Any] = {}
    number = 0
    while data[at]:
        step, kind = data[at] >> 4, data[at] & 15
        at += 1
        if step == 0:
            number, at = _signed(data, at, 32)
        else:
            number += step
        number = (number + 2**15) % 2**16 - 2**15
        want = wanted.get(number)
        if kind == want and kind in (I32, I64):
            found[number], at = _signed(data, at, 32 if kind == I32 else 64)
        elif kind == _STRUCT and isinstance(want, Mapping):
            found[number], at = read_struct(data, want, at, deep + 1)
        elif kind in _LISTS and isinstance(want, list):
            found[number], at = _read_list(data, want[0], at, deep + 1)
        else:
            at = _pass_over(data, kind, at, deep + 1)
    return found, at + 1


def _read_list(data: bytes, wanted: Wanted, at: int, deep: int) -> tuple[list[dict[int, Any]], int]:
    """Read a list of structs, each with some of what is wanted; returns them, and where it ends."""
    size, kind, at = _list_header(data, at)
    if size and kind != _STRUCT:
        raise ValueError("a list of something else")
    found = []
    for _ in range(size):
        item, at = read_struct(data, wanted, at, deep)
        if not item:  # millions of them fit into a footer, and each takes memory
            raise ValueError("a list of empty structs")
        found.append(item)
    return found, at


def _pass_over(data: bytes, kind: int, at: int, deep: int, *, listed: bool = False) -> int:
    """Return where a value of some kind ends."""
    if kind in (1, 2):  # true and false have no bytes, but in lists they have one
        at += listed
    elif kind == 3:
        at += 1
    elif kind in (4, I32, I64):
        _, at = _signed(data, at, 64)
    elif kind == 7:  # a double
        at += 8
    elif kind == 8:  # bytes
        length, at = _unsigned(data, at)
        at += length & 0xFFFFFFFF
    elif kind == _STRUCT:
        _, at = read_struct(data, {}, at, deep)
    elif kind in _LISTS and deep <= _DEEPEST:
        size, inner, at = _list_header(data, at)
        for _ in range(size):
            at = _pass_over(data, inner, at, deep + 1, listed=True)
    else:
        raise ValueError(f"a field of kind {kind}")
    if at > len(data):
        raise IndexError
    return at


def _list_header(data: bytes, at: int) -> tuple[int, int, int]:
    """Read how many items of which kind a list has, and where they begin."""
    size, kind = data[at] >> 4, data[at] & 15
    at += 1
    if size == 15:
        size, at = _unsigned(data, at)
        size &= 0xFFFFFFFF
    return size, kind, at


def _unsigned(data: bytes, at: int) -> tuple[int, int]:
    """Read a number of seven bits a byte, the lowest first; returns it, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        value |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return value, at
    raise ValueError("a number that does not end")


def _signed(data: bytes, at: int, bits: int) -> tuple[int, int]:
    """Read a number whose lowest bit is its sign; returns it, and where it ends."""
    value, at = _unsigned(data, at)
    value &= (1 << bits) - 1
    return (value >> 1) ^ -(value & 1), at
