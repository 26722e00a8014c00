"""Rows of a Parquet file that somebody else wrote, a few at a time."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from io import SEEK_END
from typing import TYPE_CHECKING, Any

from rocket_hub.errors import DatasetError
from rocket_hub.rows.pages import Chunk, GuardedFile, read_chunks
from rocket_hub.rows.values import MAX_ROW, ByteFile, Reading

if TYPE_CHECKING:
    from pyarrow import Array, DataType, RecordBatch
    from pyarrow.parquet import FileMetaData


LARGEST_FOOTER = 4 * 2**20
BATCH = 256
"""Rows that are unpacked at one time."""

_TAIL = 64 * 2**10
_BUFFER = 2**20
_AT_ONCE = 8 * 2**20
_MOST_NAMES = 1000


def parquet_columns(file: ByteFile) -> tuple[list[str], dict[str, tuple[str, ...]]]:
    """Read the columns of a file, and the names of their classes.

    Args:
        file: The file, open.

    Returns:
        Names of the columns, and column -> the names of its classes where the `datasets` library wrote them.

    Raises:
        DatasetError: `unreadable`: it is no Parquet file, or its footer is too large.
    """
    schema = _footer(file)[0].schema.to_arrow_schema()
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        found = {name: feature.get("names") for name, feature in features.items() if isinstance(feature, dict)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        found = {}
    return schema.names, {name: names for name, given in found.items() if (names := class_names(given))}


def class_names(given: Any) -> tuple[str, ...]:
    """Return names of classes, from a list or from a mapping of number to name; empty where there are none."""
    names = list(given.values()) if isinstance(given, dict) else given
    if not isinstance(names, list) or not 2 <= len(names) <= _MOST_NAMES:
        return ()
    return tuple(names) if all(isinstance(name, str) and 0 < len(name) <= 200 for name in names) else ()


def parquet_rows(
    file: ByteFile, reading: Reading, wanted: Callable[[str], bool] = lambda _: True
) -> Iterator[dict[str, Any]]:
    """Read the rows of a file, and never more at once than memory has room for.

    Args:
        file: The file, open.
        reading: The budget.
        wanted: Whether a column is of use; the others are not read. Columns that hold no text, numbers or lists and
            structs of these are never read.

    Yields:
        Column -> value.

    Raises:
        DatasetError: `unreadable`: it is no Parquet file, or would unpack to more than it may.
        HubError: The Hub did not give the bytes.
    """
    from pyarrow.parquet import ParquetFile

    metadata, groups = _footer(file)
    guarded = GuardedFile(file)
    leaves = [metadata.schema.column(index) for index in range(metadata.num_columns)]
    texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
    # Distinct values are not repeated in memory: a list of a million times the same megabyte stays small.
    table = ParquetFile(guarded, metadata=metadata, read_dictionary=texts, buffer_size=_BUFFER, pre_buffer=False,
                        page_checksum_verification=True, arrow_extensions_enabled=False)  # fmt: skip
    columns = [field.name for field in table.schema_arrow if wanted(field.name) and _is_plain(field.type)]
    if not columns:
        return
    for group, chunks in enumerate(groups):
        for chunk, leaf in zip(chunks, leaves, strict=True):
            chunk.lists = leaf.max_repetition_level > 0
        guarded.chunks = chunks
        for batch in table.iter_batches(BATCH, row_groups=[group], columns=columns, use_threads=False):
            yield from _rows(batch, reading)
            reading.bytes, guarded.passed = reading.bytes + guarded.passed, 0
            guarded.next_batch()
            if reading.spent:
                return


def _footer(file: ByteFile) -> tuple[FileMetaData, list[list[Chunk]]]:
    """Read the footer, if it is of a bearable size; returns it, and where the pages are in each group of rows."""
    from pyarrow.parquet import read_metadata

    size = file.seek(0, SEEK_END)
    file.seek(max(0, size - _TAIL))
    tail = file.read(_TAIL)
    if size < 12 or tail[-4:] != b"PAR1":
        raise DatasetError("unreadable", "not a Parquet file, although it is called one")
    (length,) = struct.unpack("<I", tail[-8:-4])
    if length > min(size - 12, LARGEST_FOOTER):
        raise DatasetError("unreadable", f"a footer of {length:,} bytes, more than the {LARGEST_FOOTER:,} read here")
    file.seek(size - 8 - length)
    groups = read_chunks(file.read(length), size)
    file.seek(0)
    return read_metadata(file), groups


def _is_plain(kind: DataType) -> bool:
    """Return whether a type is text, a number, a truth value, or a list or struct of these."""
    from pyarrow import types

    if types.is_list(kind) or types.is_large_list(kind):
        return _is_plain(kind.value_type)
    if types.is_struct(kind):
        return all(_is_plain(kind.field(index).type) for index in range(kind.num_fields))
    if types.is_dictionary(kind):
        return _is_plain(kind.value_type)
    plain = (
        types.is_string,
        types.is_large_string,
        types.is_integer,
        types.is_floating,
        types.is_boolean,
        types.is_null,
    )
    return any(check(kind) for check in plain)


def _rows(batch: RecordBatch, reading: Reading) -> Iterator[dict[str, Any]]:
    """Turn a batch into rows, without those that are too large."""
    if sum(map(_weight, batch.columns)) <= _AT_ONCE:
        yield from batch.to_pylist()
        return
    for index in range(batch.num_rows):
        row = batch.slice(index, 1)
        if sum(map(_weight, row.columns)) > MAX_ROW:
            reading.too_long += 1
        else:
            yield from row.to_pylist()


def _weight(array: Array) -> int:
    """Return the bytes that an array would have with every value written out, roughly."""
    from pyarrow import compute, types

    if types.is_dictionary(array.type):
        lengths = compute.take(compute.binary_length(array.dictionary), array.indices)
        return int(compute.sum(lengths).as_py() or 0) + 16 * len(array)
    if types.is_list(array.type) or types.is_large_list(array.type):
        return _weight(array.flatten()) + 16 * len(array)
    if types.is_struct(array.type):
        return sum(map(_weight, array.flatten())) + 16 * len(array)
    return int(array.nbytes) + 16 * len(array)
