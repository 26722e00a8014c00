"""Landlock: which files a process may touch, whoever it runs as (man 7 landlock)."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable

from rocket_hub.sandbox.kernel import call

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1  # flag of create_ruleset
_PATH_BENEATH = 1
_WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG = (
    1 << bit for bit in (1, 2, 3, 4, 5, 7, 8)
)
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_ALL_FILES = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}  # by version of the interface
_ALL_NETWORK = 3  # bind and connect of TCP, from version 4
_ALL_SCOPES = 3  # abstract unix sockets and signals, from version 6


def version() -> int:
    """Return the version of the interface.

    Raises:
        OSError: The kernel has no Landlock, or it is switched off.
    """
    return call("syscall", _CREATE_RULESET, None, 0, _VERSION)


def restrict_files(readable: Iterable[str], writable: Iterable[str]) -> None:
    """Let this process, from now on, touch only what is below some folders; nothing can be executed.

    What Landlock does not cover is for seccomp: `chmod`, `chown`, `utime`, `connect` to a socket in a file. Whether a
    path exists, and how long its file is, can still be asked for where the old root is in sight.

    Args:
        readable: Folders whose files may be read.
        writable: Folders whose files may be read, written, made and removed.

    Raises:
        OSError: The kernel has no Landlock, or one older than version 3 (6.2), which would let files be truncated.
    """
    found = version()
    if found < 3:
        raise OSError(0, f"Landlock of version {found} does not cover truncation; version 3 (Linux 6.2) does")
    files = _ALL_FILES[max(number for number in _ALL_FILES if number <= found)]
    attributes = struct.pack("QQQ", files, _ALL_NETWORK if found >= 4 else 0, _ALL_SCOPES if found >= 6 else 0)
    size = 24 if found >= 6 else 16 if found >= 4 else 8
    ruleset = call("syscall", _CREATE_RULESET, attributes, size, 0)
    read = _READ_FILE | _READ_DIR
    write = read | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _REFER | _TRUNCATE
    for folders, rights in ((readable, read), (writable, write)):
        for folder in folders:
            _allow(ruleset, folder, rights)
    call("syscall", _RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def _allow(ruleset: int, folder: str, rights: int) -> None:
    """Add one folder, with all below it, to a ruleset."""
    descriptor = os.open(folder, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, descriptor))
        call("syscall", _ADD_RULE, ruleset, _PATH_BENEATH, rule, 0)
    finally:
        os.close(descriptor)
