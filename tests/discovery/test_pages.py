"""Parquet files that are bombs: small in the file, or harmless in their footer, and huge when unpacked."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocket_hub.errors import DatasetError
from rocket_hub.rows import pages
from rocket_hub.rows.files import named_faults
from rocket_hub.rows.pages import Chunk, GuardedFile, read_page_header
from rocket_hub.rows.parquet import parquet_columns, parquet_rows
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


def read(data, reading=None, **options):
    """Read as discovery does: whatever goes wrong is a DatasetError."""
    with named_faults("rows.parquet"):
        return list(parquet_rows(io.BytesIO(bytes(data)), reading or Reading(1 << 40), **options))


def varint(value):
    data = bytearray()
    while value > 127:
        data.append(value & 127 | 128)
        value >>= 7
    return bytes([*data, value])


def zigzag(value):
    return varint(value << 1 if value >= 0 else (-value << 1) - 1)


def lie(data, at, *, unpacked=None, packed=None, values=None, encoding=None):
    """Replace the header of the page at a position by one of the same length that says something else."""
    page = read_page_header(bytes(data[at:]))
    pick = lambda new, old: zigzag(old if new is None else new)  # noqa: E731
    head = b"\x15" + zigzag(0) + b"\x15" + pick(unpacked, page.unpacked) + b"\x15" + pick(packed, page.packed)
    head += b"\x2c\x15" + pick(values, page.values) + b"\x15" + pick(encoding, page.encoding) + b"\x15\x06\x15\x06\x00"
    slack = page.header - len(head) - 5  # a field that nobody knows fills the rest
    assert slack >= 0, "the page needs statistics that can be left out"
    data[at : at + page.header] = head + b"\x08" + zigzag(100) + varint(slack) + bytes(slack) + b"\x00"
    return data


def first_page(data, column):
    return pq.read_metadata(io.BytesIO(bytes(data))).row_group(0).column(column).data_page_offset


PLAIN = {"use_dictionary": False, "compression": "none"}


def test_what_is_read_is_what_is_in_the_file():
    for options in (
        PLAIN,
        {"row_group_size": 7},
        {"data_page_size": 64, "data_page_version": "2.0", "compression": "gzip"},
    ):
        assert read(written(ROWS, **options)) == ROWS
    assert read(written(ROWS), wanted=lambda name: name == "answer") == [{"answer": row["answer"]} for row in ROWS]


def test_a_lie_about_nothing_is_harmless():
    data = written(ROWS, **PLAIN)
    assert read(lie(data, first_page(data, 0))) == ROWS


@pytest.mark.parametrize(
    ("column", "told", "fault"),
    [
        (0, {"unpacked": 2**31 - 1}, "a page of 2,147,483,647 bytes"),
        (0, {"unpacked": -5}, "a page of -5 bytes"),
        (0, {"packed": 2**30}, "1,073,741,824 of them in the file"),
        (1, {"values": 2**31 - 1}, "lists of more than"),
        (1, {"values": -(2**31)}, "unpack to any size"),
        (0, {"encoding": 7}, "unpack to any size"),
    ],
)
def test_a_page_that_lies_is_not_unpacked(column, told, fault):
    data = written(ROWS, **PLAIN)
    before = pa.total_allocated_bytes()
    with pytest.raises(DatasetError, match=fault) as caught:
        read(lie(data, first_page(data, column), **told))
    assert caught.value.reason == "unreadable"
    assert pa.total_allocated_bytes() - before < 2**20


def test_a_large_page_is_not_unpacked_although_the_file_is_small(monkeypatch):
    monkeypatch.setattr(pages, "LARGEST_PAGE", 2**20)
    data = written(pa.table({"question": ["x" * 2**23], "answer": ["y"]}), compression="zstd")
    assert len(data) < 2**16
    with pytest.raises(DatasetError, match="more than its column has, or than 1,048,576"):
        read(data)
    assert read(data, wanted=lambda name: name == "answer") == [{"answer": "y"}]
    monkeypatch.setattr(pages, "LARGEST_TOGETHER", 2**10)
    with pytest.raises(DatasetError, match="pages of more than 1,024 bytes together"):
        read(written(ROWS))


def test_one_text_a_million_times_is_not_written_out():
    words = pa.DictionaryArray.from_arrays(pa.array([0] * 10**6, pa.int32()), pa.array(["word" * 2**18]))
    table = pa.table({"question": ["q"], "choices": pa.ListArray.from_arrays(pa.array([0, 10**6], pa.int32()), words)})
    data = written(table)
    assert len(data) < 2**22
    reading = Reading(1 << 40)
    assert read(data, reading) == []
    assert reading.too_long == 1


def test_a_list_of_many_nothings_is_refused():
    nothing = pa.ListArray.from_arrays(pa.array([0, 20 * 2**20], pa.int32()), pa.nulls(20 * 2**20, pa.int8()))
    data = written(pa.table({"question": ["q"], "choices": nothing}), compression="zstd")
    assert len(data) < 2**20
    with pytest.raises(DatasetError, match="lists of more than 16,777,216 values"):
        read(data)


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
    told = b"\x16" + zigzag(len(ROWS))  # num_rows, of the file and of its only group
    assert data.count(told) >= 2
    assert read(data.replace(told, b"\x16" + zigzag(8000))) == ROWS


def test_a_footer_of_gigabytes_is_not_read():
    data = written(ROWS)
    data[-8:-4] = (2**31).to_bytes(4, "little")
    with pytest.raises(DatasetError, match="a footer of 2,147,483,648 bytes"):
        read(data)
    data[-8:-4] = (len(data)).to_bytes(4, "little")
    with pytest.raises(DatasetError, match="a footer of"):
        read(data)


def test_a_footer_of_a_million_columns_is_refused_before_it_is_unpacked():
    columns = 10**6
    group = b"\x19\xfc" + varint(columns) + b"\x26\x08\x00" * columns + b"\x16\x02\x16\x02\x00"
    footer = b"\x15\x02\x19\x0c\x16\x02\x19\x1c" + group + b"\x00"
    before = pa.total_allocated_bytes()
    with pytest.raises(DatasetError, match="a list of empty structs"):
        read(b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1")
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
    table = pa.table({"text": ["t"], "label": [1]}).replace_schema_metadata({"huggingface": json.dumps(features)})
    assert parquet_columns(io.BytesIO(bytes(written(table)))) == (["text", "label"], {"label": ("neg", "pos")})
    for broken in (
        "[" * 9999,
        "{}",
        '{"info": {"features": [1]}}',
        '{"info": {"features": {"a": {"names": [1, "x"]}}}}',
    ):
        table = table.replace_schema_metadata({"huggingface": broken})
        assert parquet_columns(io.BytesIO(bytes(written(table)))) == (["text", "label"], {})


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


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=64))
def test_bytes_that_are_no_page_header(data):
    with pytest.raises((IndexError, ValueError)):
        raise ValueError(str(read_page_header(data)))


def test_a_header_that_is_cut_by_the_end_of_a_read_is_followed():
    data = bytes(written(ROWS, data_page_size=64, **PLAIN))
    column = pq.read_metadata(io.BytesIO(data)).row_group(0).column(0)
    start, end = column.data_page_offset, column.data_page_offset + column.total_compressed_size
    for step in (1, 3, 7, 50):
        chunk = Chunk(start, end)
        guarded = GuardedFile(io.BytesIO(data), [chunk])
        guarded.seek(start)
        while guarded.tell() < end:
            guarded.read(step)
        assert chunk.at == end
        assert guarded.passed >= end - start
