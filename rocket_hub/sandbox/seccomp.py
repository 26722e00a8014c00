"""Seccomp: the system calls that one process of Python needs for itself, and no other (man 2 seccomp)."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable

from rocket_hub.sandbox.kernel import PR_SET_SECCOMP, call

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
    """Let this process, from now on, do only the listed system calls; others fail with EPERM.

    Raises:
        OSError: The kernel has no seccomp filters, or the machine is neither x86_64 nor aarch64.
    """
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
