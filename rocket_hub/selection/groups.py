"""Similarity of experts, diversity of a group, and an exact search for the best group (Algorithm 1, Eq. 6)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from rocket_hub.errors import InputError
from rocket_hub.records import ExpertScore

Factors = Mapping[str, tuple[np.ndarray, np.ndarray]]  # module -> (A [r, in], B [out, r] with the scaling folded in)

SMALLEST_SIMILARITY = 1e-6  # stands for a mean similarity of zero or less, so that its inverse is a number
MAX_VISITS = 500_000  # branches of the search: about half a minute
MAX_TIED = 2_000_000
_DIGITS = 12  # values are rounded, so that the order in which equal numbers were summed does not tell them apart
_ROOM = 4096
_SMALLER = "make experts.shortlist or experts.num_experts smaller"


def mean_ranks(values: np.ndarray) -> np.ndarray:
    """Rank values [n] from 1 = smallest; equal values share the mean of their ranks. Returns [n] float64."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def delta_w_similarity(experts: Sequence[Factors]) -> np.ndarray:
    """Compute the cosine between the updates ΔW = BA of all pairs of experts, over all modules at once.

    ⟨B_i A_i, B_j A_j⟩ = Σ (B_iᵀ B_j) ∘ (A_i A_jᵀ) needs r × r products only. Unlike Eq. 6 it does not change when
    A and B are replaced by R A and B R⁻¹, which are the same update, and it compares any ranks and targets.

    Args:
        experts: M experts; a module that one of them lacks counts as an update of zero.

    Returns:
        [M, M] float64, ones on the diagonal; an expert without any update has 0 with all others.
    """
    inner = np.zeros((len(experts), len(experts)))
    for module in dict.fromkeys(name for factors in experts for name in factors):
        owners = [i for i, factors in enumerate(experts) if module in factors]
        pairs = [experts[i][module] for i in owners]
        widths = {(a.shape[1], b.shape[0]) for a, b in pairs}
        if len(widths) > 1:
            raise InputError(f"{module}: experts of different widths (in, out): {sorted(widths)}; are the bases alike?")
        inner[np.ix_(owners, owners)] += _inner_products(pairs)
    return _cosines(inner)


def paper_similarity(experts: Sequence[Factors]) -> np.ndarray:
    """Compute the similarity of Eq. 6 [M, M]: the cosine of each A and of each B, averaged over all of them.

    It separates initialisation seeds rather than skills (equal seeds give near-equal A) and serves to reproduce the
    paper; `delta_w_similarity` is the default.
    """
    shapes = [{name: (a.shape, b.shape) for name, (a, b) in factors.items()} for factors in experts]
    if any(shape != shapes[0] for shape in shapes):
        raise InputError(
            "experts.diversity: 'paper' (Eq. 6) compares matrix by matrix, but these experts differ in target modules "
            "or ranks; use 'delta_w', which compares any"
        )
    total = np.zeros((len(experts), len(experts)))
    matrices = [(name, side) for name in shapes[0] for side in (0, 1)] if experts else []
    for name, side in matrices:
        flat = np.stack([factors[name][side].ravel() for factors in experts], dtype=np.float64)  # [M, r * width]
        total += _cosines(flat @ flat.T)
    return total / max(len(matrices), 1)


def behaviour_similarity(correct: np.ndarray) -> np.ndarray:
    """Compute how often two experts are right or wrong together [M, M]: 1 - the share of shots only one gets right.

    Wrong answers are not compared with each other. Experts that are never right, and two that share no scored shot,
    count as alike.

    Args:
        correct: 1 = right, 0 = wrong, -1 = not scored [M, K].
    """
    right, wrong = (np.asarray(correct) == 1).astype(np.float64), (np.asarray(correct) == 0).astype(np.float64)
    apart = right @ wrong.T + wrong @ right.T  # [M, M]
    shared = (right + wrong) @ (right + wrong).T
    return 1 - apart / np.maximum(shared, 1)


def similarity_of(scores: Sequence[ExpertScore], factors: Mapping[str, Factors], diversity: str) -> np.ndarray:
    """Compute the similarity of adapters [n, n], see `ExpertOptions.diversity`; InputError if they have none."""
    if diversity == "behaviour":
        if len({len(score.correct) for score in scores}) > 1 or any(not score.correct for score in scores):
            raise InputError(
                "experts.diversity: 'behaviour' compares answers shot by shot, and not every adapter has answered all "
                "of them; use 'delta_w', which compares the weights"
            )
        return behaviour_similarity(np.array([score.correct for score in scores]))
    chosen = [factors[score.repo_id] for score in scores]
    return paper_similarity(chosen) if diversity == "paper" else delta_w_similarity(chosen)


def group_diversity(similarity: np.ndarray, group: Sequence[int]) -> float:
    """Compute the diversity Ω of some rows of `similarity` [M, M] (Eq. 6): one over their mean pairwise similarity.

    Where the mean is zero or less Ω would jump from +∞ to −∞, so it is at most 1e6, and groups are ranked by the mean
    itself, ascending, which is the same order wherever Ω is defined. A group of one has Ω = 1.
    """
    upper = np.triu_indices(len(group), 1)
    pairs = similarity[np.ix_(group, group)][upper]
    return float(1 / max(pairs.mean(), SMALLEST_SIMILARITY)) if len(pairs) else 1.0


def _inner_products(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Compute ⟨B_i A_i, B_j A_j⟩ of all experts in one module: n pairs (A, B) -> [n, n] float64."""
    ranks = [len(a) for a, _ in pairs]
    width_in, width_out = pairs[0][0].shape[1], pairs[0][1].shape[0]
    if (len(pairs) ** 2 + sum(ranks)) * width_in * width_out < sum(ranks) ** 2 * (width_in + width_out):
        # Many experts of a narrow module: their updates themselves are the smaller matrices.
        flat = np.stack([(b.astype(np.float64) @ a).ravel() for a, b in pairs])  # [n, out * in]
        return flat @ flat.T
    a = np.concatenate([a for a, _ in pairs]).astype(np.float64)  # [R, in], R = the ranks of all
    b = np.concatenate([b for _, b in pairs], axis=1).astype(np.float64)  # [out, R]
    products = (b.T @ b) * (a @ a.T)  # [R, R]
    starts = np.cumsum([0, *ranks[:-1]])
    return np.add.reduceat(np.add.reduceat(products, starts, axis=0), starts, axis=1)


def _cosines(inner: np.ndarray) -> np.ndarray:
    """Turn inner products [M, M] into cosines; a row of length zero has 0 with the others and 1 with itself."""
    lengths = np.sqrt(np.diag(inner))
    outer = np.outer(lengths, lengths)
    cosines = np.divide(inner, outer, out=np.zeros_like(inner), where=outer > 0)
    np.fill_diagonal(cosines, 1.0)
    return cosines


class _Best:
    """The `count` groups of least value among all that were offered, and all that tie with the last one."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.limit = math.inf
        self.visits = 0
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []
        self._held, self._allowed = 0, 4 * count + _ROOM

    def offer(self, values: np.ndarray, groups: np.ndarray) -> None:
        """Add groups [n, N] with their values [n]."""
        self._parts.append((values.round(_DIGITS), groups))
        self._held += len(values)
        if self._held > self._allowed:
            self._allowed = 2 * len(self.cut()[0]) + 4 * self.count + _ROOM

    def cut(self) -> tuple[np.ndarray, np.ndarray]:
        """Drop groups that cannot be among the best; returns the others [n, N] and their values [n]."""
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
        linear: Cost of each of M experts [M].
        pair: Cost of each pair of experts, symmetric [M, M]; the diagonal is not used.
        size: N, from 1 to M.
        count: How many groups; all that tie with the last one come too.

    Returns:
        (groups [n, N], each ascending, the least first and equal ones in the order of their experts; values [n],
        rounded to 12 digits).
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
    """Complete a group of this value, which lacks at least two experts, in all ways that can be among the best.

    `costs` are those of adding each of M experts to the group: its own terms and its pairs with the group [M];
    `cheapest` are half of the cheapest 1, 2, ... pairs of each expert [M, N - 1].
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
    """Offer the group with each pair of the experts left, as far as it can be among the best."""
    values = pair[np.ix_(left, left)] + costs[left] + (value + costs[left])[:, None]  # [left, left]
    one, other = np.nonzero(np.triu(values <= best.limit + 10.0**-_DIGITS, 1))
    if len(one):
        prefix = np.broadcast_to(np.array(group, dtype=np.intp), (len(one), len(group)))
        best.offer(values[one, other], np.column_stack([prefix, left[one], left[other]]))


def diverse_groups(similarity: np.ndarray, size: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """List the most diverse groups [n, N], and their ranks RD [n] among all C(M, N) groups (Algorithm 1).

    1 = most diverse, equal ones share the mean rank; see `lowest_groups` for `count` and errors.
    """
    pair = similarity / max(math.comb(size, 2), 1)
    groups, means = lowest_groups(np.zeros(len(similarity)), pair, size, count)
    return groups, mean_ranks(means)


def ranked_groups(rank_sums: np.ndarray, similarity: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Order groups of experts by Algorithm 1: the least Σ (RP + RA) + RD first; see `lowest_groups` for errors.

    RD ranks all C(M, N) groups by diversity, 1 = most diverse; equal ones share the mean rank. But one step down costs
    1, so a group far down cannot win whatever its experts' ranks are, and is never looked at. Where totals are equal
    the group with the lower Σ (RP + RA) comes first, then the one whose experts do.

    Args:
        rank_sums: RP + RA of each of M experts [M], best first if the last tie rule is to mean anything.
        similarity: [M, M].
        size: N, from 1 to M.

    Returns:
        (groups [n, N], totals [n]); the first two, and all that tie with the first, are those of all C(M, N) groups.
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
