"""Confidence intervals, paired tests and bootstrap for the selection of experts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rocket_hub.records import ExpertScore, Rejection
from rocket_hub.selection.groups import diverse_groups, mean_ranks

GROUP, ONE_EXPERT, NONE_HELPS = "group", "one_expert", "none_helps"
Z = 1.959963984540054  # two-sided 95 %
MIN_SHOTS = 10  # below this a standard error over the shots means nothing
RESAMPLES = 400  # a share of them is known to 2.5 points
_ROUNDING = 1e-9  # one shot of many: its mean is its standard error


@dataclass(frozen=True)
class Cost:
    """The cost of scoring."""

    pairs: int  # perplexities of an adapter on a shot that were computed
    possible: int  # M * K, the pairs of the exhaustive run
    allowed: int  # pairs that the budget allowed; `pairs` is more where the least schedule costs more than that
    answers: int  # answers of an adapter to a shot, generated or chosen by likelihood; only finalists answer
    tokens: int  # tokens that went through the model, the bare base's included
    seconds: float  # wall-clock seconds


@dataclass(frozen=True)
class ShotScores:
    """The scores of every adapter on every shot.

    Attributes:
        repo_ids: The M adapters that could be scored, those dropped half way included.
        nll: Summed negative log-likelihood of each completion in nats, or its counterpart with the arithmetic mean
            (see `row_nll`) [M, K]; NaN where a pair was not scored.
        tokens: Tokens of each completion [K].
        correct: 1 where the answer is right, 0 where it is wrong, -1 where none was asked for [M, K].
        rejected: Adapters that could not be scored, `unloadable` or `nan_scores`, and those dropped, `halved_out`.
        base_nll: The bare base model's `nll` [K].
        base_correct: The bare base model's `correct` [K].
        answers: Answers by adapter and shot, empty where there is none.
        cost: The cost of scoring.
    """

    repo_ids: tuple[str, ...]
    nll: np.ndarray
    tokens: np.ndarray
    correct: np.ndarray
    rejected: tuple[Rejection, ...] = ()
    base_nll: np.ndarray | None = None
    base_correct: np.ndarray | None = None
    answers: tuple[tuple[str, ...], ...] = ()
    cost: Cost | None = None

    def complete(self) -> ShotScores:
        """Keep the adapters that were scored on all shots, as only their means are comparable."""
        kept = np.flatnonzero(np.isfinite(self.nll).all(axis=1) & (self.correct >= 0).all(axis=1))
        return replace(
            self,
            repo_ids=tuple(self.repo_ids[i] for i in kept),
            nll=self.nll[kept],
            correct=self.correct[kept],
            answers=tuple(self.answers[i] for i in kept) if self.answers else (),
        )


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
    """Return whether differences over the shots [K] are above zero beyond one standard error.

    Below `MIN_SHOTS` shots the error is no guide, and any difference above zero counts.
    """
    if len(differences) < MIN_SHOTS:
        return bool(np.any(differences > 0))
    mean, error = paired(differences)
    return mean is not None and error is not None and mean > error * (1 + _ROUNDING)


def with_evidence(scores: Sequence[ExpertScore], scored: ShotScores) -> tuple[ExpertScore, ...]:
    """Add its answers shot by shot, and the interval of its accuracy, to each of the scores made from `scored`."""
    rows = {repo_id: row for row, repo_id in enumerate(scored.repo_ids)}
    return tuple(_seen(score, scored.correct[rows[score.repo_id]], len(score.nll)) for score in scores)


def base_score(scored: ShotScores, base: str) -> ExpertScore | None:
    """Make the bare base's score, without ranks. None = it was not scored."""
    if scored.base_nll is None or scored.base_correct is None:
        return None
    nll = scored.base_nll / scored.tokens
    perplexity = float(np.exp(np.minimum(nll, 700)).mean())
    accuracy = float((scored.base_correct == 1).mean())
    score = ExpertScore(base, perplexity, accuracy, 0.0, 0.0, tuple(nll.tolist()))
    return _seen(score, scored.base_correct, len(nll))


def left_behind(scored: ShotScores, after: int) -> tuple[ExpertScore, ...]:
    """Score the adapters dropped by halving on the shots that each was scored on, those that came furthest first.

    They are marked `halved_out`, rank behind the `after` adapters scored on all shots, and share one accuracy rank.
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
    """Bootstrap: repeat Algorithm 1 on resamples of the shots, and compute how often each expert is chosen [F].

    Args:
        perplexity: Reasoning perplexity of each of F experts on each shot [F, K].
        correct: Whether it is right [F, K].
        similarity: [P, P], of the first P experts; the others only take part in the ranks.
        shortlist: M.
        size: N.
        seed: Of the resamples.
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
    """Cross-fit the accuracy of the best of F experts: chosen on half of the K shots, measured on the other half.

    Its accuracy on the shots that chose it is too high. Takes [F, K] twice; none with a single shot.
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
    answered = [int(each) for each in correct if each >= 0]
    low, high = accuracy_interval(sum(answered), len(answered))
    whole = tuple(answered) if len(answered) == len(correct) else ()
    return replace(score, correct=whole, shots=shots, accuracy_low=low, accuracy_high=high)


@dataclass(frozen=True)
class Verdict:
    """The decision for the group, for one expert, or for none.

    Attributes:
        name: `group`, `one_expert` or `none_helps`.
        reason: One sentence with the numbers.
        gain: Gain of the likeliest expert of the group on each shot over the best single one, in nats a token.
        gain_error: Its standard error over the shots.
    """

    name: str
    reason: str
    gain: float | None = None
    gain_error: float | None = None


def judge(
    scores: Sequence[ExpertScore], group: Sequence[ExpertScore], best: ExpertScore, base: ExpertScore | None
) -> Verdict:
    """Decide whether the group, one expert or none of them is worth taking.

    - `none_helps`: no adapter makes the shots likelier than the bare base does, nor answers more of them, beyond one
      standard error of the difference paired over the shots.
    - `one_expert`: no other expert of the group adds to the best single one. Each shot is given to whichever expert of
      the group finds it likeliest; that gain, and likewise the answers that only others get right, is within one
      standard error of zero. The gain is chosen in hindsight, so it is an upper bound that is large for noise, too.
      Skills that one shot needs together are not seen; only the comparison after the training measures a merge.
    - `group`: anything else, and all but clear cases below `MIN_SHOTS` shots.

    Without `base` it is not compared. Whether a fresh LoRA would do as well is measured after the training.
    """
    if not best.nll or any(len(score.nll) != len(best.nll) for score in group):
        return Verdict(GROUP, "the shots were not scored one by one, so the noise is unknown")
    if base is not None and not any(improves(score, base) for score in scores):
        return Verdict(NONE_HELPS, _none_helps(scores, base))
    if len(group) < 2:
        return Verdict(GROUP, "a group of one has nothing to be compared within")
    members = [best, *(score for score in group if score is not best)]
    nll = np.array([score.nll for score in members])  # [N, K]
    gains = nll[0] - nll.min(axis=0)
    gain, error = paired(gains)
    enough = not beats(gains) and not beats(_answers_gained(members))
    name = ONE_EXPERT if enough else GROUP
    reason = _because(name, best, base, gain, error)
    if base is not None and not any(righter(score, base) for score in group):
        reason += "; no expert of the group answers more shots than the bare base does"
    return Verdict(name, reason, gain, error)


def improves(score: ExpertScore, base: ExpertScore) -> bool:
    """Return whether an adapter is better than the base in likelihood or in answers, beyond one standard error."""
    return likelier(score, base) or righter(score, base)


def likelier(score: ExpertScore, base: ExpertScore) -> bool:
    """Return whether an adapter makes the shots likelier than the base, beyond one standard error."""
    return len(score.nll) == len(base.nll) and beats(np.subtract(base.nll, score.nll))


def righter(score: ExpertScore, base: ExpertScore) -> bool:
    """Return whether an adapter answers more shots than the base, beyond one standard error."""
    return len(score.correct) == len(base.correct) and beats(np.subtract(score.correct, base.correct))


def _answers_gained(members: Sequence[ExpertScore]) -> np.ndarray:
    """Mark the shots that only others than the first answer right [K]; none where answers are missing."""
    if any(len(member.correct) != len(members[0].nll) for member in members):
        return np.zeros(len(members[0].nll))
    correct = np.array([member.correct for member in members])  # [N, K]
    return correct.max(axis=0) - correct[0]


def _because(name: str, best: ExpertScore, base: ExpertScore | None, gain: float | None, error: float | None) -> str:
    shots = len(best.nll)
    amount = f"{gain or 0:.4f}{'' if error is None else f' ± {error:.4f}'} nats a token over {best.repo_id}"
    if name == ONE_EXPERT:
        return f"one expert is enough: the likeliest of the group on each shot gains {amount}, within the noise"
    if shots < MIN_SHOTS:
        return f"{shots} shots are too few to tell whether fewer experts would do ({MIN_SHOTS} are needed)"
    said = f"the likeliest of the group on each shot gains at most {amount}"
    own = None if base is None else paired(np.subtract(base.nll, best.nll))[1]
    if own is not None and gain is not None and gain < own:
        said += f", less than the noise ({own:.4f}) of what that gains over the base: one expert may do as well"
    return said


def _none_helps(scores: Sequence[ExpertScore], base: ExpertScore) -> str:
    whole = [score for score in scores if len(score.nll) == len(base.nll)]
    if not whole:
        return "no adapter was scored on all shots"
    score = max(whole, key=lambda each: -float(np.mean(each.nll)))
    gain, error = paired(np.subtract(base.nll, score.nll))
    return (
        f"no adapter beats the bare base on {len(base.nll)} shots: the likeliest, {score.repo_id}, gains "
        f"{gain:.4f}{'' if error is None else f' ± {error:.4f}'} nats a token and answers {sum(score.correct)} right, "
        f"the base {sum(base.correct)}"
    )
