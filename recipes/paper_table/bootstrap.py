"""Hierarchical bootstrap over draws and problems."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

RESAMPLES, LEVEL = 10_000, 0.05


@lru_cache(maxsize=16)
def _shares(count: int, seed: int) -> np.ndarray:
    """Draw how often each of so many things is in each resample, as shares that sum to 1: [resamples, count]."""
    rng = np.random.default_rng([seed, count])
    return (rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES) / count).astype(np.float32)


def resampled(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return the mean of each resample.

    Draws and problems are resampled each for themselves, as every draw is measured on the same problems. Equal shapes
    and seeds get the same resamples, so differences of methods may be taken before or after.

    Args:
        values: [draws, problems]; with one column the draws alone are resampled.
        seed: Seeds the resamples.

    Returns:
        [RESAMPLES] means.
    """
    draws, problems = values.shape
    # [resamples, problems] @ [problems, draws] -> [resamples, draws]
    by_draw = _shares(problems, 2 * seed + 1) @ values.T.astype(np.float32)
    return (by_draw * _shares(draws, 2 * seed)).sum(axis=1)


def p_value(differences: np.ndarray) -> float:
    """Return the two-sided p value of "no difference" from resampled differences; never 0."""
    below = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, 2 * (below + 1) / (len(differences) + 1))


def in_words(p: float) -> str:
    """Write a p value; `n.s.` = not significant at 5 %."""
    if p >= LEVEL:
        return f"n.s. (p = {p:.2f})"
    return f"p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}"


def averaged(values: Sequence[np.ndarray]) -> tuple[float, float, np.ndarray]:
    """Average over tasks, whose problems have nothing in common: (mean, standard error, resampled means).

    Args:
        values: One [draws, problems] a task.
    """
    means = np.mean([resampled(each, seed) for seed, each in enumerate(values)], axis=0)
    return float(np.mean([each.mean() for each in values])), float(means.std(ddof=1)), means
