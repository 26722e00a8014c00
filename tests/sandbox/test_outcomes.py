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
from rocket_hub.sandbox import Limits, Outcome, run_program, run_programs

ADD = "def add(a, b):\n    return a + b\n"
TESTS = "assert add(1, 2) == 3\nassert add(0, 0) == 0"

PASSING = {
    "plain": ADD,
    "after output": ADD + "print('hello')",
    "with a class": "class A:\n    x: int = 1\ndef add(a, b): return a + b",
    "with a data class": "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\n" + ADD,
    "with the future": "from __future__ import annotations\ndef add(a: no_such, b): return a + b",
    "with libraries": "import collections, decimal, functools, heapq, itertools, math, re, sqlite3, typing\n" + ADD,
    "as the main module": "if __name__ == '__main__':\n    def add(a, b): return a + b",
    "with a file of its own": "open('mine', 'w').write('3')\ndef add(a, b): return a + b",
    "with caught errors": "try:\n    import no_such\nexcept ImportError:\n    pass\n" + ADD,
    "with Windows' ends of lines": ADD.replace("\n", "\r\n"),
}


@pytest.mark.parametrize("program", PASSING.values(), ids=PASSING)
def test_right_programs_pass(program: str) -> None:
    outcome = run_program(program, TESTS)
    assert (outcome.passed, outcome.reason) == (True, "passed")
    assert 0 < outcome.seconds < Limits().wall_seconds


FAILING = {
    "wrong": ("def add(a, b): return a - b", r"^AssertionError: "),
    "missing": ("def sub(a, b): return a - b", r"^NameError: name 'add' is not defined"),
    "no Python": ("Here is the code:", r"^SyntaxError: .*<program>, line 1"),
    "nothing": ("", r"^NameError"),
    "raises": (ADD + "raise ValueError('why')", r"^ValueError: why$"),
    "leaves politely": (ADD + "import sys; sys.exit(0)", r"^SystemExit: 0$"),
    "leaves by raising": (ADD + "raise SystemExit", r"^SystemExit"),
    "leaves at once": (ADD + "import os; os._exit(0)", r"^ended with exit code 0 before its tests did$"),
    "leaves in a test": ("import os\ndef add(a, b): os._exit(0)", r"^ended with exit code 0 before its tests did$"),
    "leaves by a signal": ("import os, signal\nsignal.raise_signal(9)", r"PermissionError"),
    "interrupts": (ADD + "raise KeyboardInterrupt", r"^KeyboardInterrupt"),
    "asks": ("def add(a, b): return int(input())", r"^EOFError"),
    "says that it passed": ("import os\nfor fd in range(1, 9):\n    try: os.write(fd, b'passed')\n"
                            "    except OSError: pass\nos._exit(0)", r"^passed$|^ended with"),
    "replaces exec": ("import builtins\nbuiltins.exec = builtins.compile = lambda *a, **k: None", r"^NameError"),
    "replaces the end": ("import os\nos._exit = os.write = lambda *a: None", r"^NameError"),
    "swallows the tests": (ADD + "x = '''", r"^SyntaxError"),
    "a block without end": (ADD + "if False:", r"^(IndentationError|SyntaxError)"),
    "closes everything": ("import os; os.closerange(0, 64)\ndef add(a, b): return 0", r"^ended with exit code"),
    "an error that lies": ("class E(Exception):\n    def __str__(self): raise E\nraise E", r"^ended with exit code 1"),
    "an error with colours": ("raise ValueError('\\x1b[2J\\x07')", r"^ValueError:  +\[2J $"),
    "too deep to compile": ("x = " + "(" * 500 + ")" * 500, r"^SyntaxError: too many nested parentheses"),
    "surrogates": ("x = '\udc80'", r"^UnicodeEncodeError"),
    "a null": ("x = 1\0", r"^(ValueError|SyntaxError): source code (string )?cannot contain null bytes"),
}  # fmt: skip


@pytest.fixture(scope="module")
def failures() -> dict[str, Outcome]:
    outcomes = run_programs([(program, TESTS) for program, _ in FAILING.values()], workers=2)
    return dict(zip(FAILING, outcomes, strict=True))


@pytest.mark.parametrize("name", FAILING)
def test_wrong_programs_do_not(name: str, failures: dict[str, Outcome]) -> None:
    assert not failures[name].passed
    assert re.search(FAILING[name][1], failures[name].reason), failures[name].reason


def test_limits_are_kept_and_named() -> None:
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


def test_each_program_starts_from_nothing() -> None:
    leave = "open('left', 'w').write('x')\nimport builtins; builtins.left = 1"
    look = (
        "import os; assert os.listdir('.') == []\ntry:\n    left\nexcept NameError:\n    pass\nelse:\n    assert False"
    )
    assert [outcome.reason for outcome in run_programs([(leave, ""), (look, "")], workers=1)] == ["passed", "passed"]


def test_no_process_is_left() -> None:
    before = children()
    outcomes = run_programs([("import time; time.sleep(60)", "")] * 3, limits=Limits(wall_seconds=0.5), workers=3)
    assert not any(outcome.passed for outcome in outcomes)
    assert children() == before


def test_programs_end_with_their_runner(tmp_path: Path) -> None:
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


def children() -> set[int]:
    return descendants(os.getpid())


def descendants(pid: int) -> set[int]:
    """List all processes below one (/proc keeps them by thread)."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        direct = {int(child) for child in task.read_text().split()}
        found |= direct | {below for child in direct for below in descendants(child)}
    return found


@settings(max_examples=25, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_run_or_refused(text: str) -> None:
    outcome = run_program(text, "assert False, 'the end'", limits=Limits(cpu_seconds=1))
    assert not outcome.passed
    assert outcome.reason.isprintable()


def test_a_broken_interpreter_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(SandboxError, match=r"the process for model-written code did not start \(exit code 1\)"):
        run_program("1")


def test_other_systems_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(InputError, match="cannot be isolated on darwin; run this on Linux"):
        run_program("1")


def test_limits_are_plain_data() -> None:
    assert asdict(Limits())["cpu_seconds"] == 10
