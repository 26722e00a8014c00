"""Whatever happens to the child process that parses a file, the parent says why, and soon."""

import io
import os
import signal
import time

import pytest

from rocket_hub.errors import DatasetError, HubError
from rocket_hub.rows import files
from rocket_hub.rows.files import Parser, rows_of
from rocket_hub.rows.values import Reading

LINES = b'{"question": "q", "answer": "a"}\n' * 200_000


def read(data=LINES, path="a.jsonl", reading=None):
    return list(rows_of(io.BytesIO(data), path, reading or Reading(1 << 40), path))


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("import os; os.abort()", r"parsing it ends the parser \(SIGABRT\)"),
        ("import os; os._exit(3)", r"parsing it ends the parser \(exit status 3\)"),
        ("x = []\nwhile True: x.append(bytearray(2**24))", r"parsing it ends the parser \(exit status 1\)"),
        ("while True: pass", "parsing it takes more than 1 seconds$"),
        ("import time; time.sleep(99)", "parsing it takes more than 3 seconds without a row"),
        ("send(b'x', b'')", "something else than rows"),
        ("send(b'r', b'[' * 10**6)", "cannot be read"),
        ("send(b'r', b'{\"counts\": {}, \"rows\": []}')", "cannot be read"),
        ("send(b'r', b'{\"counts\": {}, \"rows\": [1]}')", "cannot be read"),
        ("send(b'e', b'{')", "cannot be read"),
        ("out.write(HEAD.pack(b'r', 2**32 - 1))", "more than a row may hold"),
        ("send(b'b', PLACE.pack(0, 2**31))", "2,147,483,648 bytes wanted at once, more than the 67,108,864"),
        ("send(b'b', b'?')", "cannot be read"),
        ("while True: send(b'b', PLACE.pack(0, 2**20))", "parsing it takes more than 3 seconds without a row"),
    ],
)
def test_a_child_that_is_taken_over_or_broken(code, fault, monkeypatch):
    start = (
        "import sys; from rocket_hub.rows.files import HEAD, PLACE, _limit; out = sys.stdout.buffer\n"
        "def send(kind, body): out.write(HEAD.pack(kind, len(body)) + body); out.flush()\n"
        "_limit(int(sys.argv[1]), int(sys.argv[2]))\n"
    )
    path = "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1))\n"
    monkeypatch.setattr(files, "_START", f"{path}{start}{code}\nout.flush()\nsys.stdin.buffer.read()")
    monkeypatch.setattr(files, "SILENCE", 3.0 if "without a row" in fault else 60.0)
    monkeypatch.setattr(files, "PROCESSOR_SECONDS", 1 if "pass" in code else 60)
    monkeypatch.setattr(files, "MEMORY", 2**29)
    started = time.monotonic()
    with pytest.raises(DatasetError, match=fault) as caught:
        read()
    assert caught.value.reason == "unreadable" and str(caught.value).startswith("a.jsonl: ")
    assert time.monotonic() - started < 60


def test_a_child_that_is_killed_in_the_middle_ends_one_file_only():
    with Parser() as parser:
        rows = parser.rows(io.BytesIO(LINES), "a.jsonl", Reading(1 << 40), "a.jsonl")
        assert next(rows) == {"question": "q", "answer": "a"}
        os.kill(parser._process.pid, signal.SIGKILL)
        with pytest.raises(DatasetError, match=r"a\.jsonl: parsing it ends the parser \(SIGKILL\)"):
            list(rows)
        assert list(parser.rows(io.BytesIO(LINES[:99]), "b.jsonl", Reading(1 << 40), "b.jsonl"))


def test_rows_come_as_they_are_read_and_reading_ends_early():
    class Counted(io.BytesIO):
        taken = 0

        def read(self, size=-1):
            self.taken += size
            return super().read(size)

    file = Counted(LINES)
    with Parser() as parser:
        rows = parser.rows(file, "a.jsonl", Reading(1 << 40), "a.jsonl")
        next(rows)
        assert file.taken <= 2**17
        process = parser._process
        rows.close()
        assert process.poll() == -signal.SIGKILL
        assert len(list(parser.rows(io.BytesIO(LINES), "a.jsonl", Reading(1000), "a.jsonl"))) == 30


def test_one_child_reads_all_files_of_a_data_set_and_a_broken_one_does_not_end_it():
    reading = Reading(1 << 40)
    with Parser() as parser:
        list(parser.rows(io.BytesIO(LINES[:66]), "a.jsonl", reading, "a.jsonl"))
        first = parser._process.pid
        with pytest.raises(DatasetError, match=r"b\.jsonl: line 1: "):
            list(parser.rows(io.BytesIO(b"{"), "b.jsonl", reading, "b.jsonl"))
        list(parser.rows(io.BytesIO(b"question\nq\n"), "c.csv", reading, "c.csv"))
        assert parser._process.pid == first
    assert reading.bytes == 66 + 1 + 11


def test_what_the_hub_did_not_give_is_the_hubs_fault():
    class Failing(io.BytesIO):
        def read(self, size=-1):
            raise HubError("a/b: c.jsonl: the Hub does not answer")

    with pytest.raises(HubError, match="the Hub does not answer"):
        list(rows_of(Failing(LINES), "a.jsonl", Reading(1 << 40), "a.jsonl"))


def test_a_row_that_is_longer_as_it_is_sent():
    numbers = b'{"n": [' + b"1e9," * 10**5 + b"1]}\n"
    assert [len(str(row)) > 10**6 for row in read(numbers + b'{"n": 1}\n')] == [True, False]
