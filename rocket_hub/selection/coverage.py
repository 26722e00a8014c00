"""The group that covers the K-shot best when each token goes to the expert that finds it likeliest: arrays only."""

from __future__ import annotations

import numpy as np

_LEAST = 1e-9  # a smaller gain is none


def covering_group(probabilities: np.ndarray, size: int) -> tuple[int, ...]:
    """Find the group of experts with the largest mean over tokens of the best expert's probability.

    That is what a router that gives each token to one expert could reach at best, untrained. The objective is
    submodular (facility location), so adding the expert that gains most comes within 1 - 1/e of the best group
    (Nemhauser et al. 1978); after that single experts are exchanged as long as that gains.

    Args:
        probabilities: Of each token under each of M experts [M, T].
        size: N; with M < N, all are taken.

    Returns:
        The rows of the group, ascending; of equal experts the first.
    """
    group: list[int] = []
    for _ in range(min(size, len(probabilities))):
        group.append(_best_addition(probabilities, group))
    value, improved = _covered(probabilities, group), True
    while improved:
        improved = False
        for place in range(len(group)):
            rest = [*group[:place], *group[place + 1 :]]
            other = [*rest, _best_addition(probabilities, rest)]
            if (found := _covered(probabilities, other)) > value + _LEAST:
                group, value, improved = other, found, True
    return tuple(sorted(group))


def _best_addition(probabilities: np.ndarray, group: list[int]) -> int:
    """Find the expert outside a group that adds most to it."""
    covered = probabilities[group].max(axis=0) if group else np.zeros(probabilities.shape[1])
    values = np.maximum(probabilities, covered).mean(axis=1)
    values[group] = -np.inf
    return int(values.argmax())


def _covered(probabilities: np.ndarray, group: list[int]) -> float:
    """Average the probability of each token under the group's best expert for it."""
    return float(probabilities[group].max(axis=0).mean())
