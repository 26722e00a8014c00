"""How the adapters did on the K-shot, as a picture."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rocket_hub.records import ExpertScore, ExpertSelection
from rocket_hub.runs import write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Z = 1.959963984540054  # two-sided 95 %
CHOSEN, OTHER, BASE = "#c2410c", "#6b7280", "#111827"


def draw_experts(selection: ExpertSelection, path: Path) -> None:
    """Draw accuracy and perplexity of every adapter with their 95 % intervals, the chosen ones marked.

    Args:
        selection: From `select_experts`.
        path: The SVG file to write; its text is text.

    Raises:
        StorageError: It cannot be written.
    """
    from matplotlib import rc_context

    written = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "rocket_hub"}):
        experts_figure(selection).savefig(written, format="svg", metadata={"Date": None})
    write_text(path, written.getvalue())


def experts_figure(selection: ExpertSelection) -> Figure:
    """Draw the figure that `draw_experts` writes."""
    from matplotlib.figure import Figure

    rows = [*selection.scores, *([selection.base] if selection.base else [])]
    figure = Figure(figsize=(9, 1.6 + 0.3 * len(rows)), layout="constrained")
    accuracy, perplexity = figure.subplots(1, 2, sharey=True)
    colours = [_colour(score, selection) for score in rows]
    answered = [math.nan if "halved_out" in score.marks else 100 * score.accuracy for score in rows]
    _dots(accuracy, answered, [(100 * score.accuracy_low, 100 * score.accuracy_high) for score in rows], colours)
    _dots(perplexity, [score.perplexity for score in rows], [_interval(score) for score in rows], colours)
    accuracy.set(xlabel="accuracy on the K-shot, %", xlim=(-2, 102))
    perplexity.set(xlabel="reasoning perplexity a token", xscale="log")
    accuracy.set_yticks(range(len(rows)), [_label(score, selection) for score in rows])
    for text in accuracy.get_yticklabels():
        text.set_parse_math(False)  # a `$` in a name is a `$`
    accuracy.invert_yaxis()
    chosen = f"{len(selection.selected)} of {len(selection.scores)} adapters chosen (filled)"
    figure.suptitle(f"{chosen}; bars: 95 %; per cent: share of resamples in which it is chosen", fontsize=10)
    return figure


def _dots(
    axes: Axes, values: Sequence[float], intervals: Sequence[tuple[float, float]], colours: Sequence[str]
) -> None:
    """Draw one dot with its interval a row."""
    for row, (value, (low, high), colour) in enumerate(zip(values, intervals, colours, strict=True)):
        if math.isfinite(value):
            axes.hlines(row, low, high, color=colour, linewidth=1.5)
            axes.plot(value, row, "o", color=colour, markerfacecolor=colour if colour == CHOSEN else "white")
    axes.grid(axis="x", alpha=0.3)


def _interval(score: ExpertScore) -> tuple[float, float]:
    """Compute the 95 % interval of a mean perplexity from its shots; without them it is the mean alone."""
    shots = [math.exp(min(each, 700)) for each in score.nll]
    if len(shots) < 2:
        return score.perplexity, score.perplexity
    mean = sum(shots) / len(shots)
    half = Z * math.sqrt(sum((each - mean) ** 2 for each in shots) / (len(shots) - 1) / len(shots))
    return max(mean - half, 1.0), mean + half


def _colour(score: ExpertScore, selection: ExpertSelection) -> str:
    """Tell chosen, other and base apart."""
    if score is selection.base:
        return BASE
    return CHOSEN if score.repo_id in selection.selected else OTHER


def _label(score: ExpertScore, selection: ExpertSelection) -> str:
    """Name a row, with how often it is chosen from resamples of the shots."""
    name = "base model" if score is selection.base else score.repo_id
    share = "" if score.chosen_share is None else f"  {score.chosen_share:.0%}"
    return name + share
