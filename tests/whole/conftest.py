"""Whole builds in processes of their own, against a tiny Hub that the demo's own script made.

One finished build is shared; a test that changes something works on a copy of it, with a cache of its own.
"""

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi

from rocket_hub.localhub import LocalHub
from tests.helping import ROOT
from tests.helping import environment as clean

COMMAND = str(Path(sys.executable).with_name("rocket-hub"))
STAGES = ("1-discover", "2-select-experts", "3-select-instructions", "4-merge", "5-train", "6-evaluate", "7-push")
LIMITED = """
import resource, sys
size = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
from rocket_hub.cli import main
main()
"""


def environment(home: Path, **variables: str) -> dict[str, str]:
    """Nothing of this machine's Hub settings, a cache of its own, a terminal wide enough for one line a line."""
    return clean(HF_HOME=str(home), OMP_NUM_THREADS="1", COLUMNS="240") | variables


@dataclass(frozen=True)
class Done:
    """A command that ended."""

    code: int
    out: str
    error: str

    @property
    def last(self) -> str:
        """The last line of what went wrong."""
        return (self.error.strip().splitlines() or [""])[-1]

    def note(self, stage: str) -> str | None:
        """What was said about a stage; none = it was not reached."""
        found = re.search(rf"^{stage}(?: +(.*))?$", self.out, re.MULTILINE)
        return None if found is None else (found[1] or "").strip()


@dataclass(frozen=True)
class Workplace:
    """A Hub, a K-shot file, a cache and a folder to run in; the run folder is `run` in it."""

    hub: Path
    kshot: Path
    home: Path
    folder: Path

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def store(self) -> Path:
        """The store that pushes go to."""
        (store,) = self.home.glob("rocket_hub/hubs/*/store")
        return store

    def arguments(self, *more: str) -> list[str]:
        return ["--hub", str(self.hub), "--task", "gsm8k", "--kshot", str(self.kshot), "--out", "run", *more]

    def start(self, command: str, *more: str) -> "subprocess.Popen[str]":
        return begin([COMMAND, *command.split(), *self.arguments(*more)], self.folder, self.home)

    def call(self, command: str, *more: str, code: int = 0, file_size: int | None = None) -> Done:
        """Run a command with the workplace's options; `file_size` is the longest file the process may write."""
        start = [COMMAND] if file_size is None else [sys.executable, "-c", LIMITED, str(file_size)]
        return finish(start + command.split() + self.arguments(*more), self.folder, self.home, code)

    def result(self, stage: str) -> Any:
        """What a stage left."""
        return json.loads((self.run / stage / "result.json").read_text())["result"]


def begin(command: list[str], folder: Path, home: Path) -> "subprocess.Popen[str]":
    """Start a command without waiting for it, in a process group of its own as a shell would."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=folder, env=environment(home), text=True, start_new_session=True, **pipes)


def finish(command: list[str], folder: Path, home: Path, code: int = 0, **variables: str) -> Done:
    """Run a command to its end, which has to have this exit code."""
    env = environment(home, **variables)
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == code, done.stderr[-3000:]
    return Done(done.returncode, done.stdout, done.stderr)


def stop_when(process: "subprocess.Popen[str]", seen: Any, number: signal.Signals) -> Done:
    """Send a signal as soon as something can be seen, and wait for the end."""
    deadline = time.monotonic() + 200
    while not seen() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    if process.poll() is None:
        process.send_signal(number)
    out, error = process.communicate(timeout=500)
    return Done(process.returncode, out, error)


def copy_of(place: Workplace, folder: Path) -> Workplace:
    """Copy a workplace; the Hub and the K-shot, which nobody writes to, are shared."""
    shutil.copytree(place.home, folder / "home", symlinks=True, ignore=shutil.ignore_patterns("server.json"))
    shutil.copytree(place.folder, folder / "work")
    return Workplace(place.hub, place.kshot, folder / "home", folder / "work")


@contextmanager
def serving(folder: Path, home: Path) -> Iterator[dict[str, str]]:
    """Run `rocket-hub hub serve` and yield the variables of the line that it prints for other shells."""
    command = [COMMAND, "hub", "serve", str(folder), "--port", "0"]
    process = subprocess.Popen(command, env=environment(home), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline().startswith(f"serving {folder} at http://127.0.0.1:")
        word, *variables = shlex.split(process.stdout.readline())
        assert word == "export"
        yield dict(variable.split("=", 1) for variable in variables)
    finally:
        process.send_signal(signal.SIGINT)
        process.stdout.close()
        code = process.wait(20)
    assert code == 130


def python(script: str, folder: Path, variables: dict[str, str]) -> Done:
    """Run a program in a fresh process that knows of a Hub what `variables` say."""
    return finish([sys.executable, "-W", "ignore", "-c", script], folder, folder / "unused", **variables)


@dataclass(frozen=True)
class Demo:
    """What the demo's script made."""

    hub: Path
    kshot: Path
    work: Path


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The demo Hub, tiny."""
    folder = tmp_path_factory.mktemp("demo")
    script = [sys.executable, str(ROOT / "recipes" / "demo" / "make_hub.py"), "--tiny", "--workers", "1"]
    finish([*script, "--out", str(folder / "hub"), "--work", str(folder / "work")], folder, folder / "home")
    return Demo(folder / "hub", folder / "work" / "kshot.jsonl", folder / "work")


@pytest.fixture(scope="session")
def built(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workplace, Done]:
    """A finished build with all controls, and what it said."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "work").mkdir()
    place = Workplace(demo.hub, demo.kshot, folder / "home", folder / "work")
    return place, place.call("build", "--controls", "core", "--max-steps", "4")


@pytest.fixture
def place(built: tuple[Workplace, Done], tmp_path: Path) -> Workplace:
    """A copy of the finished build."""
    return copy_of(built[0], tmp_path)


@pytest.fixture
def after_selection(place: Workplace) -> Workplace:
    """A copy of the finished build of which stages 1 to 3 are left."""
    for stage in STAGES[3:]:
        shutil.rmtree(place.run / stage)
    return place


@pytest.fixture(scope="session")
def hub_of_the_build(built: tuple[Workplace, Done], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalHub]:
    """The Hub that the build pushed to, served in this process from a copy."""
    store = tmp_path_factory.mktemp("pushed") / "store"
    shutil.copytree(built[0].store, store, ignore=shutil.ignore_patterns("server.json"))
    with LocalHub(store) as hub:
        yield hub


@pytest.fixture(scope="session")
def api(hub_of_the_build: LocalHub) -> HfApi:
    return HfApi(endpoint=hub_of_the_build.url, token="hf_local")


@pytest.fixture(scope="session")
def served(built: tuple[Workplace, Done], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What a shell exports to use the Hub that the build pushed to, served by a process of its own."""
    place = copy_of(built[0], tmp_path_factory.mktemp("served"))
    with serving(place.hub, place.home) as variables:
        yield variables
