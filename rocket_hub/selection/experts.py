"""The choice of experts from their scores: no model, no Hub (Algorithm 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rocket_hub.errors import InputError, NothingLeftError
from rocket_hub.options import ExpertOptions
from rocket_hub.records import ExpertScore, ExpertSelection, Rejection
from rocket_hub.selection.diversity import Factors, best_group, delta_w_similarity, group_diversity, paper_similarity

_SIMILARITIES = {"delta_w": delta_w_similarity, "paper": paper_similarity}


def select_experts(
    scores: Sequence[ExpertScore], factors: Mapping[str, Factors], options: ExpertOptions
) -> ExpertSelection:
    """Choose the group of experts that the K-shot and their diversity favour (Algorithm 1).

    The M adapters with the least RP + RA are the shortlist; of all groups of N among them the one with the least
    Σ (RP + RA) + RD is taken. Equal rank sums are told apart by perplexity, then by repository id.

    Args:
        scores: One per adapter, with its ranks; see `expert_scores`.
        factors: repository id -> module -> (A [r, in], B [out, r] with the scaling folded in), for the shortlist at
            least.
        options: M, N and which similarity.

    Returns:
        The selection. With fewer than N adapters, all of them.

    Raises:
        NothingLeftError: There are no scores.
        InputError: The factors of a shortlisted adapter are missing, or cannot be compared.
    """
    if not scores:
        raise NothingLeftError("no adapter could be scored on the K-shot; nothing is left to choose experts from")
    ordered = sorted(scores, key=lambda score: (_rank_sum(score), score.perplexity, score.repo_id))
    shortlist = ordered[: options.shortlist]
    missing = [score.repo_id for score in shortlist if score.repo_id not in factors]
    if missing:
        raise InputError(f"no weights given for {', '.join(missing)}, which the diversity of the group needs")
    similarity = _SIMILARITIES[options.diversity]([factors[score.repo_id] for score in shortlist])
    rank_sums = np.array([_rank_sum(score) for score in shortlist])
    group = best_group(rank_sums, similarity, min(options.num_experts, len(shortlist)))
    left = [score for i, score in enumerate(shortlist) if i not in group]
    return ExpertSelection(
        selected=tuple(shortlist[i].repo_id for i in group),
        rejected=(
            *(_reject(score, "not_in_best_group") for score in left),
            *(_reject(score, "not_in_shortlist") for score in ordered[options.shortlist :]),
        ),
        scores=tuple(ordered),
        diversity=group_diversity(similarity, group),
        best_single=ordered[0].repo_id,
    )


def _rank_sum(score: ExpertScore) -> float:
    """Add RP and RA."""
    return score.rank_perplexity + score.rank_accuracy


def _reject(score: ExpertScore, reason: str) -> Rejection:
    """Say why a scored adapter is not among the experts."""
    detail = (
        f"rank sum {_rank_sum(score):g} (perplexity {score.perplexity:.4g}: {score.rank_perplexity:g}, "
        f"accuracy {score.accuracy:.1%}: {score.rank_accuracy:g})"
    )
    return Rejection(score.repo_id, reason, detail)
