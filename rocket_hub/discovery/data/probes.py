"""The first rows of a data set, looked at before anything of it is downloaded."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from rocket_hub.discovery.access.cache import recall, remember
from rocket_hub.discovery.access.ranges import RangeFile
from rocket_hub.discovery.data.listing import ListedDataset
from rocket_hub.errors import DatasetError
from rocket_hub.rows.files import named_faults, rows_of
from rocket_hub.rows.layouts import LABELS, is_read
from rocket_hub.rows.parquet import parquet_columns
from rocket_hub.rows.values import MAX_CHARACTERS, Reading, flat_rows
from rocket_hub.serialization import from_dict, to_dict

if TYPE_CHECKING:
    from huggingface_hub import HfApi

ROWS = 8
MAX_BYTES = 20 * 2**20
"""Bytes that are looked through for the first rows."""

_KEPT = 2**20
"""Characters of the rows that are kept for the next time."""


@dataclass(frozen=True)
class Probe:
    """What the first rows of a data set show.

    Attributes:
        columns: Names of its columns.
        rows: Its first rows, flat, columns in lower case.
        names: Names of the classes of its label, if a Parquet file has them.
        size: Bytes of its first file.
        fault: Why its rows cannot be read, as a reason and what was found; empty if they can.
    """

    columns: tuple[str, ...] = ()
    rows: tuple[dict[str, Any], ...] = ()
    names: tuple[str, ...] = ()
    size: int = 0
    fault: tuple[str, ...] = ()


def probe(api: HfApi, listed: ListedDataset) -> Probe:
    """Look at the first rows of a data set, in parts of its first file; at the same commit again without a request.

    Args:
        api: Where the Hub is, and who asks.
        listed: The data set; it has files.

    Returns:
        What they show.

    Raises:
        HubError: The Hub did not give the bytes, for example because the data set is gated.
    """
    kept = recall(api, *_name(listed))
    if kept is not None:
        return from_dict(Probe, kept[1], "the kept probe")
    try:
        found = _look(api, listed)
    except DatasetError as error:
        found = Probe(fault=(error.reason, str(error)))
    if len(str(found)) <= _KEPT:
        remember(api, to_dict(found), *_name(listed))
    return found


def is_kept(api: HfApi, listed: ListedDataset) -> bool:
    """Return whether probing a data set costs no request."""
    return recall(api, *_name(listed)) is not None


def _name(listed: ListedDataset) -> tuple[str, ...]:
    """Return what a probe is kept under; the number changes with what a probe is."""
    return ("dataset probe 1", listed.repo_id, listed.revision, listed.files[0])


def _look(api: HfApi, listed: ListedDataset) -> Probe:
    """Read the first rows of the first file."""
    path = listed.files[0]
    reading = Reading(MAX_BYTES)
    with named_faults(f"{listed.repo_id}: {path}"):
        file = RangeFile(api, listed.repo_id, listed.revision, path)
        columns, names = parquet_columns(file) if path.lower().endswith(".parquet") else ([], {})
        records = list(islice(rows_of(file, path, reading, is_read), ROWS))
        rows = list(islice((row for record in records for row in flat_rows(record) if is_bearable(row)), ROWS))
    columns = columns or list(dict.fromkeys(str(column) for record in records for column in record))
    label = next((names[column] for column in names if column.lower() in LABELS), ())
    if not rows and (reading.too_long or reading.stopped or records):
        raise DatasetError("unreadable", f"{listed.repo_id}: {path}: the first rows are larger than a row may be")
    return Probe(tuple(columns), tuple(rows), label, file.size)


def is_bearable(row: dict[str, Any]) -> bool:
    """Return whether no text of a flat row is longer than it may be."""
    return all(len(value) <= MAX_CHARACTERS for value in row.values() if isinstance(value, str))
