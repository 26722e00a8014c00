"""Ways to choose a group of experts: the paper's, and the baselines that it is held against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rocket_hub.errors import InputError
from rocket_hub.selection.bank import Bank, Loss, rank_sum
from rocket_hub.selection.coverage import covering_group
from rocket_hub.selection.diversity import Factors
from rocket_hub.selection.groups import best_group

LORAHUB_BOUND = 1.5  # LoRAHub (Huang et al. 2023), Section 3.3: weights from -1.5 to 1.5, L1 factor 0.05
LORAHUB_L1 = 0.05
LORAHUB_STEPS = 40
_USED = 1e-3  # a smaller weight is none


def rocket(bank: Bank) -> tuple[str, ...]:
    """Choose the N of the shortlist with the least Σ (RP + RA) + RD (Algorithm 1)."""
    shortlist = bank.shortlist
    rank_sums = np.array([rank_sum(score) for score in shortlist])
    similarity = bank.similarity[: len(shortlist), : len(shortlist)]
    group = best_group(rank_sums, similarity, min(bank.options.num_experts, len(shortlist)))
    return tuple(shortlist[i].repo_id for i in group)


def coverage(bank: Bank) -> tuple[str, ...]:
    """Choose the N adapters that together find the K-shot's tokens likeliest, each token under its best one.

    Ranks of whole answers cannot tell skills apart where a task needs several of them in one answer: then no adapter
    answers anything right, and two of one skill look as good as two of different skills.
    """
    if bank.probes.tokens is None:
        raise InputError("experts.selector: 'coverage' needs the likelihoods of the K-shot's tokens; use it in a build")
    names = [score.repo_id for score in bank.pool]
    return tuple(names[i] for i in covering_group(bank.probes.tokens(names), bank.options.num_experts))


def random(bank: Bank) -> tuple[str, ...]:
    """Draw N of all adapters."""
    count = min(bank.options.num_experts, len(bank.scores))
    drawn = np.random.default_rng(bank.seed).choice(len(bank.scores), count, replace=False)
    return tuple(bank.scores[i].repo_id for i in sorted(drawn))


def best_single(bank: Bank) -> tuple[str, ...]:
    """Choose the one adapter with the least RP + RA."""
    return (bank.scores[0].repo_id,)


def every(bank: Bank) -> tuple[str, ...]:
    """Choose all adapters."""
    return tuple(score.repo_id for score in bank.scores)


def arrow(bank: Bank) -> tuple[str, ...]:
    """Choose the N adapters whose prototypes the K-shot's hidden states answer to most often, without training.

    Arrow (Ostapenko et al. 2024, Section 4.1) routes a hidden state x to the adapters with the largest |v · x|, v being
    the unit direction of input that ΔW amplifies most. Here each token of the K-shot in each adapted module, as the
    bare base computes it, votes for the first of them; an adapter that does not adapt the module gets no vote there.
    """
    if bank.probes.votes is None:
        raise InputError("experts.selector: 'arrow' needs the hidden states of the K-shot; use it in a build")
    experts = [bank.factors[score.repo_id] for score in bank.scores]
    widths = {name: a.shape[1] for factors in experts for name, (a, _) in factors.items()}
    prototypes = {name: np.zeros((len(experts), width)) for name, width in widths.items()}
    for row, factors in enumerate(experts):
        for name in factors:
            prototypes[name][row] = top_direction(factors, name)
    order = np.argsort(-bank.probes.votes(prototypes), kind="stable")[: bank.options.num_experts]
    return tuple(bank.scores[i].repo_id for i in order)


def lorahub(bank: Bank) -> tuple[str, ...]:
    """Choose the N adapters of largest weight in the sum of all that does best on the K-shot (LoRAHub).

    The paper adds up A and B apart, so that it needs equal ranks and mixes experts; here the updates ΔW, alpha
    included, are added up. An adapter of negative weight is one to subtract, so it is not chosen, unless there is no
    other.
    """
    if bank.probes.loss is None:
        raise InputError("experts.selector: 'lorahub' needs the K-shot's loss under a mixture; use it in a build")
    weights = lorahub_weights(bank.probes.loss, [score.repo_id for score in bank.scores])
    order = sorted(weights, key=lambda name: -weights[name])[: bank.options.num_experts]
    return tuple(name for name in order if weights[name] > _USED) or (order[0],)


def lorahub_weights(loss: Loss, names: Sequence[str]) -> dict[str, float]:
    """Find weights of adapters as LoRAHub does (Huang et al. 2023, Section 3.3), without gradients.

    Args:
        loss: Mean loss on the K-shot under a weighted sum of the adapters.
        names: The adapters.

    Returns:
        Their weights, where loss + 0.05 · Σ|w| is least as far as COBYLA finds it from 0 within ±1.5.
    """
    from scipy.optimize import minimize

    def named(weights: np.ndarray) -> dict[str, float]:
        return dict(zip(names, np.clip(weights, -LORAHUB_BOUND, LORAHUB_BOUND).tolist(), strict=True))

    def objective(weights: np.ndarray) -> float:
        inside = named(weights)
        return loss(inside) + LORAHUB_L1 * sum(map(abs, inside.values()))

    steps = max(LORAHUB_STEPS, 4 * len(names))  # the method's first guess at the slopes alone takes M + 1
    bounds = [(-LORAHUB_BOUND, LORAHUB_BOUND)] * len(names)
    options = {"maxiter": steps, "rhobeg": 0.5}
    return named(minimize(objective, np.zeros(len(names)), method="COBYLA", bounds=bounds, options=options).x)


SELECTORS = {"rocket": rocket, "coverage": coverage, "random": random, "best_single": best_single, "arrow": arrow,
             "lorahub": lorahub, "all": every}  # fmt: skip


def top_direction(factors: Factors, module: str) -> np.ndarray:
    """Compute the unit direction of input that ΔW = BA of a module amplifies most [in], from r × r matrices."""
    a, b = (matrix.astype(np.float64) for matrix in factors[module])
    if not a.any() or not b.any():
        return np.zeros(a.shape[1])
    q, r = np.linalg.qr(a.T)  # A = rᵀ qᵀ
    # [k, r] [r, r] -> right singular vectors in the span of q
    direction: np.ndarray = q @ np.linalg.svd(np.linalg.qr(b)[1] @ r.T)[2][0]
    return direction
