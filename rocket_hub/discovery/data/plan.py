"""What reading instruction data will cost, before it costs anything but its list pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rocket_hub.discovery.access.ranges import FIRST
from rocket_hub.discovery.data.listing import ListedDataset
from rocket_hub.discovery.data.probes import is_kept
from rocket_hub.discovery.lora.plan import FAILING, SECONDS
from rocket_hub.options import DiscoverOptions

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PER_PROBE = {"parquet": 3, "other": 1}
"""Reads of parts of a file until its first rows are known."""
PER_FILE = 3
"""Requests for each file that is then read: what it is, where it is, and its bytes."""
BYTES_A_SECOND = 10e6


@dataclass(frozen=True)
class DatasetPlan:
    """What reading instruction data will cost, at most about.

    Attributes:
        listed: Data sets that were listed.
        candidates: Those that their cards do not rule out.
        probes: Data sets whose first rows have to be read from the Hub; those of the others are kept here.
        requests: For these, and for reading as many as may be taken.
        bytes: For the same.
        minutes: At 0.15 s for a request and 10 MB/s.
    """

    listed: int
    candidates: int
    probes: int
    requests: int
    bytes: int
    minutes: float


def plan_datasets(
    api: HfApi, candidates: Sequence[ListedDataset], listed: int, options: DiscoverOptions
) -> DatasetPlan:
    """Estimate what probing and reading data sets will cost.

    Args:
        api: Where the Hub is, and who asks.
        candidates: Those that their cards do not rule out, likeliest first.
        listed: How many there were before.
        options: How many may be taken, and how much is read of each.

    Returns:
        The plan.
    """
    tried = candidates[: round(FAILING * options.max_datasets)]
    unknown = [item for item in tried if not is_kept(api, item)]
    taken = candidates[: options.max_datasets]
    kinds = ["parquet" if item.files[0].endswith(".parquet") else "other" for item in unknown]
    requests = sum(PER_PROBE[kind] for kind in kinds) + sum(PER_FILE * len(item.files) for item in taken)
    most = options.max_bytes_per_dataset
    size = len(unknown) * FIRST + sum(min(item.size or most, most) for item in taken)
    seconds = requests * SECONDS / options.workers + size / BYTES_A_SECOND
    return DatasetPlan(listed, len(candidates), len(unknown), requests, size, seconds / 60)
