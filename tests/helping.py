"""What tests of several rooms do: read a table of examples, run a process, listen to a build, fill a Hub."""

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rocket_hub.errors import AdapterError
from rocket_hub.runs import Silent

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from rocket_hub.localhub import Fault, LocalHub

ROOT = Path(__file__).parents[1]
Files = Mapping[str, bytes | str]


def table(name: str) -> list[Any]:
    """Read a table of examples, one a line, by its path below `tests/`."""
    return [json.loads(line) for line in (ROOT / "tests" / name).read_text(encoding="utf-8").splitlines()]


def fault(match: str, kind: str, **told: Any) -> "Fault":
    """Make a fault of what a table says: a body is text there."""
    from rocket_hub.localhub import Fault

    return Fault(match, kind, **{key: each.encode() if key == "body" else each for key, each in told.items()})


def lines(rows: Iterable[Any]) -> str:
    """Write rows as JSON Lines."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def reason_of(function: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """Return the reason of the `AdapterError` that a call raises, which has to say something."""
    with pytest.raises(AdapterError) as caught:
        function(*args, **kwargs)
    assert str(caught.value)
    return caught.value.reason


def environment(**variables: str) -> dict[str, str]:
    """Nothing of this machine's Hub settings nor of pytest's, and some variables."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "ROCKET_HUB_", "PYTEST"))}
    return kept | variables


def run(*arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run a fresh interpreter to its good end, and return what it printed."""
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


SEVERAL = """
import contextlib, io, json, sys
from rocket_hub.cli import main
answers = []
for arguments in json.loads(sys.argv[1]):
    out, error, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            main(arguments)
        except SystemExit as end:
            code = end.code or 0
    answers.append([code, out.getvalue(), error.getvalue()])
print(json.dumps(answers))
"""


def several(commands: Iterable[list[str]], cwd: Path, env: Mapping[str, str]) -> list[tuple[int, str, str]]:
    """Run command lines of ours in one process, each costs seconds of imports otherwise: exit codes, output, errors."""
    return [tuple(each) for each in json.loads(run("-c", SEVERAL, json.dumps([*commands]), cwd=cwd, env=env))]


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Let no file of this process grow longer, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class Heard(Silent):
    """A reporter that keeps the stages, and all that it was told, what advances once."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, str]] = []
        self.heard: list[str] = []

    def stage(self, name: str, note: str) -> None:
        self.stages.append((name, note))
        self.heard.append(f"{name} {note}".strip())

    def advance(self, what: str, done: int, total: int) -> None:
        if what not in self.heard:
            self.heard.append(what)

    def say(self, text: str) -> None:
        self.heard.append(text)


def put(hub: "LocalHub", kind: str, repo_id: str, files: Files, card: str = "", text: str = "", **settings: Any) -> str:
    """Put files, and the data of a card with some text below, into a repository of a Hub; returns the commit."""
    files = {**files, "README.md": f"---\n{card}---\n{text}\n"} if card else files
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path, data in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data if isinstance(data, bytes) else data.encode())
        return hub.import_folder(kind, repo_id, folder, **settings)


def push_adapter(api: "HfApi", repo_id: str, folder: Path) -> str:
    """Publish an adapter; returns the commit."""
    api.create_repo(repo_id, exist_ok=True)
    return api.upload_folder(repo_id=repo_id, folder_path=folder, allow_patterns=["adapter_*"]).oid


def push_rows(api: "HfApi", repo_id: str, rows: Iterable[Any]) -> str:
    """Publish a data set of one file; returns the commit."""
    api.create_repo(repo_id, repo_type="dataset", exist_ok=True)
    data = lines(rows).encode()
    return api.upload_file(path_or_fileobj=data, path_in_repo="train.jsonl", repo_id=repo_id, repo_type="dataset").oid
