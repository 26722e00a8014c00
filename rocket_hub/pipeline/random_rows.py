"""Rows of the pool at random, for the control that asks what choosing them is worth."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from random import Random
from typing import Any

from rocket_hub.discovery import load_instructions
from rocket_hub.pipeline.context import Context
from rocket_hub.pipeline.generated import read_generated
from rocket_hub.records import DatasetDiscovery, Row
from rocket_hub.serialization import from_dict

NO_FAULT = ("near_duplicate_of", "over_token_budget")  # why a sound row was not chosen


def random_rows(context: Context, results: Mapping[str, Any], count: int) -> list[Row]:
    """Draw rows from the pool that stage 3 read, among those that could have been chosen.

    Args:
        context: The build; its seed is that of the draw.
        results: What the first three stages left.
        count: How many; fewer where the pool has fewer.

    Returns:
        The rows, each as likely as any other.

    Raises:
        DatasetError: A data set cannot be read any more.
        HubError: The Hub does not give it any more.
    """
    draw = Random(context.recipe.seed)
    drawn: list[Row] = []
    for read, row in enumerate(_sound_rows(context, results), 1):
        sample_row(drawn, count, row, read, draw)
    return drawn


def sample_row(sample: list[Row], size: int, row: Row, read: int, draw: Random) -> None:
    """Offer a row to a sample of a stream (reservoir sampling): all rows so far are in it with equal chances.

    Args:
        sample: Changed in place.
        size: How many rows it holds at most.
        row: The row.
        read: How many rows have been read, with this one.
        draw: Decides.
    """
    place = len(sample) if len(sample) < size else draw.randrange(read)
    sample[place : place + 1] = [row] if place < size else []


def _sound_rows(context: Context, results: Mapping[str, Any]) -> Iterator[Row]:
    """Read the pool again, as stage 3 did, without what it refused (rows of the evaluation set among it)."""
    with context.run.absolute(results["3-select-instructions"]["rejected_file"]).open(encoding="utf-8") as lines:
        refused = {entry["item"] for entry in map(json.loads, lines) if entry["reason"] not in NO_FAULT}
    for row in _rows(context, results, refused):
        if f"{row.source}#{row.index}" not in refused:
            yield row


def _rows(context: Context, results: Mapping[str, Any], refused: set[str]) -> Iterator[Row]:
    """Read the data sets that could be read, then the generated rows."""
    limits = context.recipe.discover
    for candidate in from_dict(DatasetDiscovery, results["1-discover"]["datasets"], "1-discover").selected:
        if candidate.repo_id not in refused:
            yield from load_instructions(
                context.api, candidate, max_rows=limits.max_rows_per_dataset, max_bytes=limits.max_bytes_per_dataset
            )
    if (made := results.get("0-generate", {})).get("rows"):
        yield from read_generated(context.run.path / "0-generate", made)
