"""What the runner finds in poorer kernels and containers, and that it refuses to run where too little is left."""

import os
import re

import pytest

from rocket_hub.sandbox import Limits
from tests.sandbox.worlds import run_in

HONEST = [
    "import math\nassert math.sqrt(4) == 2",
    "import decimal, json, zlib\nassert decimal.Decimal(1)",
    "assert False",
]
ALWAYS = {"limits", "no capabilities", "seccomp"}
NAMESPACES = {"namespaces", "private root"}
WORLDS = {  # world -> what is in force there, and what cannot be, where this machine has everything
    "as_it_is": (NAMESPACES | {"Landlock"}, set()),
    "user": (NAMESPACES | {"Landlock", "unprivileged user"}, set()),
    "user_no_mounts": ({"namespaces", "Landlock", "unprivileged user"}, {"private root"}),
    "weak_root": ({"Landlock"}, {"private root", "unprivileged user"}),
    "no_namespaces": ({"Landlock"}, NAMESPACES),
    "no_landlock": (NAMESPACES, {"Landlock"}),
}


@pytest.mark.parametrize("world", WORLDS)
def test_honest_programs_run_in_every_world(world, isolation):
    if world in ("user", "user_no_mounts", "weak_root") and os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    if not NAMESPACES | {"Landlock"} <= set(isolation):
        pytest.skip(f"this machine has only {', '.join(isolation)}")
    answer = run_in(world, HONEST, Limits(), dict(os.environ))
    assert answer["error"] == ""
    assert [outcome["passed"] for outcome in answer["outcomes"]] == [True, True, False], answer
    there, gone = WORLDS[world]
    assert set(answer["in_force"]) >= ALWAYS | there
    assert set(answer["in_force"]) & gone == set()


REFUSED = {
    "neither": r"missing: files \(namespaces: unshare: .*Landlock: syscall: Function not implemented\)",
    "no_seccomp": r"missing: network, processes and signals \(.*seccomp: prctl: Invalid argument\)",
}


@pytest.mark.parametrize("world", REFUSED)
def test_it_refuses_to_run_without_isolation(world):
    answer = run_in(world, HONEST, Limits(), dict(os.environ))
    assert answer["outcomes"] == []
    assert answer["error"].startswith("model-written code cannot be isolated here, so it is not run; missing: ")
    assert re.search(REFUSED[world], answer["error"]), answer["error"]
    assert "Run this on Linux 5.12 or newer" in answer["error"]
