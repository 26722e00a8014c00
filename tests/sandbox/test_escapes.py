"""Programs that try to get out, for real, in every kind of container that the runner accepts: none does.

Each program of `escapes.jsonl` runs to its end only if it got what it wanted. In it, `{home}` is the home with the
token, `{outside}` a folder of the host in /tmp, `{repository}` this checkout, `{port}` a server on loopback, `{unix}`
a socket in a file, `{runner}` the process that runs it.
"""

import os
import socket
import stat
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rocket_hub.sandbox import Limits
from tests.helping import table
from tests.sandbox.worlds import run_in

LIMITS = Limits(wall_seconds=2.5, cpu_seconds=1)
REPOSITORY = Path(__file__).parents[2]
PROGRAMS = table("sandbox/escapes.jsonl")
ALL = {f"{row['family']}: {row['name']}": row["program"] for row in PROGRAMS}
SLOW = ("resource: endless loop", "resource: endless sleep", "resource: deaf")  # the same in every world


@dataclass
class Host:
    """What there is to be had outside."""

    places: dict[str, Any]
    sockets: list[socket.socket]

    def file(self):
        """The text, rights and time of the file that is there."""
        path = Path(self.places["outside"]) / "kept"
        return path.read_text(), stat.S_IMODE(path.stat().st_mode), path.stat().st_mtime

    def heard(self):
        """Count what has come in from the network."""
        streams, datagrams = self.sockets[:2], self.sockets[2:]
        return sum(some(each.accept) for each in streams) + sum(some(lambda e=each: e.recv(9)) for each in datagrams)


def some(receive):
    try:
        found = receive()
    except BlockingIOError:
        return 0
    if isinstance(found, tuple):
        found[0].close()
    return 1


@contextmanager
def listening(outside, home):
    """A host with a token, a file that anybody may write, and sockets that anybody may connect to."""
    (home / "token").write_text("hf_planted")
    for path in (home, outside):
        path.chmod(0o777)  # the isolation keeps programs out, not the rights of the files
    (outside / "kept").write_text("kept")
    (outside / "kept").chmod(0o666)
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as unix,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
    ):
        udp.bind(tcp.getsockname())
        unix.bind(str(outside / "socket"))
        unix.listen()
        for each in (tcp, unix, udp):
            each.setblocking(False)
        places = {"home": str(home), "outside": str(outside), "repository": str(REPOSITORY), "runner": os.getpid(),
                  "port": tcp.getsockname()[1], "unix": str(outside / "socket")}  # fmt: skip
        yield Host(places, [tcp, unix, udp])


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    with listening(tmp_path_factory.mktemp("outside"), tmp_path_factory.mktemp("home")) as found:
        yield found


TRIED = [
    (world, name) for world in ("as_it_is", "no_namespaces") for name in ALL if world == "as_it_is" or name not in SLOW
]


@pytest.fixture(scope="module")
def ends(host):
    """(World, name of the program) -> how it ended there."""
    environment = {**os.environ, "HF_HOME": host.places["home"], "HOME": host.places["home"], "HF_TOKEN": "hf_planted"}
    found = {}
    for world in dict(TRIED):
        names = [name for at, name in TRIED if at == world]
        answer = run_in(world, [ALL[name].format(**host.places) for name in names], LIMITS, environment)
        found |= {(world, name): end for name, end in zip(names, answer["outcomes"], strict=True)}
    return found


@pytest.mark.parametrize(("world", "name"), TRIED)
def test_no_program_gets_out(world, name, ends):
    end = ends[world, name]
    assert not end["passed"], name
    assert end["seconds"] < LIMITS.wall_seconds + 5, end


def test_nothing_outside_has_changed(host, ends):
    assert len(ends) == len(TRIED)
    time.sleep(1.2)  # a survivor would have written by now
    assert sorted(path.name for path in Path(host.places["outside"]).iterdir()) == ["kept", "socket"]
    assert host.file()[:2] == ("kept", 0o666)
    assert time.time() - host.file()[2] < 600  # `utime` would have made it 1970
    assert [path.name for path in Path(host.places["home"]).iterdir()] == ["token"]
    assert not (REPOSITORY / "new-by-program").exists()
    assert host.heard() == 0


NEED_MORE = {"url", "Python's own library", "file in the repository", "way up"}  # a server, root, or this checkout
PLANTED = ("token file", "token in the environment", "environment of this process")
WOULD = {
    row["name"]: row["program"]
    for row in PROGRAMS
    if (row["family"] in ("network", "write") and row["name"] not in NEED_MORE) or row["name"] in PLANTED
}


@pytest.mark.parametrize("name", WOULD)
def test_without_isolation_they_do(name, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "home").mkdir()
    with listening(tmp_path / "outside", tmp_path / "home") as host:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", WOULD[name].format(**host.places)],
            env={"HF_TOKEN": "hf_planted"}, cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert host.heard() == (name in ("tcp", "udp", "unix socket"))
