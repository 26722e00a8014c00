import io
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rocket_hub.errors import InputError
from rocket_hub.records import ExpertScore, ExpertSelection
from rocket_hub.runs import write_text

Z = 1.959963984540054  # two-sided 95 %
CHOSEN, OTHER, BASE = "#c2410c", "#6b7280", "#111827"


def draw_experts(selection: ExpertSelection, path: Path) -> None:
    """Draw accuracy and perplexity of every adapter with their 95 % intervals, the chosen ones marked, as an SVG file.

    Raises:
        StorageError: It cannot be written.
    """
    _write(experts_figure(selection), path)


def _write(figure: Figure, path: Path) -> None:
    """Write a figure as an SVG file, the same bytes for the same figure; its text is text."""
    written = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "rocket_hub"}):
        figure.savefig(written, format="svg", metadata={"Date": None})
    write_text(path, written.getvalue())


def experts_figure(selection: ExpertSelection) -> Figure:
    """Draw the figure that `draw_experts` writes."""
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


MAX_POINTS = 1500  # of the pool, and of the chosen rows: more make the file large, not the picture clearer
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")  # told apart by the colour-blind, too
_OTHERS = "#5D3A9B"


def draw_rows(
    path: Path, *, pool: np.ndarray, shots: np.ndarray, chosen: np.ndarray, sources: Sequence[str], title: str = ""
) -> None:
    """Draw rows and examples on the plane that shows most of their spread, as an SVG file.

    Args:
        path: Where to.
        pool: Vectors of a sample of all rows, [n, d]; grey.
        shots: Vectors of the K-shot, [K, d]; black stars.
        chosen: Vectors of the chosen rows, [m, d]; coloured by data set.
        sources: Data set of each chosen row.
        title: Above the picture.

    Raises:
        InputError: The vectors do not have the same width, or the chosen rows no data set each.
        StorageError: The file cannot be written.
    """
    if len({vectors.shape[1] for vectors in (pool, shots, chosen)}) > 1 or len(chosen) != len(sources):
        shapes = ", ".join(str(vectors.shape) for vectors in (pool, shots, chosen))
        raise InputError(f"pool, shots and chosen rows of shapes {shapes} with {len(sources)} data sets: no map")
    drawn, pool = _thinned(len(chosen)), pool[_thinned(len(pool))]
    points, shares = project(np.concatenate([pool, shots, chosen[drawn]]))
    first, second, third = np.split(points, [len(pool), len(pool) + len(shots)])
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.add_subplot()
    axes.scatter(first[:, 0], first[:, 1], s=6, color="#BBBBBB", linewidths=0, label="all rows (a sample)")
    _draw_chosen(axes, third, [sources[row] for row in drawn], Counter(sources))
    axes.scatter(second[:, 0], second[:, 1], s=70, marker="*", color="black", label=f"{len(shots)} examples")
    axes.set(xticks=[], yticks=[])
    axes.set_xlabel(f"first principal component ({shares[0]:.0%} of the spread)")
    axes.set_ylabel(f"second principal component ({shares[1]:.0%} of the spread)")
    axes.set_title(title, parse_math=False)
    for text in figure.legend(loc="outside right upper", frameon=False, fontsize="small").get_texts():
        text.set_parse_math(False)  # a `$` in a name is a `$`
    _write(figure, path)


def project(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Project vectors on their first two principal components.

    Args:
        vectors: [n, d], at least two of at least two numbers.

    Returns:
        Coordinates [n, 2], and the share of the spread that each of the two shows [2].
    """
    centred = vectors - vectors.mean(axis=0)
    _, sizes, directions = np.linalg.svd(centred, full_matrices=False)
    # Both ends of an axis are equal: the larger side of each direction is put on the right, so that pictures agree.
    signs = np.sign(directions[:2][np.arange(2), np.abs(directions[:2]).argmax(axis=1)])
    # [n, d] @ [d, 2] -> [n, 2]
    return centred @ (directions[:2] * signs[:, None]).T, sizes[:2] ** 2 / max(float((sizes**2).sum()), 1e-12)


def _draw_chosen(axes: Any, points: np.ndarray, sources: Sequence[str], counts: Counter[str]) -> None:
    """Draw the chosen rows, the leading data sets in a colour each, the others in one together."""
    leading = dict(counts.most_common(len(_COLOURS)))
    groups = {**leading, "other data sets": counts.total() - sum(leading.values())}
    for (source, count), colour in zip(groups.items(), [*_COLOURS[: len(leading)], _OTHERS], strict=True):
        own = np.array([(name if name in leading else "other data sets") == source for name in sources])
        if count:
            label = f"{count:,} chosen of {source}"
            axes.scatter(points[own, 0], points[own, 1], color=colour, label=label, s=14, linewidths=0, alpha=0.8)


def _thinned(count: int) -> np.ndarray:
    """Choose which of so many points are drawn, evenly."""
    return np.unique(np.linspace(0, count - 1, min(count, MAX_POINTS)).astype(int))
