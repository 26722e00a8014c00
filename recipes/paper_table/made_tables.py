"""Write the tables of made data into `README.md`: `python recipes/paper_table/made_tables.py`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import specialise
import teach
from bootstrap import in_words, p_value, resampled
from results_store import unpacked

from rocket_hub.runs import KeptResults, write_text

HERE = Path(__file__).resolve().parent
MADE = HERE / "made_data.jsonl"
BEGIN, END = "<!-- made data: written by made_tables.py -->", "<!-- end of made data -->"
NOT_RUN = "not run"


def cells_of(known: Mapping[str, Any], arm: str) -> list[dict[str, Any]]:
    """List an arm's measurements, one a draw; the tuning draw has none."""
    named = {key: found for key, found in known.items() if key.rpartition("/")[0] == arm and "accuracy" in found}
    return [named[key] for key in sorted(named)]


def right(cells: list[dict[str, Any]]) -> np.ndarray:
    """Put the draws below each other: [draws, problems] of 0 and 1."""
    return np.array([unpacked(cell["correct"], cell["problems"]) for cell in cells])


def mean(cells: list[dict[str, Any]], key: str) -> str:
    """Average a measure over the draws, in per cent."""
    found = [cell[key] for cell in cells if key in cell]
    return f"{100 * np.mean(found):.1f}" if found else ""


def accuracy(cells: list[dict[str, Any]]) -> str:
    """Write an accuracy with its standard error over draws and problems."""
    if not cells:
        return NOT_RUN
    values = right(cells)
    return f"{100 * values.mean():.1f} ± {100 * resampled(values).std(ddof=1):.1f}"


def gap(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> str:
    """Write a paired difference; a model that was measured once stands for all draws."""
    if not ours or not theirs or ours is theirs:
        return ""
    draws = min(len(ours), len(theirs)) if len(theirs) > 1 else len(ours)
    values = right(ours)[:draws] - right(theirs)[:draws]
    means = resampled(values)
    return f"{100 * values.mean():+.1f} ± {100 * means.std(ddof=1):.1f}, {in_words(p_value(means))}"


def table(known: Mapping[str, Any], arms: tuple[str, ...], ours: str, extra: Mapping[str, str]) -> list[str]:
    """Write one table: an arm a row."""
    heads = ["", "accuracy", f"{ours} minus this", "F1", "ROUGE-L", *extra, "draws"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    best = cells_of(known, ours)
    for arm in arms:
        cells = best if arm == ours else cells_of(known, arm)
        more = [mean(cells, key) for key in extra.values()]
        row = [
            arm,
            accuracy(cells),
            gap(best, cells),
            mean(cells, "f1"),
            mean(cells, "rouge_l"),
            *more,
            str(len(cells)),
        ]
        lines.append(f"| {' | '.join(row)} |")
    return lines


def main() -> None:
    """Write both tables into the page."""
    known = KeptResults(MADE).known
    self_table = table(known, specialise.ARMS, "self-specialised", {"rows that are true": "right", "yield": "yield"})
    meteor_table = table(known, teach.ARMS, "distilled", {})
    lines = ["### Self-Specialization", "", *self_table, "", "### METEOR", "", *meteor_table, ""]
    page = (HERE / "README.md").read_text(encoding="utf-8")
    before, after = page.partition(BEGIN)[0], page.partition(END)[2]
    write_text(HERE / "README.md", before + BEGIN + "\n" + "\n".join(lines) + END + after)


if __name__ == "__main__":
    main()
