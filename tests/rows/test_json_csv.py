"""JSON Lines, JSON and CSV of any size and any content."""

import csv
import gzip
import io
import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocket_hub.errors import DatasetError
from rocket_hub.rows.files import Parser
from rocket_hub.rows.json_csv import MAX_OBJECT, json_lines
from rocket_hub.rows.values import MAX_ROW, Reading

ROWS = [{"question": f"wie groß? {n}", "answer": str(n)} for n in range(3000)]


PARSER = Parser()


@pytest.fixture(scope="module", autouse=True)
def parser():
    """One child process for the files of this module."""
    with PARSER:
        yield


def read(data, path, max_bytes=1 << 40, reading=None):
    """Read as discovery does: whatever goes wrong is a DatasetError."""
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    return list(PARSER.rows(file, path, reading or Reading(max_bytes), path))


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def table(rows, delimiter=","):
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\r\n")
    writer.writerows([["question", "answer"], *([row["question"], row["answer"]] for row in rows)])
    return text.getvalue().encode()


class Endless(io.RawIOBase):
    """A file of a number of bytes that takes no memory."""

    def __init__(self, size, start=b"", fill=b"x"):
        self.size, self.start, self.fill, self.at = size, start, fill, 0

    def seek(self, offset, whence=0):
        self.at = offset + (self.size if whence == 2 else 0)
        return self.at

    def read(self, count=-1):
        first = self.start[self.at : self.at + count]
        rest = max(0, min(count, self.size - self.at) - len(first))
        shift = max(0, self.at - len(self.start)) % len(self.fill)
        self.at += len(first) + rest
        return first + (self.fill * (rest // len(self.fill) + 2))[shift : shift + rest]


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("rows.jsonl", lines(ROWS)),
        ("rows.jsonl", b"\xef\xbb\xbf" + lines(ROWS).replace(b"\n", b"\r\n\n").rstrip()),
        ("rows.ndjson", lines(ROWS)),
        ("rows.JSONL.gz", gzip.compress(lines(ROWS[:1000]), mtime=0) + gzip.compress(lines(ROWS[1000:]), mtime=0)),
        ("rows.json", json.dumps(ROWS, ensure_ascii=False).encode()),
        ("rows.json", json.dumps(ROWS, indent=2).encode("utf-8-sig")),
        ("rows.json", lines(ROWS)),
        ("rows.json", json.dumps({"version": 1, "data": ROWS}).encode()),
        ("rows.json", json.dumps({"train": ROWS, "test": []}).encode()),
        ("rows.json", json.dumps({str(n): row for n, row in enumerate(ROWS)}).encode()),
        ("rows.json", json.dumps({name: [row[name] for row in ROWS] for name in ROWS[0]}).encode()),
        ("rows.json.gz", gzip.compress(json.dumps(ROWS).encode(), mtime=0)),
        ("rows.csv", table(ROWS)),
        ("rows.csv.gz", gzip.compress(table(ROWS), mtime=0)),
        ("rows.tsv", b"\xef\xbb\xbf" + table(ROWS, "\t")),
    ],
)  # fmt: skip
def test_every_format_gives_the_same_rows(path, data):
    assert read(data, path) == ROWS


def test_one_object_may_be_a_row():
    talk = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    assert read(json.dumps(talk).encode(), "a.json") == [talk]
    task = {"Definition": ["do"], "Instances": [{"input": "x", "output": ["y"]}]}
    assert read(json.dumps(task, indent=1).encode(), "a.json") == [task]
    assert read(b" ", "a.json") == read(b"", "a.jsonl") == read(b"", "a.csv") == read(b"[]", "a.json") == []


@pytest.mark.parametrize(
    ("path", "data", "fault"),
    [
        ("a.jsonl", b'{"question": "q", "ans', "line 1: Unterminated string"),
        ("a.jsonl", b'{"a": 1}\n[1]\n', "line 2: a list where a row"),
        ("a.jsonl", b'{"a": 1}\n\n\x1f\x8b\x00\xff\n', "line 3"),
        ("a.jsonl", b'{"a": ' + b"[" * 200_000, "line 1: maximum recursion"),
        ("a.jsonl", b'{"a": ' + b"9" * 5000 + b"}", "line 1: Exceeds the limit"),
        ("a.json", b"[" * 200_000, "bytes of memory|RecursionError"),
        ("a.json", b'[{"a": 1}, {"a": ', "cannot be read"),
        ("a.json", b'[{"a": 1}', "cannot be read|Expecting"),
        ("a.json", b"[1, 2]", "a int where a row"),
        ("a.json", b"nothing", "Expecting value"),
        ("a.json", gzip.compress(b"[]", mtime=0), "utf-8"),
        ("a.csv", b'question,answer\n"' + b"never ends," * 20_000, "line 2: field larger than field limit"),
        ("a.csv", b"question,answer\nq\xff,a\n", "utf-8"),
        ("a.csv", b"question,answer\n" + b"x" * (2 * MAX_ROW), "line 2: more than 4,194,304 bytes without an end"),
        ("a.csv.gz", b"question,answer\n", "incorrect header check"),
        ("a.jsonl.gz", gzip.compress(lines(ROWS), mtime=0)[:-100], "ends before its data do"),
        ("a.jsonl.gz", gzip.compress(lines(ROWS), mtime=0)[:200] + b"\0" * 99, "cannot be read"),
    ],
)  # fmt: skip
def test_what_is_broken_is_named(path, data, fault):
    with pytest.raises(DatasetError, match=fault) as caught:
        read(data, path)
    assert caught.value.reason == "unreadable"
    assert str(caught.value).startswith(f"{path}: ")


def test_a_line_without_end_is_passed_over_in_little_memory():
    reading = Reading(1 << 40)
    file = Endless(24 * 2**20, start=b'{"question": "q"}\n{"question": "')
    tracemalloc.start()
    try:
        assert list(json_lines(file, reading)) == [(1, {"question": "q"})]
        assert tracemalloc.get_traced_memory()[1] < 5 * MAX_ROW
    finally:
        tracemalloc.stop()
    assert (reading.too_long, reading.bytes) == (1, 24 * 2**20)


def test_a_line_that_is_too_long_costs_no_other():
    data = b'{"n": 1}\n{"n": "' + b"x" * (MAX_ROW + 9) + b'"}\n{"n": 3}\n'
    reading = Reading(1 << 40)
    assert read(data, "a.jsonl", reading=reading) == [{"n": 1}, {"n": 3}]
    assert reading.too_long == 1


def test_a_json_file_that_is_one_endless_value():
    for start, fill in ((b'[{"question": "', b"x"), (b'[{"question": [', b"[],"), (b'{"data": [', b'{"a": 1},')):
        reading = Reading(1 << 40)
        with pytest.raises(DatasetError, match=r"one value of more than 16,777,216 bytes|bytes of memory"):
            read(Endless(2**40, start, fill), "a.json", reading=reading)
        assert reading.bytes < 2 * MAX_OBJECT


def test_json_that_python_writes_and_nobody_else():
    rows = [{"question": "q", "answer": float("inf")}, {"question": "NaN, or not", "answer": 10**30}]
    assert read(json.dumps(rows).encode(), "a.json") == rows
    assert read(b'{"data": [{"a": NaN}, {"a": 1}]}', "a.json")[1:] == [{"a": 1}]
    assert read(b'[{"a": 1}, {"a": NaN}, {"a": 2}]', "a.json")[::2] == [{"a": 1}, {"a": 2}]


def test_a_line_of_a_table_that_does_not_end_is_not_read_to_its_end():
    file = Endless(1 << 40, start=b"question,answer\n")
    with pytest.raises(DatasetError, match="line 2: more than 4,194,304 bytes without an end"):
        read(file, "a.csv")


@pytest.mark.parametrize("path", ["a.jsonl.gz", "a.json.gz", "a.csv.gz"])
def test_a_bomb_of_gzip_ends_with_the_budget(path):
    bomb = gzip.compress(b'{"question": "' + b" " * (16 * 2**20))
    assert len(bomb) < 2**17
    reading = Reading(6 * 2**20)
    try:
        assert read(bomb, path, reading=reading) == []
    except DatasetError as error:
        assert error.reason == "unreadable"
    assert reading.bytes <= 6 * 2**20


@pytest.mark.parametrize("path", ["a.jsonl", "a.json", "a.csv", "a.tsv"])
@pytest.mark.parametrize("max_bytes", [1, 1000, 1003, 60_001])
def test_the_budget_never_leaves_half_a_row(path, max_bytes):
    data = {"jsonl": lines(ROWS), "json": json.dumps(ROWS, ensure_ascii=False).encode(), "csv": table(ROWS),
            "tsv": table(ROWS, "\t")}[path.partition(".")[2]]  # fmt: skip
    reading = Reading(max_bytes)
    rows = read(data, path, reading=reading)
    assert rows == ROWS[: len(rows)]
    assert reading.stopped == "max_bytes"
    assert len(rows) > 0 or max_bytes < 1000
    assert reading.bytes == max_bytes


def test_a_quoted_field_may_hold_line_ends_but_not_at_the_end_of_the_budget():
    data = b'question,answer\n"a\nb",c\n"d\ne' + b" " * 50 + b'\nf",g\n'
    assert read(data, "a.csv")[0] == {"question": "a\nb", "answer": "c"}
    assert read(data, "a.csv", max_bytes=60) == [{"question": "a\nb", "answer": "c"}]


def test_rows_that_are_shorter_or_longer_than_the_header():
    reading = Reading(1 << 40)
    assert read(b"a,b\n1\n1,2,3\n\n1,2\n", "x.csv", reading=reading) == [{"a": "1", "b": None}, {"a": "1", "b": "2"}]
    assert reading.unused == 1


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.tsv", "a.csv.gz"]), st.binary(max_size=60) | st.text(
    '{}[]",:\n\t 1a', max_size=60).map(str.encode))  # fmt: skip
def test_any_bytes_are_rows_or_an_error_of_ours(path, data):
    try:
        assert all(isinstance(row, dict) for row in read(data, path))
    except DatasetError as error:
        assert error.reason == "unreadable"
