"""Which of the methods that were measured a user should take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rocket_hub.evaluation import paired_difference
from rocket_hub.records import Evaluation

PRODUCTS = ("base", "best_single", "best_single_trained", "fresh_lora", "stack_trained", "router_only", "routed")
"""What may be recommended; the others show what an ingredient is worth, and are not kept up to be used."""


@dataclass(frozen=True)
class Recommendation:
    """Which method to use, and why.

    Attributes:
        method: Name of the method.
        reason: One sentence with the numbers.
    """

    method: str
    reason: str


def recommend(evaluations: Sequence[Evaluation]) -> Recommendation:
    """Recommend the cheapest of the `PRODUCTS` that the best of them does not beat by more than one standard error.

    Args:
        evaluations: Measurements over the same problems, cheapest method first; at least one of a product.

    Returns:
        The recommendation; the standard error is that of the paired difference.
    """
    products = [evaluation for evaluation in evaluations if evaluation.method in PRODUCTS]
    if len(products) == 1:
        return Recommendation(products[0].method, "no control was measured beside it: run it with --controls core")
    best = max(products, key=lambda evaluation: evaluation.accuracy)
    for candidate in products:
        gap, error = paired_difference(best, candidate)
        if gap <= error:
            break
    if candidate.method == best.method:
        return Recommendation(best.method, f"it is best ({best.accuracy:.1%}) and no cheaper form comes within one "
                              "standard error of it")  # fmt: skip
    return Recommendation(
        candidate.method,
        f"the best, {best.method}, is ahead by {gap:.1%} with a standard error of {error:.1%}, and {candidate.method} "
        "is cheaper to make, to keep or to serve",
    )
