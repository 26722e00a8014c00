"""What the K-shot says of a group as a whole: a group, one expert, or none. Arrays only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rocket_hub.records import ExpertScore
from rocket_hub.selection.honesty import MIN_SHOTS, beats, paired

GROUP, ONE_EXPERT, NONE_HELPS = "group", "one_expert", "none_helps"


@dataclass(frozen=True)
class Verdict:
    """What the K-shot says.

    Attributes:
        name: `group`, `one_expert` or `none_helps`.
        reason: One sentence with the numbers.
        gain: What the likeliest expert of the group on each shot gains over the best single one, in nats a token.
        gain_error: Its standard error over the shots.
    """

    name: str
    reason: str
    gain: float | None = None
    gain_error: float | None = None


def judge(
    scores: Sequence[ExpertScore], group: Sequence[ExpertScore], best: ExpertScore, base: ExpertScore | None
) -> Verdict:
    """Say whether the group, one expert or none of them is worth taking.

    - `none_helps`: no adapter makes the shots likelier than the bare base does, nor answers more of them, beyond one
      standard error of the difference paired over the shots.
    - `one_expert`: no other expert of the group adds to the best single one. Each shot is given to whichever expert of
      the group finds it likeliest; that gain, and likewise the answers that only others get right, is within one
      standard error of zero. The gain is chosen in hindsight, so it is a bound: it is large for noise, too, and the
      verdict falls only where the others are next to never better. It says nothing of skills that one shot needs
      together; what a merge is worth only the comparison after the training tells.
    - `group`: anything else, and everything but the blatant below `MIN_SHOTS` shots.

    That a fresh LoRA would do as well cannot be known without training one: the build compares them once they are
    measured, see `recommend`.

    Args:
        scores: All adapters.
        group: The chosen group.
        best: The best single adapter.
        base: The bare base; none = it was not scored, and nothing is said about it.

    Returns:
        The verdict.
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
    """Tell whether an adapter is better than the base beyond one standard error, in likelihood or in answers."""
    return likelier(score, base) or righter(score, base)


def likelier(score: ExpertScore, base: ExpertScore) -> bool:
    """Tell whether an adapter makes the shots likelier than the base, beyond one standard error."""
    return len(score.nll) == len(base.nll) and beats(np.subtract(base.nll, score.nll))


def righter(score: ExpertScore, base: ExpertScore) -> bool:
    """Tell whether an adapter answers more shots than the base, beyond one standard error."""
    return len(score.correct) == len(base.correct) and beats(np.subtract(score.correct, base.correct))


def _answers_gained(members: Sequence[ExpertScore]) -> np.ndarray:
    """Mark the shots that only others than the first answer right [K]; nothing where answers are missing."""
    if any(len(member.correct) != len(members[0].nll) for member in members):
        return np.zeros(len(members[0].nll))
    correct = np.array([member.correct for member in members])  # [N, K]
    return correct.max(axis=0) - correct[0]


def _because(name: str, best: ExpertScore, base: ExpertScore | None, gain: float | None, error: float | None) -> str:
    """Write the reason for `group` or `one_expert`."""
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
    """Write the reason for `none_helps`."""
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
