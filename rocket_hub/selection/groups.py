"""The best group of experts out of all groups of a size, exactly: arrays only, no model, no Hub."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rocket_hub.errors import InputError
from rocket_hub.selection.diversity import mean_ranks

MAX_VISITS = 500_000  # branches looked at: about half a minute
MAX_TIED = 2_000_000
_DIGITS = 12  # values are rounded, so that the order in which equal numbers were summed does not tell them apart
_ROOM = 4096
_SMALLER = "make experts.shortlist or experts.num_experts smaller"


class _Best:
    """The groups of least value among all that were offered: `count` of them, and all that tie with the last one."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.limit = math.inf
        self.visits = 0
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []
        self._held, self._allowed = 0, 4 * count + _ROOM

    def offer(self, values: np.ndarray, groups: np.ndarray) -> None:
        """Take groups [n, N] in, with their values [n]."""
        self._parts.append((values.round(_DIGITS), groups))
        self._held += len(values)
        if self._held > self._allowed:
            self._allowed = 2 * len(self.cut()[0]) + 4 * self.count + _ROOM

    def cut(self) -> tuple[np.ndarray, np.ndarray]:
        """Let go of what cannot be among the best any more; returns the rest, groups [n, N] and values [n]."""
        values, groups = (np.concatenate(parts) for parts in zip(*self._parts, strict=True))
        if len(values) > self.count:
            self.limit = float(np.partition(values, self.count - 1)[self.count - 1])
            values, groups = values[values <= self.limit], groups[values <= self.limit]
        self._parts, self._held = [(values, groups)], len(values)
        if self._held > MAX_TIED:
            raise InputError(f"more than {MAX_TIED:,} groups of experts are equally diverse: {_SMALLER}")
        return groups, values


def lowest_groups(linear: np.ndarray, pair: np.ndarray, size: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the groups of least Σ linear + Σ pair, exactly, by branch and bound.

    A group grows expert by expert; a branch is left as soon as its bound is above what `count` groups already reach.
    Each further expert costs at least its own terms, its pairs with the group so far, and half of its cheapest pairs
    with others. The last two experts of a group are found together, as the small entries of one [M, M] matrix.

    Args:
        linear: What each of M experts costs [M].
        pair: What each pair of experts costs, once per pair, symmetric [M, M]; the diagonal is not looked at.
        size: N, from 1 to M.
        count: How many groups; all that tie with the last one come too.

    Returns:
        (groups [n, N], each ascending, the least first and equal ones in the order of their experts; values [n],
        rounded to 12 digits).

    Raises:
        InputError: The bounds leave too many groups to look at.
    """
    linear = np.asarray(linear, dtype=np.float64)
    best = _Best(count)
    if size == 1:
        best.offer(linear, np.arange(len(linear))[:, None])
    else:
        off_diagonal = np.where(np.eye(len(linear), dtype=bool), np.inf, pair)
        cheapest = np.sort(off_diagonal, axis=1)[:, : size - 1].cumsum(axis=1) / 2  # [M, N - 1]
        _visit(best, np.arange(len(linear)), linear, pair, cheapest, [], 0.0, size)
    groups, values = best.cut()
    groups = np.sort(groups, axis=1)
    order = np.lexsort((*groups.T[::-1], values))
    return groups[order], values[order]


def _visit(
    best: _Best,
    left: np.ndarray,
    costs: np.ndarray,
    pair: np.ndarray,
    cheapest: np.ndarray,
    group: list[int],
    value: float,
    missing: int,
) -> None:
    """Complete a group in all ways that can be among the best.

    Args:
        best: The best so far.
        left: Experts that may still be added.
        costs: What adding each of M experts to the group costs: its own terms and its pairs with the group [M].
        pair: [M, M].
        cheapest: Half of the cheapest 1, 2, ... pairs of each expert [M, N - 1].
        group: Its experts so far.
        value: What the group costs so far.
        missing: How many experts it lacks, at least 2.
    """
    best.visits += 1
    if best.visits > MAX_VISITS:
        size = len(group) + missing
        raise InputError(f"too many groups of {size} among {len(costs)} experts to find the best one: {_SMALLER}")
    bounds = costs[left] + cheapest[left, missing - 2]
    if missing == 2:
        left = left[bounds + bounds.min() <= best.limit - value + 10.0**-_DIGITS]
        _complete(best, left, costs, pair, group, value)
        return
    order = np.argsort(bounds, kind="stable")
    left, sums = left[order], np.concatenate([[0.0], bounds[order].cumsum()])
    for first in range(len(left) - missing + 1):
        if value + sums[first + missing] - sums[first] > best.limit + 10.0**-_DIGITS:
            return
        expert = int(left[first])
        _visit(best, left[first + 1 :], costs + pair[expert], pair, cheapest, [*group, expert],
               value + float(costs[expert]), missing - 1)  # fmt: skip


def _complete(
    best: _Best, left: np.ndarray, costs: np.ndarray, pair: np.ndarray, group: list[int], value: float
) -> None:
    """Offer the group with each pair of the experts that are left, as far as it can be among the best."""
    values = pair[np.ix_(left, left)] + costs[left] + (value + costs[left])[:, None]  # [left, left]
    one, other = np.nonzero(np.triu(values <= best.limit + 10.0**-_DIGITS, 1))
    if len(one):
        prefix = np.broadcast_to(np.array(group, dtype=np.intp), (len(one), len(group)))
        best.offer(values[one, other], np.column_stack([prefix, left[one], left[other]]))


def most_diverse_group(
    similarity: np.ndarray, size: int, *, costs: Sequence[float] | np.ndarray | None = None, weight: float = 1.0
) -> tuple[int, ...]:
    """Find the group of least mean similarity, or of least Σ costs + weight · mean similarity, exactly.

    Unlike the ranks of Algorithm 1 this sees how much more diverse one group is than another.

    Args:
        similarity: [M, M].
        size: N, from 1 to M.
        costs: What choosing each expert costs [M]; none = nothing.
        weight: What a mean similarity of 1 costs.

    Returns:
        The N chosen rows, ascending; of equal groups the first.

    Raises:
        InputError: See `lowest_groups`.
    """
    linear = np.zeros(len(similarity)) if costs is None else np.asarray(costs, dtype=np.float64)
    groups, _ = lowest_groups(linear, weight * similarity / max(math.comb(size, 2), 1), size, 1)
    return tuple(int(i) for i in groups[0])


def diverse_groups(similarity: np.ndarray, size: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """List the most diverse groups with their ranks RD among all C(M, N) groups (Algorithm 1).

    Args:
        similarity: [M, M].
        size: N.
        count: How many groups; all that tie with the last one come too.

    Returns:
        (groups [n, N], most diverse first; RD [n], 1 = most diverse, equal ones share the mean rank).

    Raises:
        InputError: See `lowest_groups`.
    """
    pair = similarity / max(math.comb(size, 2), 1)
    groups, means = lowest_groups(np.zeros(len(similarity)), pair, size, count)
    return groups, mean_ranks(means)


def ranked_groups(rank_sums: np.ndarray, similarity: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Order groups of experts by Algorithm 1: the least Σ (RP + RA) + RD first.

    RD ranks all C(M, N) groups by diversity, 1 = most diverse; equal ones share the mean rank. But one step down costs
    1, so a group far down cannot win whatever its experts' ranks are, and is never looked at. Where totals are equal
    the group with the lower Σ (RP + RA) comes first, then the one whose experts do.

    Args:
        rank_sums: RP + RA of each of M experts [M], best first if the last tie rule is to mean anything.
        similarity: [M, M].
        size: N, at least 1 and at most M.

    Returns:
        (groups [n, N], totals [n]); the first two, and all that tie with the first, are those of all C(M, N) groups.

    Raises:
        InputError: See `lowest_groups`.
    """
    rank_sums = np.asarray(rank_sums, dtype=np.float64)
    least, every, count = np.sort(rank_sums)[:size].sum(), math.comb(len(rank_sums), size), 256
    while True:
        groups, ranks = diverse_groups(similarity, size, count)
        sums = rank_sums[groups].sum(axis=1)
        totals = sums + ranks
        order = np.lexsort((*groups.T[::-1], sums, totals))
        # All groups that are not listed have at least the rank after the last one that is.
        if len(groups) == every or totals[order[1]] < least + len(groups) + 1:
            return groups[order], totals[order]
        count *= 4


def best_group(rank_sums: np.ndarray, similarity: np.ndarray, size: int) -> tuple[int, ...]:
    """Choose the group of experts (Algorithm 1); see `ranked_groups`.

    Args:
        rank_sums: RP + RA of each of M experts [M].
        similarity: [M, M].
        size: N, at least 1 and at most M.

    Returns:
        The N chosen rows, ascending.

    Raises:
        InputError: See `lowest_groups`.
    """
    groups, _ = ranked_groups(rank_sums, similarity, size)
    return tuple(int(i) for i in groups[0])
