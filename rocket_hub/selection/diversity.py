"""How alike experts and rows are, and the choice that likeness makes: arrays only, no model, no Hub."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from rocket_hub.errors import InputError

Factors = Mapping[str, tuple[np.ndarray, np.ndarray]]  # module -> (A [r, in], B [out, r] with the scaling folded in)

SMALLEST_SIMILARITY = 1e-6  # stands for a mean similarity of zero or less, so that its inverse is a number
MAX_GROUPS = 2_000_000
_BLOCK = 1024


def mean_ranks(values: np.ndarray) -> np.ndarray:
    """Rank values from 1 = smallest; equal values share the mean of their ranks.

    Args:
        values: [n].

    Returns:
        [n] float64.
    """
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

    Raises:
        InputError: Two experts have different widths in one module.
    """
    inner = np.zeros((len(experts), len(experts)))
    for module in dict.fromkeys(name for factors in experts for name in factors):
        owners = [i for i, factors in enumerate(experts) if module in factors]
        pairs = [experts[i][module] for i in owners]
        widths = {(a.shape[1], b.shape[0]) for a, b in pairs}
        if len(widths) > 1:
            raise InputError(f"{module}: experts of different widths (in, out): {sorted(widths)}; are the bases alike?")
        a = np.concatenate([a for a, _ in pairs]).astype(np.float64)  # [R, in], R = the ranks of all owners
        b = np.concatenate([b for _, b in pairs], axis=1).astype(np.float64)  # [out, R]
        products = (b.T @ b) * (a @ a.T)  # [R, R]
        starts = np.cumsum([0, *(pair[0].shape[0] for pair in pairs[:-1])])
        inner[np.ix_(owners, owners)] += np.add.reduceat(np.add.reduceat(products, starts, axis=0), starts, axis=1)
    return _cosines(inner)


def paper_similarity(experts: Sequence[Factors]) -> np.ndarray:
    """Compute the similarity of Eq. 6: the cosine of each A and of each B, averaged over all of them.

    It tells initialisation seeds apart rather than skills (equal seeds give near-equal A), and is here to reproduce
    the paper; `delta_w_similarity` is the default.

    Args:
        experts: M experts with the same modules and ranks.

    Returns:
        [M, M] float64.

    Raises:
        InputError: The experts differ in modules or ranks.
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
        flat = np.stack([factors[name][side].ravel() for factors in experts]).astype(np.float64)  # [M, r * width]
        total += _cosines(flat @ flat.T)
    return total / max(len(matrices), 1)


def group_diversity(similarity: np.ndarray, group: Sequence[int]) -> float:
    """Compute the diversity Ω of a group of experts (Eq. 6): the inverse of their mean pairwise similarity.

    A mean of zero or less has no useful inverse: Ω would jump from +∞ to −∞ where the experts grow most different.
    The printed Ω is therefore at most 1e6, and `best_group` ranks by the mean itself, ascending, which is the same
    order wherever Ω is defined. A group of one is only like itself: Ω = 1.

    Args:
        similarity: [M, M].
        group: Rows of `similarity`.

    Returns:
        Ω > 0; larger is more diverse.
    """
    means = _mean_similarities(similarity, np.asarray([group]))
    return float(1 / max(means[0], SMALLEST_SIMILARITY))


def best_group(rank_sums: np.ndarray, similarity: np.ndarray, size: int) -> tuple[int, ...]:
    """Choose the group of experts (Algorithm 1): the least Σ (RP + RA) + RD over all groups.

    RD ranks all C(M, N) groups by diversity, 1 = most diverse; equal ones share the mean rank. Where totals are equal
    the group with the lower Σ (RP + RA) wins, then the one that comes first.

    Args:
        rank_sums: RP + RA of each of M experts [M], best first if the last tie rule is to mean anything.
        similarity: [M, M].
        size: N, at least 1 and at most M.

    Returns:
        The N chosen rows, ascending.

    Raises:
        InputError: There are more than two million groups.
    """
    count = math.comb(len(rank_sums), size)
    if count > MAX_GROUPS:
        raise InputError(
            f"{count:,} groups of {size} among {len(rank_sums)} experts; at most {MAX_GROUPS:,} are compared: "
            "make experts.shortlist or experts.num_experts smaller"
        )
    combinations = itertools.combinations(range(len(rank_sums)), size)
    flat = np.fromiter(itertools.chain.from_iterable(combinations), dtype=np.intp, count=count * size)
    groups = flat.reshape(count, size)
    sums = np.asarray(rank_sums, dtype=np.float64)[groups].sum(axis=1)
    # Rounded, so that the order in which equal numbers were summed does not rank them.
    totals = sums + mean_ranks(_mean_similarities(similarity, groups).round(12))
    best = np.lexsort((sums, totals))[0]
    return tuple(int(i) for i in groups[best])


def keep_distinct(
    embeddings: np.ndarray, threshold: float, limit: int | None = None
) -> tuple[list[int], dict[int, int]]:
    """Drop near-duplicates, keeping the row of higher priority (the last step of Algorithm 2).

    A row is dropped when its cosine with a kept row before it is above the threshold; a row that was itself dropped
    drops no other.

    Args:
        embeddings: [n, d], rows of length 1, highest priority first.
        threshold: τ. At 1 nothing is dropped, not even equal rows, as in the paper.
        limit: Stop once so many rows are kept; None = look at all.

    Returns:
        (kept rows ascending, dropped row -> the first kept row that it is a near-duplicate of).
    """
    kept: list[int] = []
    dropped: dict[int, int] = {}
    for start in range(0, len(embeddings), _BLOCK):
        block = embeddings[start : start + _BLOCK]
        partners = np.full(len(block), -1)  # the kept row that each is a near-duplicate of, -1 = none
        if kept:
            above = _above(block, embeddings[kept], threshold)  # [block, kept so far]
            partners = np.where(above.any(axis=1), np.asarray(kept)[above.argmax(axis=1)], -1)
        within = _above(block, block, threshold)  # [block, block]
        for i in range(len(block)):
            if len(kept) == limit:
                return kept, dropped
            if partners[i] >= 0:
                dropped[start + i] = int(partners[i])
            else:
                kept.append(start + i)
                partners[within[i] & (partners < 0)] = start + i
    return kept, dropped


def _above(rows: np.ndarray, others: np.ndarray, threshold: float) -> np.ndarray:
    """Tell which cosines are above the threshold; rounding makes some of equal rows 1.0000001."""
    return np.minimum(rows @ others.T, 1.0) > threshold


def _mean_similarities(similarity: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Average the pairwise similarity within each group: [groups, N] -> [groups]."""
    pairs = list(itertools.combinations(range(groups.shape[1]), 2))
    if not pairs:
        return np.ones(len(groups))
    return sum(similarity[groups[:, i], groups[:, j]] for i, j in pairs) / np.float64(len(pairs))


def _cosines(inner: np.ndarray) -> np.ndarray:
    """Turn inner products [M, M] into cosines; a row of length zero has 0 with the others and 1 with itself."""
    lengths = np.sqrt(np.diag(inner))
    outer = np.outer(lengths, lengths)
    cosines = np.divide(inner, outer, out=np.zeros_like(inner), where=outer > 0)
    np.fill_diagonal(cosines, 1.0)
    return cosines
