"""Choose settings on the K-shot by cross-fitted likelihood: no shot judges what it trained."""

import math
from collections.abc import Callable, Sequence
from itertools import product

import numpy as np

from rocket_hub.records import Example, Setting
from rocket_hub.results import Choice

FOLDS = 2
MIN_SHOTS = 10  # below this the folds say nothing, so nothing is tuned


Fit = Callable[[Setting, Sequence[Example], Sequence[Example], str], np.ndarray]


def grid(learning_rates: Sequence[float], weights: Sequence[float]) -> tuple[Setting, ...]:
    """List the points of a grid."""
    return tuple(Setting(rate, weight) for rate, weight in product(learning_rates, weights))


def choose(points: Sequence[Setting], shots: Sequence[Example], rows: Sequence[Example], fit: Fit) -> Choice:
    """Choose the point under which held-out shots are likeliest.

    Args:
        points: The grid; a single point is returned as it is, and so is the first below `MIN_SHOTS` shots.
        shots: The K-shot, in the task's form.
        rows: Selected rows; they train in every fold.
        fit: Trains at a setting on the second argument and returns the mean negative log-likelihood per token, in
            nats, of each shot of the third; the last argument is a name for the fold.

    Returns:
        The point with the lowest mean; the earlier one on a tie.
    """
    if len(points) == 1 or len(shots) < MIN_SHOTS:
        return Choice(points[0])
    scores = [held_out(number, point, shots, rows, fit) for number, point in enumerate(points)]
    means = [float(score.mean()) if np.isfinite(score).all() else math.inf for score in scores]  # it diverged
    errors = [float(score.std(ddof=1) / math.sqrt(len(shots))) for score in scores]
    return Choice(points[int(np.argmin(means))], tuple(means), tuple(errors))


def held_out(number: int, point: Setting, shots: Sequence[Example], rows: Sequence[Example], fit: Fit) -> np.ndarray:
    """Score every shot at one point of the grid, by a training that did not see it.

    Args:
        number: Position of the point, for the names of its folds.
        point: The point.
        shots: The K-shot, in the task's form.
        rows: Selected rows; they train in every fold.
        fit: As for `choose`.

    Returns:
        Mean negative log-likelihood per token of each shot, in nats, [K].
    """
    scores = np.empty(len(shots))
    for fold in range(FOLDS):
        judges = range(fold, len(shots), FOLDS)
        training = [*rows, *(shot for i, shot in enumerate(shots) if i % FOLDS != fold)]
        scores[list(judges)] = fit(point, training, [shots[i] for i in judges], f"{number}-{fold}")
    return scores
