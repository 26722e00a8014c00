"""The table of ratios, and the bars that they are held against."""

import numpy as np

from tests.benchmarks.measuring import Ratio, ratio

COLUMNS = {"forward": "forward", "train": "forward+backward", "decode": "decode", "saved": "saved", "flops": "FLOPs"}
NAMES = {
    "base": "base",
    "lora": "plain LoRA of the total rank",
    "rocket": "ROCKET_MOE dense",
    "rocket-top2": "ROCKET_MOE top-2",
    "arrow": "PEFT Arrow",
    "xlora": "PEFT X-LoRA",
    "loop": "naive loop",
}
OURS = ("rocket", "rocket-top2")
BARS = {
    "lora": {"forward": 1.06, "train": 1.03, "decode": 1.12, "saved": 1.10},
    "arrow": {"forward": 0.80, "train": 0.72, "decode": 0.70, "saved": 0.40},
    "xlora": {"forward": 0.42, "train": 0.60, "decode": 0.15},
    "loop": {"forward": 0.82, "train": 0.87, "decode": 0.70, "saved": 0.30},
}

Costs = dict[str, dict[str, list[float | None]]]  # column -> variant -> one a round, None where it took no part
Ratios = dict[str, dict[str, dict[str, Ratio]]]


def compare(costs: Costs) -> Ratios:
    """Return our variant -> other variant -> column -> ratio."""
    return {
        ours: {
            other: {column: ratio(costs[column][ours], costs[column][other]) for column in COLUMNS}
            for other in NAMES
            if other not in OURS
        }
        for ours in OURS
    }


def table(ratios: Ratios) -> list[str]:
    """Lay out the ratios."""
    lines = [f"{'ratio':<48}" + "".join(f"{title:>20}" for title in COLUMNS.values())]
    for ours, others in ratios.items():
        for other, cells in others.items():
            label = f"{NAMES[ours]} / {NAMES[other]}"
            lines.append(f"{label:<48}" + "".join(f"{cells[column]!s:>20}" for column in COLUMNS))
    return lines


def bars(ratios: Ratios) -> list[tuple[bool, str]]:
    """Hold each ratio against its bar."""
    verdicts = []
    for ours, others in ratios.items():
        for other, limits in BARS.items():
            for column, limit in limits.items():
                found = others[other][column]
                passed = round(found.median, 2) <= limit
                note = " (the interval spans the bar)" if found.low <= limit < found.high else ""
                label = f"{NAMES[ours]} / {NAMES[other]}, {COLUMNS[column]}"
                verdicts.append((passed, f"{'pass' if passed else 'FAIL'}  {label}: {found} <= {limit}{note}"))
    return verdicts


def medians(costs: Costs) -> list[str]:
    """Lay out the costs themselves."""
    lines = [f"{'':<30}" + "".join(f"{t:>14}" for t in ("forward s", "f+b s", "decode ms", "saved MiB", "GFLOP"))]
    scales = dict(zip(COLUMNS, (1, 1, 1e3, 2**-20, 1e-9), strict=True))
    for name, label in NAMES.items():
        cells = [np.median([c for c in costs[column][name] if c]) * scale for column, scale in scales.items()]
        lines.append(f"{label:<30}" + "".join(f"{cell:>14.4g}" for cell in cells))
    return lines
