"""How far K shots bear a choice out: intervals, paired differences, resampling. Arrays only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rocket_hub.records import ExpertScore
from rocket_hub.selection.diversity import mean_ranks
from rocket_hub.selection.groups import diverse_groups
from rocket_hub.selection.shot_scores import ShotScores

Z = 1.959963984540054  # two-sided 95 %
MIN_SHOTS = 10  # below this a standard error over the shots says nothing
_ROUNDING = 1e-9  # one shot of many: its mean is its standard error
RESAMPLES = 400  # a share of them is known to 2.5 points


def accuracy_interval(right: int, shots: int) -> tuple[float, float]:
    """Compute Wilson's 95 % interval of a share; it stays inside 0 to 1, and without a shot it is all of that."""
    if not shots:
        return 0.0, 1.0
    share, spread = right / shots, Z * Z / shots
    centre = (share + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * math.sqrt(share * (1 - share) / shots + spread / (4 * shots))
    return max(0.0, centre - half), min(1.0, centre + half)


def paired(differences: np.ndarray) -> tuple[float | None, float | None]:
    """Compute mean and standard error of differences over the shots [K]; none = too few shots for it."""
    mean = float(np.mean(differences)) if len(differences) else None
    error = float(np.std(differences, ddof=1) / math.sqrt(len(differences))) if len(differences) > 1 else None
    return mean, error


def beats(differences: np.ndarray) -> bool:
    """Tell whether differences over the shots [K] are above zero beyond one standard error.

    Below `MIN_SHOTS` shots the error is no guide, so only differences that are never above zero count as nothing.
    """
    if len(differences) < MIN_SHOTS:
        return bool(np.any(differences > 0))
    mean, error = paired(differences)
    return mean is not None and error is not None and mean > error * (1 + _ROUNDING)


def with_evidence(scores: Sequence[ExpertScore], scored: ShotScores) -> tuple[ExpertScore, ...]:
    """Add to each adapter's score what it did on every shot, and the interval of its accuracy.

    Args:
        scores: From `expert_scores`.
        scored: What it was computed from.

    Returns:
        The scores, in the same order.
    """
    rows = {repo_id: row for row, repo_id in enumerate(scored.repo_ids)}
    return tuple(_seen(score, scored.correct[rows[score.repo_id]], len(score.nll)) for score in scores)


def base_score(scored: ShotScores, base: str) -> ExpertScore | None:
    """Put the bare base's figures into the form of an adapter's; it has no ranks. None = it was not scored."""
    if scored.base_nll is None or scored.base_correct is None:
        return None
    nll = scored.base_nll / scored.tokens
    perplexity = float(np.exp(np.minimum(nll, 700)).mean())
    accuracy = float((scored.base_correct == 1).mean())
    score = ExpertScore(base, perplexity, accuracy, 0.0, 0.0, tuple(nll.tolist()))
    return _seen(score, scored.base_correct, len(nll))


def left_behind(scored: ShotScores, after: int) -> tuple[ExpertScore, ...]:
    """List the adapters that were not scored on all shots, those that came further first.

    Args:
        scored: From `score_adapters`.
        after: How many were; the others rank behind them.

    Returns:
        Scores over the shots that each was scored on, marked `halved_out`; they share no accuracy, as none was asked.
    """
    complete = set(scored.complete().repo_ids)
    means = {}
    for row, repo_id in enumerate(scored.repo_ids):
        if repo_id not in complete:
            seen = np.isfinite(scored.nll[row])
            nll = scored.nll[row, seen] / scored.tokens[seen]
            means[repo_id] = int(seen.sum()), float(np.exp(np.minimum(nll, 700)).mean()) if seen.any() else math.inf
    order = sorted(means, key=lambda repo_id: (-means[repo_id][0], means[repo_id][1], repo_id))
    shared = after + (len(order) + 1) / 2
    return tuple(
        ExpertScore(name, means[name][1], 0.0, float(after + place), shared, shots=means[name][0],
                    marks=("halved_out",))
        for place, name in enumerate(order, 1)
    )  # fmt: skip


def chosen_shares(
    perplexity: np.ndarray, correct: np.ndarray, similarity: np.ndarray, shortlist: int, size: int, seed: int = 0
) -> np.ndarray:
    """Choose again on resamples of the shots (bootstrap) and count how often each expert is chosen by Algorithm 1.

    Args:
        perplexity: Reasoning perplexity of each of F experts on each shot [F, K].
        correct: Whether it is right [F, K].
        similarity: [P, P], of the first P experts; the others only take part in the ranks.
        shortlist: M.
        size: N.
        seed: Seeds the resamples.

    Returns:
        [F], from 0 to 1.
    """
    rng = np.random.default_rng(seed)
    counts, shots = np.zeros(len(perplexity)), perplexity.shape[1]
    size = min(size, shortlist, len(similarity))
    enough = 2 * size * 2 * len(perplexity) + 4  # ranks cannot outweigh more steps of RD; see `ranked_groups`
    known: dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]] = {}
    for _ in range(RESAMPLES):
        drawn = rng.integers(shots, size=shots)
        means = perplexity[:, drawn].mean(axis=1)
        sums = mean_ranks(means) + mean_ranks(-correct[:, drawn].mean(axis=1))
        best = np.lexsort((means[: len(similarity)], sums[: len(similarity)]))[:shortlist]
        key = tuple(sorted(best.tolist()))
        if key not in known:
            known[key] = diverse_groups(similarity[np.ix_(key, key)], size, enough)
        groups = np.array(key)[known[key][0]]  # [n, N]
        costs = sums[groups].sum(axis=1)
        counts[groups[np.lexsort((costs, costs + known[key][1]))[0]]] += 1
    return counts / RESAMPLES


def held_out_accuracy(perplexity: np.ndarray, correct: np.ndarray) -> float | None:
    """Measure the best single expert on shots that had no say in choosing it: chosen on one half, tried on the other.

    What is best of many on some shots is partly lucky on them, so its accuracy there is too high.

    Args:
        perplexity: [F, K].
        correct: [F, K].

    Returns:
        Share of right answers over both halves; none with a single shot.
    """
    shots = np.arange(perplexity.shape[1])
    if len(shots) < 2:
        return None
    right = 0
    for half in (0, 1):
        seen, unseen = shots[shots % 2 != half], shots[shots % 2 == half]
        means = perplexity[:, seen].mean(axis=1)
        sums = mean_ranks(means) + mean_ranks(-correct[:, seen].mean(axis=1))
        right += int(correct[np.lexsort((means, sums))[0], unseen].sum())
    return right / len(shots)


def _seen(score: ExpertScore, correct: np.ndarray, shots: int) -> ExpertScore:
    """Add answers and interval to a score."""
    answered = [int(each) for each in correct if each >= 0]
    low, high = accuracy_interval(sum(answered), len(answered))
    whole = tuple(answered) if len(answered) == len(correct) else ()
    return replace(score, correct=whole, shots=shots, accuracy_low=low, accuracy_high=high)
