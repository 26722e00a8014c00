"""Read the rows of one open data file."""

from __future__ import annotations

import csv
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rocket_hub.errors import DatasetError
from rocket_hub.rows.json_csv import csv_rows, json_lines, json_values
from rocket_hub.rows.parquet import parquet_rows
from rocket_hub.rows.values import ByteFile, Reading


def rows_of(
    file: ByteFile, path: str, reading: Reading, wanted: Callable[[str], bool] = lambda _: True
) -> Iterator[dict[str, Any]]:
    """Read the rows of one open file, in the format that its name says; the rest as `read_rows`."""
    name = path.lower()
    packed = name.endswith(".gz")
    kind = name.removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        return parquet_rows(file, reading, wanted)
    if kind in ("csv", "tsv"):
        return csv_rows(file, reading, packed=packed, delimiter="\t" if kind == "tsv" else ",")
    return (json_values if kind == "json" else json_lines)(file, reading, packed=packed)


@contextmanager
def named_faults(where: str) -> Iterator[None]:
    """Turn whatever the parsers say about a file into a `DatasetError` that names it."""
    import pyarrow

    try:
        yield
    except DatasetError as error:
        raise DatasetError(error.reason, f"{where}: {error}") from error
    except (
        OSError, EOFError, ValueError, LookupError, TypeError, OverflowError, RecursionError, NotImplementedError,
        csv.Error, zlib.error, pyarrow.ArrowException,
    ) as error:  # fmt: skip
        first = (str(error).splitlines() or [""])[0][:200]
        raise DatasetError("unreadable", f"{where}: cannot be read ({type(error).__name__}: {first})") from error
