"""What counts as passed, and what a failure is called."""

import os
import re
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocket_hub.errors import InputError, SandboxError
from rocket_hub.sandbox import Limits, run_program, run_programs
from tests.helping import table

TESTS = "assert add(1, 2) == 3\nassert add(0, 0) == 0"

ROWS = table("sandbox/outcomes.jsonl")


@pytest.fixture(scope="module")
def outcomes():
    found = run_programs([(row["program"], TESTS) for row in ROWS], workers=2)
    return dict(zip([row["name"] for row in ROWS], found, strict=True))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
def test_right_programs_pass_and_wrong_ones_do_not(row, outcomes):
    outcome = outcomes[row["name"]]
    assert re.search(row["reason"], outcome.reason), outcome.reason
    assert outcome.passed == (row["reason"] == "^passed$")
    assert 0 < outcome.seconds < Limits().wall_seconds


def test_limits_are_kept_and_named():
    small = Limits(wall_seconds=3.0, memory_bytes=100 * 2**20, file_bytes=1000, output_bytes=100)
    programs = {
        "import time; time.sleep(60)": "more than 3 seconds",
        "x = bytearray(100 * 2**20)": "MemoryError: ",
        "f = open('f', 'wb', buffering=0)\nwhile f.write(bytes(999)): pass": "OSError: [Errno 27] File too large",
        "print('x' * 200, flush=True)": "more than 100 bytes of output",
    }
    outcomes = run_programs([(program, "") for program in programs], limits=small, workers=2)
    assert [outcome.reason for outcome in outcomes] == list(programs.values())
    assert max(outcome.seconds for outcome in outcomes) < 8
    enough = Limits(output_bytes=300)
    assert run_program("print('x' * 200, flush=True)", limits=enough).passed


def test_each_program_starts_from_nothing():
    leave = "open('left', 'w').write('x')\nimport builtins; builtins.left = 1"
    look = (
        "import os; assert os.listdir('.') == []\ntry:\n    left\nexcept NameError:\n    pass\nelse:\n    assert False"
    )
    assert [outcome.reason for outcome in run_programs([(leave, ""), (look, "")], workers=1)] == ["passed", "passed"]


def test_no_process_is_left():
    before = children()
    outcomes = run_programs([("import time; time.sleep(60)", "")] * 3, limits=Limits(wall_seconds=0.5), workers=3)
    assert not any(outcome.passed for outcome in outcomes)
    assert children() == before


def test_programs_end_with_their_runner(tmp_path):
    script = "from rocket_hub.sandbox import run_program; run_program('import time; time.sleep(60)  # orphaned')"
    runner = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 20
    while not (started := descendants(runner.pid)) or len(started) < 2:
        assert time.monotonic() < deadline and runner.poll() is None
        time.sleep(0.05)
    runner.kill()
    runner.wait()
    while any(Path(f"/proc/{pid}").exists() for pid in started):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def children():
    return descendants(os.getpid())


def descendants(pid):
    """List all processes below one (/proc keeps them by thread)."""
    found = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        direct = {int(child) for child in task.read_text().split()}
        found |= direct | {below for child in direct for below in descendants(child)}
    return found


@settings(max_examples=25, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_run_or_refused(text):
    outcome = run_program(text, "assert False, 'the end'", limits=Limits(cpu_seconds=1))
    assert not outcome.passed
    assert outcome.reason.isprintable()


def test_a_broken_interpreter_is_told(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(SandboxError, match=r"the process for model-written code did not start \(exit code 1\)"):
        run_program("1")


def test_other_systems_are_refused(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(InputError, match="cannot be isolated on darwin; run this on Linux"):
        run_program("1")


def test_limits_are_plain_data():
    assert asdict(Limits())["cpu_seconds"] == 10
