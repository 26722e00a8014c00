"""Curves of the tables whose variants are numbers: accuracy by rows, and by experts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from bootstrap import resampled
from cells import TASKS, Table

COLOURS = {  # told apart by the colour-blind
    "routed": "#0072B2", "router_only": "#56B4E9", "stack_trained": "#E69F00", "fresh_lora": "#009E73",
}  # fmt: skip
AXES = {"rows": "rows selected beside the examples", "experts": "experts in the group"}


def draw_curves(scores: Mapping[str, Mapping[str, Mapping[int, np.ndarray]]], table: Table, path: Path) -> bool:
    """Draw a panel for each task that was measured, with standard errors, as an SVG file.

    Args:
        scores: Label -> task -> draw -> one number a problem.
        table: The table that they belong to.
        path: Where to.

    Returns:
        Whether there was anything to draw.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    found: dict[str, dict[str, list[tuple[Any, float, float]]]] = defaultdict(lambda: defaultdict(list))
    for seed, task in enumerate(TASKS):
        measured = [(variant, draws) for variant in table.variants
                    if variant.at is not None and (draws := scores[variant.label][task])]  # fmt: skip
        # The draws that every point has: a line does not bend because other draws are in a point.
        shared = sorted(set.intersection(*(set(draws) for _, draws in measured))) if measured else []
        for variant, draws in measured if shared else []:
            values = np.array([draws[draw] for draw in shared])
            error = float(resampled(values, seed).std(ddof=1))
            found[task][variant.method].append((variant.at, float(values.mean()), error))
    panels = {task: lines for task, lines in found.items() if max(map(len, lines.values())) > 1}
    if not panels:
        return False
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "rocket-hub"}):
        figure = Figure(figsize=(3 * len(panels) + 1, 3), layout="constrained")
        row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (task, lines) in zip(row, panels.items(), strict=True):
            for method, points in lines.items():
                x, y, error = zip(*sorted(points), strict=True)
                axes.errorbar(x, 100 * np.array(y), 100 * np.array(error), color=COLOURS.get(method), marker="o", ms=3,
                              capsize=2, label=method)  # fmt: skip
            axes.set_title(task)
            axes.set_xlabel(AXES[table.name])
            if table.name == "rows":
                axes.set_xscale("log")
        row[0].set_ylabel("accuracy, %")
        row[-1].legend(frameon=False, fontsize="small")
        figure.savefig(path, format="svg", metadata={"Date": None})
    return True
