"""Kernels and containers that allow less than this machine: the same runner below a filter that refuses calls.

`python -m tests.sandbox.worlds WORLD` reads programs from its standard input and writes how they ended.
"""

import ctypes
import json
import os
import struct
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rocket_hub.errors import SandboxError
from rocket_hub.sandbox import Limits, check_isolation, run_programs
from rocket_hub.sandbox.isolation import PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, call, drop_capabilities

_NUMBERS = {
    "x86_64": {"unshare": 272, "mount": 165, "prctl": 157},
    "aarch64": {"unshare": 97, "mount": 40, "prctl": 167},
}
_LANDLOCK = 444
_EPERM, _ENOSYS, _EINVAL = 1, 38, 22


def enter(world: str) -> None:
    """Take from this process, and all that it starts, what the world does not have."""
    number = _NUMBERS[os.uname().machine]
    if world == "weak_root":
        drop_capabilities()
    if world in ("user", "user_no_mounts"):
        become_a_user(12345)
    if world in ("no_namespaces", "neither"):  # as Docker's own filter does
        refuse(number["unshare"], _EPERM)
    if world == "user_no_mounts":  # as AppArmor does to user namespaces on Ubuntu
        refuse(number["mount"], _EPERM)
    if world in ("no_landlock", "neither"):
        refuse(_LANDLOCK, _ENOSYS)
    if world == "no_seccomp":
        refuse(number["prctl"], _EINVAL, first_argument=PR_SET_SECCOMP)


def become_a_user(number: int) -> None:
    """Become somebody without rights, who can read the interpreter even where root keeps it in its own home."""
    prefix, home = Path(sys.base_prefix), "/" + sys.base_prefix.split("/")[1]
    call("unshare", 0x20000)
    call("mount", None, b"/", None, 0x44000, None)  # what is mounted here stays here
    with tempfile.TemporaryDirectory() as kept:
        call("mount", os.fsencode(prefix), kept.encode(), None, 0x5000, None)
        if home == "/root":
            call("mount", b"tmpfs", home.encode(), b"tmpfs", 0, b"mode=755")
            prefix.mkdir(parents=True)
            call("mount", kept.encode(), os.fsencode(prefix), None, 0x5000, None)
        call("umount2", kept.encode(), 2)
    os.setgroups([])
    os.setresgid(number, number, number)
    os.setresuid(number, number, number)


def refuse(number: int, error: int, first_argument: int | None = None) -> None:
    """Let one system call fail from now on."""
    steps = [(0x20, 0, 0, 0), (0x15, 0, 1 if first_argument is None else 3, number)]
    if first_argument is not None:
        steps += [(0x20, 0, 0, 16), (0x15, 0, 1, first_argument)]
    steps += [(0x06, 0, 0, 0x00050000 | error), (0x06, 0, 0, 0x7FFF0000)]
    code = b"".join(struct.pack("HBBI", *step) for step in steps)
    buffer = ctypes.create_string_buffer(code, len(code))
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    call("prctl", PR_SET_SECCOMP, 2, struct.pack("HP", len(steps), ctypes.addressof(buffer)), 0, 0)


def run_in(world: str, programs: list[str], limits: Limits, environment: dict[str, str]) -> dict[str, Any]:
    """Run programs in a world: their outcomes, the mechanisms in force, or the error."""
    request = json.dumps({"programs": programs, "limits": asdict(limits)})
    done = subprocess.run(
        [sys.executable, "-m", "tests.sandbox.worlds", world],
        input=request, capture_output=True, text=True, cwd=Path(__file__).parents[2], env=environment, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def main() -> None:
    enter(sys.argv[1])
    request = json.load(sys.stdin)
    try:
        in_force = check_isolation()
        pairs = [(program, "") for program in request["programs"]]
        outcomes = run_programs(pairs, limits=Limits(**request["limits"]), workers=2)
        answer = {"in_force": in_force, "outcomes": [asdict(outcome) for outcome in outcomes], "error": ""}
    except SandboxError as error:
        answer = {"in_force": [], "outcomes": [], "error": str(error)}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
