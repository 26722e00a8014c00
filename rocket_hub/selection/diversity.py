"""How alike experts are: arrays only, no model, no Hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rocket_hub.errors import InputError

Factors = Mapping[str, tuple[np.ndarray, np.ndarray]]  # module -> (A [r, in], B [out, r] with the scaling folded in)

SMALLEST_SIMILARITY = 1e-6  # stands for a mean similarity of zero or less, so that its inverse is a number


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
        inner[np.ix_(owners, owners)] += _inner_products(pairs)
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
        flat = np.stack([factors[name][side].ravel() for factors in experts], dtype=np.float64)  # [M, r * width]
        total += _cosines(flat @ flat.T)
    return total / max(len(matrices), 1)


def behaviour_similarity(correct: np.ndarray) -> np.ndarray:
    """Compute how often two experts are right or wrong together: 1 minus the share of shots where exactly one is right.

    What they answer where both are wrong is not looked at. Experts that are never right are alike: nothing was seen
    that tells them apart, and the same goes for two that share no scored shot.

    Args:
        correct: 1 = right, 0 = wrong, -1 = not scored [M, K].

    Returns:
        [M, M] float64 from 0 to 1, ones on the diagonal.
    """
    right, wrong = (np.asarray(correct) == 1).astype(np.float64), (np.asarray(correct) == 0).astype(np.float64)
    apart = right @ wrong.T + wrong @ right.T  # [M, M]
    shared = (right + wrong) @ (right + wrong).T
    return 1 - apart / np.maximum(shared, 1)


def group_diversity(similarity: np.ndarray, group: Sequence[int]) -> float:
    """Compute the diversity Ω of a group of experts (Eq. 6): the inverse of their mean pairwise similarity.

    A mean of zero or less has no useful inverse: Ω would jump from +∞ to −∞ where the experts grow most different.
    The printed Ω is therefore at most 1e6, and groups are ranked by the mean itself, ascending, which is the same
    order wherever Ω is defined. A group of one is only like itself: Ω = 1.

    Args:
        similarity: [M, M].
        group: Rows of `similarity`.

    Returns:
        Ω > 0; larger is more diverse.
    """
    upper = np.triu_indices(len(group), 1)
    pairs = similarity[np.ix_(group, group)][upper]
    return float(1 / max(pairs.mean(), SMALLEST_SIMILARITY)) if len(pairs) else 1.0


def _inner_products(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Compute ⟨B_i A_i, B_j A_j⟩ of all pairs of experts in one module: n pairs (A, B) -> [n, n] float64."""
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
