import marshal
import os
import secrets
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from rocket_hub.errors import SandboxError

_HERE = Path(__file__).parent
# The packages' own __init__ files do not run: a program finds little of ours, and starts in a tenth of the time.
_START = """
import sys, types
for name, folder in zip(("rocket_hub", "rocket_hub.sandbox"), sys.argv[1:]):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [folder]
from rocket_hub.sandbox.inside import main
main()
"""
_MAX_REPORT = 8192


@dataclass(frozen=True)
class Limits:
    """What one program may use; it is always one process with one thread."""

    wall_seconds: float = 20.0  # from start to end
    cpu_seconds: int = 10  # of computing
    memory_bytes: int = 512 * 2**20  # of address space; Python itself takes about 30 MB of it
    file_bytes: int = 16 * 2**20  # of all the files it makes; they are kept in memory
    output_bytes: int = 64 * 2**10  # of what it prints


@dataclass(frozen=True)
class Outcome:
    """How one program ended."""

    passed: bool  # whether it and its tests ran to their end without an error
    reason: str  # `passed`, the error, or the limit that was hit
    seconds: float  # wall-clock seconds


def run_program(program: str, tests: str = "", *, limits: Limits | None = None) -> Outcome:
    """Run an untrusted program, and then its tests in the same namespace, in a sandboxed process.

    The process has no network, no other processes, no threads, no environment, and no files but Python's own library
    (to read) and, where the kernel allows a root of its own, an empty folder in memory. It counts as passed only if a
    token that is new in every run comes back after the tests: a program that ends early has not passed. What cannot be
    excluded in one process: a program written to deceive this very runner can read the token in its own memory, or
    return objects that are equal to everything, and so claim one right answer. It can do nothing else with that.

    Args:
        program: Python source.
        tests: Python source that raises where the program is wrong, for example assert statements.
        limits: What it may use; whatever a program does, it costs no more.

    Returns:
        Whether it passed, and why not.
    """
    return _run(program, tests, limits or Limits())[0]


def run_programs(
    programs: Sequence[tuple[str, str]], *, limits: Limits | None = None, workers: int | None = None
) -> list[Outcome]:
    """Run (program, tests) pairs, each in a process of its own; see `run_program`.

    Args:
        programs: The pairs.
        limits: What each may use.
        workers: How many run at once; None = one a processor, at most 8.
    """
    pool = ThreadPoolExecutor(workers or min(os.cpu_count() or 1, 8))
    try:
        return list(pool.map(lambda pair: run_program(*pair, limits=limits), programs))
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C, or where nothing can be isolated, the rest is not tried


def check_isolation() -> tuple[str, ...]:
    """Name the mechanisms that isolate a program on this machine.

    Raises:
        SandboxError: What is needed is not there; the message names it.
    """
    return _run("", "", Limits())[1]


def _run(program: str, tests: str, limits: Limits) -> tuple[Outcome, tuple[str, ...]]:
    """Run one program; return its outcome and the mechanisms in force."""
    if sys.platform != "linux":
        raise SandboxError(f"model-written code cannot be isolated on {sys.platform}; run this on Linux")
    started, token = time.monotonic(), secrets.token_hex(32)
    request = {"program": program, "tests": tests, "token": token, "limits": asdict(limits)}
    receive, send = os.pipe()
    command = [sys.executable, "-I", "-S", "-c", _START, str(_HERE.parent), str(_HERE), str(send)]
    with open(receive, "rb", buffering=0) as report:  # noqa: PTH123
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={}, cwd="/",
                pass_fds=(send,), start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(send)
        try:
            fault, output, said = _watch(process, marshal.dumps(request), report.fileno(), limits)
        finally:
            _end(process)
    header, _, rest = said.partition(b"\n")
    in_force = _isolation(header, output, process.returncode)
    passed = rest == token.encode() and not fault
    reason = "passed" if passed else fault or _reason(rest, token, process.returncode)
    return Outcome(passed, reason, time.monotonic() - started), in_force


def _watch(process: subprocess.Popen[bytes], request: bytes, report: int, limits: Limits) -> tuple[str, bytes, bytes]:
    """Hand over the request and read until the end or a limit: (limit that was hit, output, report)."""
    if process.stdin is None or process.stdout is None:
        raise SandboxError("the isolated process has no pipes")
    deadline = time.monotonic() + limits.wall_seconds
    with suppress(BrokenPipeError), process.stdin as pipe:
        pipe.write(request)
    output = process.stdout.fileno()
    most, got = {output: limits.output_bytes, report: _MAX_REPORT}, {output: b"", report: b""}
    with selectors.DefaultSelector() as ready:
        for descriptor in got:
            ready.register(descriptor, selectors.EVENT_READ)
        while ready.get_map():
            events = ready.select(max(deadline - time.monotonic(), 0))
            if not events:
                return f"more than {limits.wall_seconds:g} seconds", got[output], got[report]
            for key, _ in events:
                data = os.read(key.fd, 65536)
                got[key.fd] += data
                if not data:
                    ready.unregister(key.fd)
                if len(got[key.fd]) > most[key.fd]:
                    return f"more than {most[key.fd]:,} bytes of output", got[output], got[report]
    return "", got[output], got[report]


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process with all that it started (it is the leader of their group), and wait for it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _isolation(header: bytes, output: bytes, code: int) -> tuple[str, ...]:
    """Read which mechanisms were in force before the program was started."""
    verdict, _, names = header.decode("utf-8", "replace").partition(": ")
    if verdict == "missing":
        raise SandboxError(
            f"model-written code cannot be isolated here, so it is not run; missing: {names}. "
            "Run this on Linux 5.12 or newer, in a container that allows user namespaces or Landlock"
        )
    if verdict != "isolated":
        said = _printable(output[-300:])
        raise SandboxError(f"the process for model-written code did not start (exit code {code}): {said}")
    return tuple(names.split("; "))


def _reason(rest: bytes, token: str, code: int) -> str:
    if rest and token.encode() not in rest:
        return _printable(rest)
    if code > 128:
        return f"killed by signal {code - 128}: a limit was hit, or it crashed"
    return f"ended with exit code {code} before its tests did"


def _printable(text: bytes) -> str:
    """Make what a program said safe to print."""
    return "".join(c if c.isprintable() else " " for c in text.decode("utf-8", "replace"))[:200]
