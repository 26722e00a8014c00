from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from io import SEEK_END
from typing import TYPE_CHECKING, Any

from rocket_hub.errors import DatasetError
from rocket_hub.rows.values import MAX_ROW, Reading

if TYPE_CHECKING:
    from pyarrow import Array, DataType, RecordBatch, Schema


LARGEST_FOOTER = 4 * 2**20
BATCH = 256
"""Rows that are unpacked at one time."""

_BUFFER = 2**20
_AT_ONCE = 8 * 2**20
_MOST_NAMES = 1000


def class_names(given: Any) -> tuple[str, ...]:
    """Return names of classes, from a list or from a mapping of number to name; empty where there are none."""
    names = list(given.values()) if isinstance(given, dict) else given
    if not isinstance(names, list) or not 2 <= len(names) <= _MOST_NAMES:
        return ()
    return tuple(names) if all(isinstance(name, str) and 0 < len(name) <= 200 for name in names) else ()


def parquet_rows(
    file: Any, reading: Reading, wanted: Callable[[dict[str, tuple[str, ...]]], list[str]]
) -> Iterator[dict[str, Any]]:
    """Read the rows of a file; call this only where memory is limited, for pyarrow believes what the file claims.

    Args:
        file: The file, open; its `passed` counts the bytes that were read.
        reading: The budget.
        wanted: Which columns are of use, of columns -> names of their classes (where the `datasets` library wrote
            them); the others are not read. Columns that hold no text, numbers or lists and structs of these never are.

    Yields:
        Column -> value.
    """
    from pyarrow.parquet import ParquetFile, read_metadata

    _check_footer(file)
    metadata = read_metadata(file)
    file.seek(0)
    leaves = [metadata.schema.column(index) for index in range(metadata.num_columns)]
    texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
    # Distinct values are not repeated in memory: a list of a million times the same megabyte stays small.
    table = ParquetFile(file, metadata=metadata, read_dictionary=texts, buffer_size=_BUFFER, pre_buffer=False,
                        page_checksum_verification=True, arrow_extensions_enabled=False)  # fmt: skip
    chosen = wanted(_classes(metadata.schema.to_arrow_schema()))
    columns = [field.name for field in table.schema_arrow if field.name in chosen and _is_plain(field.type)]
    before = file.passed
    for group in range(table.num_row_groups) if columns else ():
        for batch in table.iter_batches(BATCH, row_groups=[group], columns=columns, use_threads=False):
            yield from _rows(batch, reading)
            reading.bytes = file.passed - before
            if reading.spent:
                return


def _check_footer(file: Any) -> None:
    """Refuse a file that is no Parquet file, or whose footer would take too much time and memory."""
    size = file.seek(0, SEEK_END)
    file.seek(max(0, size - 8))
    tail = file.read(8)
    if size < 12 or tail[-4:] != b"PAR1":
        raise DatasetError("unreadable", "not a Parquet file, although it is called one")
    length = int.from_bytes(tail[:4], "little")
    if length > min(size - 12, LARGEST_FOOTER):
        raise DatasetError("unreadable", f"a footer of {length:,} bytes, more than the {LARGEST_FOOTER:,} read here")
    file.seek(0)


def _classes(schema: Schema) -> dict[str, tuple[str, ...]]:
    """Return column -> the names of its classes; empty where the `datasets` library wrote none."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        found = {name: feature.get("names") for name, feature in features.items() if isinstance(feature, dict)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        found = {}
    return {name: class_names(found.get(name)) for name in schema.names}


def _is_plain(kind: DataType) -> bool:
    """Return whether a type is text, a number, a truth value, or a list or struct of these."""
    from pyarrow import types

    if types.is_list(kind) or types.is_large_list(kind) or types.is_dictionary(kind):
        return _is_plain(kind.value_type)
    if types.is_struct(kind):
        return all(_is_plain(kind.field(index).type) for index in range(kind.num_fields))
    plain = ("is_string", "is_large_string", "is_integer", "is_floating", "is_boolean", "is_null")
    return any(getattr(types, name)(kind) for name in plain)


def _rows(batch: RecordBatch, reading: Reading) -> Iterator[dict[str, Any]]:
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
