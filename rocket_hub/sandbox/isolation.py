"""How Linux isolates a process: capabilities, Landlock (files), namespaces and a private root, seccomp (calls)."""

import ctypes
import os
import struct
from collections.abc import Iterable

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


def restrict_files(readable: Iterable[str], writable: Iterable[str]) -> None:
    """Let this process, from now on, read below some folders and write below others; nothing can be executed.

    What Landlock does not cover is for seccomp: `chmod`, `chown`, `utime`, `connect` to a socket in a file. Whether a
    path exists, and how long its file is, can still be asked for where the old root is in sight.
    """
    found = call("syscall", _CREATE_RULESET, None, 0, _VERSION)
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
    descriptor = os.open(folder, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, descriptor))
        call("syscall", _ADD_RULE, ruleset, _PATH_BENEATH, rule, 0)
    finally:
        os.close(descriptor)


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
    """Enter new namespaces: children of this process are alone in a pid namespace, the first of them is its init."""
    wanted = _NEWNS | _NEWPID | _NEWNET | _NEWIPC | _NEWUTS
    user, group = os.geteuid(), os.getegid()
    try:
        call("unshare", wanted)
    except PermissionError:  # not for this user, unless in a user namespace of its own
        call("unshare", wanted | _NEWUSER)
        maps = {"setgroups": "deny", "uid_map": f"{NOBODY} {user} 1", "gid_map": f"{NOBODY} {group} 1"}
        for name, text in maps.items():
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:  # noqa: PTH123
                file.write(text)
    call("sethostname", b"sandbox", 7)


def enter_private_root(readable: Iterable[str], writable: str, max_bytes: int) -> None:
    """Replace the root of the file system: some folders of the old one, read-only, and one empty folder in memory.

    The empty folder is at the path `writable` and holds `max_bytes`.
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


_FILTER_MODE = 2
_LOAD, _IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF: load word, jump if equal, return
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENT_AT = 0, 4, 16  # in struct seccomp_data
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050001, 0x80000000  # refuse = EPERM, an error that Python can report

_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

# name x86_64 aarch64. Not in it, and so refused: sockets, new processes and threads, execve, signals to others, ptrace,
# links, chmod, chown, utime, truncate by path, limits of others, shared memory, keys, io_uring, mounts, prctl, bpf.
_CALLS = """
read 0 63; write 1 64; open 2 -; close 3 57; stat 4 -; fstat 5 80; lstat 6 -; poll 7 -; lseek 8 62; mmap 9 222;
mprotect 10 226; munmap 11 215; brk 12 214; rt_sigaction 13 134; rt_sigprocmask 14 135; rt_sigreturn 15 139;
pread64 17 67; pwrite64 18 68; readv 19 65; writev 20 66; access 21 -; pipe 22 -; select 23 -; sched_yield 24 124;
mremap 25 216; madvise 28 233; dup 32 23; dup2 33 -; pause 34 -; nanosleep 35 101; getitimer 36 102; alarm 37 -;
setitimer 38 103; getpid 39 172; sendfile 40 71; exit 60 93; uname 63 160; fsync 74 82; fdatasync 75 83;
ftruncate 77 46; getdents 78 -; getcwd 79 17; chdir 80 49; fchdir 81 50; rename 82 -; mkdir 83 -; rmdir 84 -;
unlink 87 -; readlink 89 -; umask 95 166; gettimeofday 96 169; getrusage 98 165; sysinfo 99 179; times 100 153;
getuid 102 174; getgid 104 176; geteuid 107 175; getegid 108 177; getppid 110 173; sigaltstack 131 132; gettid 186 178;
time 201 -; futex 202 98; sched_getaffinity 204 123; getdents64 217 61; restart_syscall 219 128; clock_gettime 228 113;
clock_getres 229 114; clock_nanosleep 230 115; exit_group 231 94; openat 257 56; mkdirat 258 34; newfstatat 262 79;
unlinkat 263 35; renameat 264 38; readlinkat 267 78; faccessat 269 48; pselect6 270 72; ppoll 271 73; dup3 292 24;
pipe2 293 59; getcpu 309 168; renameat2 316 276; getrandom 318 278; copy_file_range 326 285; statx 332 291;
rseq 334 293; faccessat2 439 439
"""
# name x86_64 aarch64, the argument that decides, and its allowed values. A free fcntl could have a signal sent to any
# process of the same user (F_SETOWN, F_SETSIG); a free ioctl could type into a terminal.
_CALLS_BY_ARGUMENT = (
    ("fcntl", 72, 25, 1, (0, 1, 2, 3, 4, 1030)),  # duplicate, get and set flags
    ("ioctl", 16, 29, 1, (0x5401, 0x5413, 0x5421, 0x5450, 0x5451)),  # is it a terminal, its size, blocking, close
)


def restrict_calls() -> None:
    """Let this process, from now on, do only the listed system calls; others fail with EPERM."""
    machine = os.uname().machine
    if machine not in _ARCHITECTURES:
        raise OSError(0, f"no list of system calls for the machine '{machine}'")
    program = _program(*_ARCHITECTURES[machine])
    code = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("HP", len(program) // 8, ctypes.addressof(code))
    call("prctl", PR_SET_SECCOMP, _FILTER_MODE, fprog, 0, 0)


def _program(column: int, architecture: int) -> bytes:
    """Assemble the filter for one architecture."""
    numbers = [fields[1 + column] for fields in map(str.split, _CALLS.replace("\n", " ").split(";"))]
    steps = [(_LOAD, 0, 0, _ARCHITECTURE_AT), (_IF_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL)]
    steps.append((_LOAD, 0, 0, _NUMBER_AT))
    for number in numbers:
        if number != "-":
            steps += [(_IF_EQUAL, 0, 1, int(number)), (_RETURN, 0, 0, _ALLOW)]
    for _, *both, argument, values in _CALLS_BY_ARGUMENT:
        steps += _by_argument(both[column], argument, values)
    steps.append((_RETURN, 0, 0, _REFUSE))
    return b"".join(struct.pack("HBBI", *step) for step in steps)


def _by_argument(number: int, argument: int, values: Iterable[int]) -> list[tuple[int, int, int, int]]:
    """Assemble the steps for a call that one argument decides about (commands are 32 bits wide)."""
    checks = [(_LOAD, 0, 0, _ARGUMENT_AT + 8 * argument)]
    for value in values:
        checks += [(_IF_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ALLOW)]
    checks.append((_RETURN, 0, 0, _REFUSE))
    return [(_IF_EQUAL, 0, len(checks), number), *checks]
