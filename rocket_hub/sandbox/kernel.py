"""System calls that Python has no function for, by ctypes."""

from __future__ import annotations

import ctypes
import os
import struct

PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 1, 38, 22
_CAPABILITIES_V3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> int:
    """Call a function of the C library, for example `unshare` or `syscall`.

    Integers are passed as `unsigned long`, which is what the kernel's registers hold.

    Raises:
        OSError: It failed, or this C library does not have it.
    """
    function = getattr(_libc, name, None)
    if function is None:
        raise OSError(0, f"the C library has no function '{name}'")
    words = [ctypes.c_ulong(value) if isinstance(value, int) else value for value in arguments]
    result: int = function(*words)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def drop_capabilities() -> None:
    """Give up every capability of this process for good."""
    header = struct.pack("Ii", _CAPABILITIES_V3, 0)
    call("capset", header, bytes(24))
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
