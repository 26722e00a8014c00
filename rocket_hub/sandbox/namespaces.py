"""Namespaces: a world with no other processes, no network and no files but Python's own (man 7 namespaces)."""

from __future__ import annotations

import os
from collections.abc import Iterable

from rocket_hub.sandbox.kernel import call

_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = (
    0x00020000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x2, 0x4, 0x1000, 0x4000, 0x40000
_MNT_DETACH = 2
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE = 442, -100, 0x8000
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV = 0x1, 0x2, 0x4
NOBODY = 65534
_STAGE = "/proc"  # a folder that every system has and no interpreter lies in; covered in the new mount namespace only


def leave_the_others() -> None:
    """Enter new namespaces; children of this process are alone in a pid namespace, and the first of them is its init.

    Raises:
        OSError: The kernel or the container does not allow it.
    """
    wanted = _NEWNS | _NEWPID | _NEWNET | _NEWIPC | _NEWUTS
    user, group = os.geteuid(), os.getegid()
    try:
        call("unshare", wanted)
    except PermissionError:  # not for this user, unless in a user namespace of its own
        call("unshare", wanted | _NEWUSER)
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{NOBODY} {user} 1"),
            ("gid_map", f"{NOBODY} {group} 1"),
        ):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:  # noqa: PTH123
                file.write(text)
    call("sethostname", b"sandbox", 7)


def enter_private_root(readable: Iterable[str], writable: str, max_bytes: int) -> None:
    """Replace the root of the file system: some folders of the old one, read-only, and one empty folder in memory.

    Args:
        readable: Folders that stay where they are, with all below them.
        writable: Path of the empty folder.
        max_bytes: How much it holds.

    Raises:
        OSError: A mount is not allowed, or the kernel is older than 5.12.
    """
    call("mount", None, b"/", None, _MS_REC | _MS_PRIVATE, None)
    call("mount", b"tmpfs", _STAGE.encode(), b"tmpfs", _MS_NOSUID | _MS_NODEV, b"mode=755,size=1m")
    for folder in readable:
        target = _STAGE + folder
        os.makedirs(target, exist_ok=True)  # noqa: PTH103
        call("mount", os.fsencode(folder), os.fsencode(target), None, _MS_BIND | _MS_REC, None)
    inside = _STAGE + writable
    os.makedirs(inside, exist_ok=True)  # noqa: PTH103
    _make_read_only(_STAGE)
    options = f"mode=1777,size={max_bytes},nr_inodes=1k"
    call("mount", b"tmpfs", inside.encode(), b"tmpfs", _MS_NOSUID | _MS_NODEV, options.encode())
    os.chdir(_STAGE)
    call("pivot_root", b".", b".")  # the old root is now mounted over the new one, at the same place
    call("umount2", b".", _MNT_DETACH)
    os.chdir("/")


def _make_read_only(folder: str) -> None:
    """Make a mount and all mounts below it read-only; a plain remount would leave out those below."""
    flags = _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV
    attributes = b"".join(value.to_bytes(8, "little") for value in (flags, 0, 0, 0))  # struct mount_attr
    call("syscall", _MOUNT_SETATTR, _AT_FDCWD, folder.encode(), _AT_RECURSIVE, attributes, len(attributes))
