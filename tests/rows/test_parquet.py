"""Parquet files that are bombs: small in the file, or harmless in their footer, and huge when unpacked."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocket_hub.errors import DatasetError
from rocket_hub.rows import files
from rocket_hub.rows.files import Parser
from rocket_hub.rows.values import MAX_ROW, Reading

ROWS = [
    {"question": f"q{n}" * 9, "choices": ["a", "b", None], "answer": n % 2, "nested": {"text": ["t"]}}
    for n in range(90)
]


def written(table, **options):
    if isinstance(table, list):
        table = pa.Table.from_pylist(table)
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return bytearray(sink.getvalue())


PARSER = Parser()


@pytest.fixture(scope="module", autouse=True)
def parser():
    """One child process for the files of this module."""
    with PARSER:
        yield


def read(data, reading=None, **options):
    """Read as discovery does: whatever goes wrong is a DatasetError."""
    file = io.BytesIO(bytes(data))
    return list(PARSER.rows(file, "rows.parquet", reading or Reading(1 << 40), "rows.parquet", **options))


PLAIN = {"use_dictionary": False, "compression": "none"}


def test_what_is_read_is_what_is_in_the_file():
    for options in (
        PLAIN,
        {"row_group_size": 7},
        {"data_page_size": 64, "data_page_version": "2.0", "compression": "gzip"},
    ):
        assert read(written(ROWS, **options)) == ROWS
    assert read(written(ROWS), wanted=lambda name: name == "answer") == [{"answer": row["answer"]} for row in ROWS]


def test_a_large_page_in_a_small_file_does_not_fit_into_memory(monkeypatch):
    monkeypatch.setattr(files, "MEMORY", 450 * 2**20)
    PARSER.close()
    table = pa.table({"question": ["x" * 2**22] * 64, "answer": ["y"] * 64})
    data = written(table, compression="zstd", use_dictionary=False, data_page_size=2**30)
    assert len(data) < 2**18
    before = pa.total_allocated_bytes()
    with pytest.raises(DatasetError, match=r"needs more than 471,859,200 bytes of memory|cannot be read") as caught:
        read(data)
    assert caught.value.reason == "unreadable"
    assert pa.total_allocated_bytes() == before
    assert read(data, wanted=lambda name: name == "answer") == [{"answer": "y"}] * 64
    PARSER.close()


def test_one_text_a_million_times_is_not_written_out():
    words = pa.DictionaryArray.from_arrays(pa.array([0] * 10**6, pa.int32()), pa.array(["word" * 2**18]))
    table = pa.table({"question": ["q"], "choices": pa.ListArray.from_arrays(pa.array([0, 10**6], pa.int32()), words)})
    data = written(table)
    assert len(data) < 2**22
    reading = Reading(1 << 40)
    assert read(data, reading) == []
    assert reading.too_long == 1


def test_a_list_of_many_nothings_is_no_row():
    nothing = pa.ListArray.from_arrays(pa.array([0, 20 * 2**20], pa.int32()), pa.nulls(20 * 2**20, pa.int8()))
    data = written(pa.table({"question": ["q"], "choices": nothing}), compression="zstd")
    assert len(data) < 2**20
    reading = Reading(1 << 40)
    assert read(data, reading) == []
    assert reading.too_long == 1


def test_a_long_row_is_dropped_and_its_neighbours_are_not():
    rows = [
        {"question": "short"},
        {"question": "x" * (2 * MAX_ROW)},
        {"question": "x" * (2 * MAX_ROW)},
        {"question": "end"},
    ]
    reading = Reading(1 << 40)
    assert read(written(rows), reading) == [{"question": "short"}, {"question": "end"}]
    assert reading.too_long == 2


def test_rows_that_are_only_claimed():
    data = written(ROWS, **PLAIN)
    told = b"\x16\xb4\x01"  # num_rows, of the file and of its only group: 90 as Thrift writes it
    assert data.count(told) >= 2
    assert read(data.replace(told, b"\x16\x80\x7d")) == ROWS


def test_a_footer_of_gigabytes_is_not_read():
    data = written(ROWS)
    data[-8:-4] = (2**31).to_bytes(4, "little")
    with pytest.raises(DatasetError, match="a footer of 2,147,483,648 bytes"):
        read(data)
    data[-8:-4] = (len(data)).to_bytes(4, "little")
    with pytest.raises(DatasetError, match="a footer of"):
        read(data)


def test_a_footer_of_a_million_columns_is_unpacked_in_the_child_only():
    columns = 10**6
    group = b"\x19\xfc\xc0\x84\x3d" + b"\x26\x08\x00" * columns + b"\x16\x02\x16\x02\x00"
    footer = b"\x15\x02\x19\x0c\x16\x02\x19\x1c" + group + b"\x00"
    before = pa.total_allocated_bytes()
    with pytest.raises(DatasetError, match=r"rows\.parquet: ") as caught:
        read(b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    assert caught.value.reason == "unreadable"
    assert pa.total_allocated_bytes() == before


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1 not at all PAR1", b"\x1f\x8b" + bytes(50), bytes(4096)])
def test_what_is_no_parquet_file_is_said_to_be_none(data):
    with pytest.raises(DatasetError, match=r"rows\.parquet"):
        read(data)


def test_columns_of_images_are_never_read():
    rows = [{"question": "q", "image": b"\xff" * 99, "answer": "a", "photo": {"bytes": b"\xff", "path": "p"}}]
    assert read(written(rows)) == [{"question": "q", "answer": "a"}]
    assert read(written([{"image": b"\xff"}])) == []


def test_the_budget_ends_it():
    reading = Reading(2000)
    rows = read(written(ROWS * 50, row_group_size=100, **PLAIN), reading)
    assert 0 < len(rows) < 1000
    assert reading.stopped == "max_bytes"


def test_names_of_classes_that_the_datasets_library_wrote():
    features = {"info": {"features": {"label": {"_type": "ClassLabel", "names": ["neg", "pos"]}, "text": 7}}}
    broken = "[" * 9999, "{}", '{"info": {"features": [1]}}', '{"info": {"features": {"a": {"names": [1, "x"]}}}}'
    for metadata in (json.dumps(features), *broken):
        table = pa.table({"text": ["t"], "label": [1]}).replace_schema_metadata({"huggingface": metadata})
        reading = Reading(1 << 40)
        assert read(written(table), reading) == [{"text": "t", "label": 1}]
        assert reading.columns == {"text": (), "label": () if metadata in broken else ("neg", "pos")}


SEED = {
    kind: bytes(written(ROWS, compression=kind, data_page_size=128, row_group_size=40))
    for kind in ("none", "zstd", "snappy")
}


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(sorted(SEED)), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_damaged_file_is_an_error_of_ours_or_rows(kind, damage):
    data = bytearray(SEED[kind])
    for where, byte in damage:
        data[int(where * (len(data) - 1))] = byte
    try:
        assert all(isinstance(row, dict) for row in read(data))
    except DatasetError as error:
        assert error.reason == "unreadable"
