"""What the new process does: sandbox itself, then run the program and its tests.

`runner.py` starts it with nothing but Python's own library (`-I -S`). Each program pays for the imports, so there are
few: no json, pathlib, typing, signal, re.
"""

import builtins
import marshal
import os
import resource
import sys
from collections.abc import Callable
from types import ModuleType

from rocket_hub.sandbox import isolation

_SIGKILL = 9
_WRITABLE = "/tmp"  # in memory, and there only with a root of its own
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo")  # what extension modules are linked to

Steps = dict[str, str]  # mechanism -> why the kernel refused it; empty = in force


def main() -> None:
    """Read the request, sandbox this process and run the program in a child of it."""
    report, root = int(sys.argv[3]), os.geteuid() == 0
    os.umask(0o022)
    request = marshal.load(sys.stdin.buffer)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    isolation.call("prctl", isolation.PR_SET_PDEATHSIG, _SIGKILL)
    steps: Steps = {}
    readable, size = _python_folders(), request["limits"]["file_bytes"]
    if _try(steps, "namespaces", isolation.leave_the_others):
        _try(steps, "private root", lambda: isolation.enter_private_root(readable, _WRITABLE, size))
    child = os.fork()
    if child:
        os.close(report)
        _, status = os.waitpid(child, 0)
        os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))
    _restrict(request["limits"], root, readable, steps)
    missing, in_force = _missing(steps), [name for name, fault in steps.items() if not fault]
    os.write(report, f"{'missing' if missing else 'isolated'}: {'; '.join(missing or in_force)}\n".encode())
    if not missing:
        _run(request["program"], request["tests"], request["token"].encode(), report)
    os._exit(1)


def _python_folders() -> list[str]:
    """List the folders that Python reads its own library from."""
    found: list[str] = []
    for folder in (*_LIBRARIES, f"{sys.base_prefix}/lib", *sys.path):
        if os.path.isdir(folder) and not any(f"{folder}/".startswith(f"{parent}/") for parent in found):  # noqa: PTH112
            found.append(folder)
    return found


def _try(steps: Steps, name: str, step: Callable[[], None]) -> bool:
    """Take one step of isolation, note how it went, and return whether the kernel allowed it."""
    try:
        step()
    except OSError as error:
        steps[name] = error.strerror or str(error)
    else:
        steps[name] = ""
    return not steps[name]


def _restrict(limits: dict[str, int], root: bool, readable: list[str], steps: Steps) -> None:
    """Set the limits and give up everything that the program does not need, the means to do so last."""
    private = steps.get("private root") == ""
    _set_limits(limits)
    steps["limits"] = ""
    if not root:
        steps["unprivileged user"] = ""
    elif os.geteuid() == 0 and _readable_by_others(readable):
        _try(steps, "unprivileged user", _become_nobody)
    _try(steps, "no capabilities", isolation.drop_capabilities)
    isolation.call("prctl", isolation.PR_SET_PDEATHSIG, _SIGKILL)  # a change of user clears it
    os.chdir(_WRITABLE if private else "/")
    writable = [_WRITABLE] if private else []
    _try(steps, "Landlock", lambda: isolation.restrict_files(["/"] if private else readable, writable))
    _try(steps, "seccomp", isolation.restrict_calls)


def _set_limits(limits: dict[str, int]) -> None:
    """Set the hard limits of this process; a lower one that is set already stays."""
    for name, wanted in (
        ("CPU", limits["cpu_seconds"]), ("AS", limits["memory_bytes"]), ("FSIZE", limits["file_bytes"]),
        ("NOFILE", 64), ("NPROC", 0), ("CORE", 0), ("MEMLOCK", 0), ("MSGQUEUE", 0),
    ):  # fmt: skip
        kind = getattr(resource, f"RLIMIT_{name}")
        most = resource.getrlimit(kind)[1]
        value = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        resource.setrlimit(kind, (value, value))


def _readable_by_others(folders: list[str]) -> bool:
    """Return whether a user without rights can reach Python's own library (root's home may be closed to it)."""
    parents = {folder[:end] for folder in folders for end in range(1, len(folder) + 1) if folder[end : end + 1] in "/"}
    open_to_all = all(os.stat(parent).st_mode & 0o001 for parent in parents)  # noqa: PTH116
    return open_to_all and bool(os.stat(os.__file__).st_mode & 0o004)  # noqa: PTH116


def _become_nobody() -> None:
    os.setgroups([])
    os.setresgid(isolation.NOBODY, isolation.NOBODY, isolation.NOBODY)
    os.setresuid(isolation.NOBODY, isolation.NOBODY, isolation.NOBODY)


def _missing(steps: Steps) -> list[str]:
    """Name the needed isolation that this kernel or container does not give; one mechanism of each kind is enough."""
    needed = {
        "files": ("private root", "Landlock"),
        "network, processes and signals": ("seccomp",),
        "privileges": ("no capabilities",),
    }
    return [
        f"{what} ({', '.join(f'{name}: {fault}' for name, fault in steps.items() if fault)})"
        for what, names in needed.items()
        if all(steps.get(name, "not tried") for name in names)
    ]


def _run(program: str, tests: str, token: bytes, report: int) -> None:
    """Run the program, then its tests; the token is written only after both have ended."""
    execute, write, leave, text = exec, os.write, os._exit, str  # before the program can put others in their places
    sys.argv, sys.dont_write_bytecode = ["program"], True
    main_module = sys.modules["__main__"] = ModuleType("__main__")
    space = main_module.__dict__
    space["__builtins__"] = builtins
    try:
        first = compile(program, "<program>", "exec", dont_inherit=True, optimize=0)
        second = compile(tests, "<tests>", "exec", dont_inherit=True, optimize=0)
        execute(first, space)
        execute(second, space)
    except BaseException as error:  # whatever it raises is its own fault, SystemExit too
        write(report, f"{type(error).__name__}: {text(error)[:200]}".encode("utf-8", "replace"))
        leave(1)
    write(report, token)
    leave(0)
