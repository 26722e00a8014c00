"""Ratios with their intervals, and bars."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"

Bars = list[tuple[bool | None, str]]  # (reached, what was measured); None = it has no bar


def benchmark(task: str, split: str, folder: Path = SHARED) -> list[dict[str, Any]]:
    """Read a split of one of the shared benchmarks."""
    return pq.read_table(folder / "benchmarks" / task / f"{split}.parquet").to_pylist()


def lettered(choices: Iterable[str]) -> list[str]:
    """Write options below a question as everybody does."""
    return [f"{letter}. {text}" for letter, text in zip("ABCDEFGH", choices, strict=False)]


def print_bars(bars: Iterable[tuple[bool | None, str]]) -> int:
    """Print each bar, and return the exit code: 1 if one is missed."""
    bars = list(bars)
    for reached, text in bars:
        print({True: "pass", False: "FAIL", None: "    "}[reached], "", text)
    return int(any(reached is False for reached, _ in bars))


@dataclass(frozen=True)
class Ratio:
    """A ratio of two costs with its 95 % interval; the interval of exact counts has no width."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.median:.2f}"
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


def ratio(ours: Sequence[float | None], theirs: Sequence[float | None], resamples: int = 4000) -> Ratio:
    """Compare costs that were measured in the same rounds, one cost a round, None where a side was not measured.

    Returns the median of the rounds' ratios, with the 2.5 and 97.5 percentiles of its bootstrap.
    """
    ratios = np.array([one / other for one, other in zip(ours, theirs, strict=True) if one and other])
    drawn = np.random.default_rng(0).integers(len(ratios), size=(resamples, len(ratios)))
    low, high = np.percentile(np.median(ratios[drawn], axis=1), [2.5, 97.5])
    return Ratio(float(np.median(ratios)), float(low), float(high))
