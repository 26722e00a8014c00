"""Choose experts from their scores (Algorithm 1), and report how certain the choice is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from rocket_hub.errors import InputError, NothingLeftError
from rocket_hub.options import ExpertOptions
from rocket_hub.records import ExpertScore, ExpertSelection, Rejection
from rocket_hub.selection import statistics
from rocket_hub.selection.groups import Factors, group_diversity, similarity_of
from rocket_hub.selection.selectors import NEARLY, NO_PROBES, SELECTORS, Bank, Probes, make_bank, rank_sum

# The verdicts that shrink a selector's group. `one_expert` compares whole shots, which is no evidence about skills that
# one shot needs together, by which `coverage` chooses.
FOLLOWED = {"rocket": (statistics.ONE_EXPERT, statistics.NONE_HELPS), "coverage": (statistics.NONE_HELPS,)}


def select_experts(
    scores: Sequence[ExpertScore],
    factors: Mapping[str, Factors],
    options: ExpertOptions,
    *,
    base: ExpertScore | None = None,
    seed: int = 0,
    probes: Probes = NO_PROBES,
) -> ExpertSelection:
    """Choose the group of experts that the K-shot and their diversity favour (Algorithm 1).

    The M adapters with the least RP + RA are the shortlist; of all groups of N among them the one with the least
    Σ (RP + RA) + RD is chosen. Equal rank sums are ordered by perplexity, then by repository id. All K shots choose:
    no expert was trained on them, and the training later is judged by cross-fitting. The winner's figures on the shots
    that chose it are too good, so intervals, resamples and a cross-fitted accuracy come with the choice.

    Args:
        scores: One per adapter, with its ranks; see `expert_scores` and, for the figures on noise, `with_evidence`.
        factors: repository id -> module -> (A [r, in], B [out, r] with the scaling folded in), for the shortlist at
            least.
        options: M, N, which similarity, which selector, and whether the verdict is followed.
        base: The bare base model on the same shots; needed to find out whether any adapter helps.
        seed: Seeds the resamples and the selector `random`.
        probes: What `coverage`, `lorahub` and `arrow` need from the base model.

    Returns:
        The selection. With fewer than N adapters, all of them. Where the verdict is followed, `selected` is one expert
        for `one_expert` and empty for `none_helps`; `group` stays.

    Raises:
        NothingLeftError: There are no scores.
        InputError: The selector is unknown, or the factors of a shortlisted adapter are missing or not comparable.
    """
    if not scores:
        raise NothingLeftError("no adapter could be scored on the K-shot; nothing is left to choose experts from")
    if options.selector not in SELECTORS:
        raise InputError(f"experts.selector: expected one of {', '.join(SELECTORS)}, found {options.selector!r}")
    bank = make_bank(scores, factors, options, seed=seed, probes=probes)
    group = SELECTORS[options.selector](bank)
    chosen = [score for score in bank.scores if score.repo_id in group]
    verdict = statistics.judge(bank.scores, chosen, bank.scores[0], base)
    followed = options.follow_verdict and verdict.name in FOLLOWED.get(options.selector, ())
    selected = ((bank.scores[0].repo_id,) if verdict.name == statistics.ONE_EXPERT else ()) if followed else group
    selection = ExpertSelection(
        selected=selected,
        rejected=tuple(_reject(score, bank, group) for score in bank.scores if score.repo_id not in selected),
        scores=_described(bank, group, base),
        diversity=group_diversity(similarity_of(chosen, factors, options.diversity), range(len(chosen))),
        best_single=bank.scores[0].repo_id,
        group=group,
        verdict=verdict.name,
        reason=verdict.reason,
        base=base,
        gain=verdict.gain,
        gain_error=verdict.gain_error,
        selector=options.selector,
    )
    return _with_alternatives(selection, bank) if options.selector == "rocket" else selection


def _with_alternatives(selection: ExpertSelection, bank: Bank) -> ExpertSelection:
    """Add how often each expert is chosen from other draws of the shots, and how far the runner-up is behind."""
    shortlist = bank.shortlist
    groups, totals = bank.groups()
    names = [score.repo_id for score in shortlist]
    tied = {names[i] for group in groups[totals == totals[0]] for i in group} - set(selection.group)
    runner_up = tuple(names[i] for i in groups[1]) if len(groups) > 1 else ()
    lead, error = _lead(shortlist, groups) if runner_up else (None, None)
    scores, held_out = _resampled(selection, bank)
    return replace(selection, scores=scores, runner_up=runner_up, lead=lead, lead_error=error,
                   ties=tuple(name for name in names if name in tied), held_out_accuracy=held_out)  # fmt: skip


def _lead(shortlist: Sequence[ExpertScore], groups: np.ndarray) -> tuple[float | None, float | None]:
    """Compare the mean likelihoods of the first and the second group, paired over the shots: (mean, error)."""
    if len({len(score.nll) for score in shortlist}) > 1:
        return None, None
    nll = np.array([score.nll for score in shortlist])  # [M, K]
    return statistics.paired(nll[groups[1]].mean(axis=0) - nll[groups[0]].mean(axis=0))


def _resampled(selection: ExpertSelection, bank: Bank) -> tuple[tuple[ExpertScore, ...], float | None]:
    """Add to the scores how often each adapter is chosen, and find the best one's accuracy on shots of its own."""
    left = {score.repo_id for score in bank.pool} | set(bank.copies)
    rows = [*bank.pool, *(score for score in bank.scores if score.repo_id not in left)]
    shots = len(rows[0].nll)
    if not shots or any(len(score.nll) != shots or len(score.correct) != shots for score in rows):
        return selection.scores, None
    perplexity, correct = np.exp(np.minimum([score.nll for score in rows], 700)), np.array([s.correct for s in rows])
    most, size = bank.options.shortlist, bank.options.num_experts
    shares = statistics.chosen_shares(perplexity, correct, bank.similarity, most, size, bank.seed)
    share = {score.repo_id: float(found) for score, found in zip(rows, shares, strict=True)}
    scores = tuple(replace(score, chosen_share=share.get(score.repo_id, 0.0)) for score in selection.scores)
    return scores, statistics.held_out_accuracy(perplexity, correct)


def _described(bank: Bank, group: tuple[str, ...], base: ExpertScore | None) -> tuple[ExpertScore, ...]:
    """Add marks (no better than the base, like another adapter) and the similarity with the group to each score."""
    place = {score.repo_id: row for row, score in enumerate(bank.pool)}
    inside = [place[name] for name in group if name in place]
    described = []
    for score in bank.scores:
        marks, row = list(score.marks), place.get(score.repo_id)
        if base is not None and score.nll:
            marks += [] if statistics.likelier(score, base) else ["not_likelier"]
            marks += [] if statistics.righter(score, base) else ["not_righter"]
        if score.repo_id in bank.copies:
            marks.append(f"like {bank.copies[score.repo_id]}")
        elif row and bank.options.diversity == "delta_w" and bank.similarity[row, :row].max() >= NEARLY:
            marks.append(f"like {bank.pool[int(bank.similarity[row, :row].argmax())].repo_id}")
        others = [] if row is None else [other for other in inside if other != row]
        similarity = float(bank.similarity[row, others].mean()) if others else None
        described.append(replace(score, marks=tuple(marks), similarity=similarity))
    return tuple(described)


def _reject(score: ExpertScore, bank: Bank, group: tuple[str, ...]) -> Rejection:
    detail = (
        f"rank sum {rank_sum(score):g} (perplexity {score.perplexity:.4g}: {score.rank_perplexity:g}, "
        f"accuracy {score.accuracy:.1%}: {score.rank_accuracy:g})"
    )
    if score.repo_id in group:
        return Rejection(score.repo_id, "verdict", detail)
    if score.repo_id in bank.copies and bank.options.selector in FOLLOWED:
        return Rejection(score.repo_id, "duplicate", f"{detail}; its update is that of {bank.copies[score.repo_id]}")
    if bank.options.selector != "rocket":
        return Rejection(score.repo_id, "not_selected", f"{detail}; selector {bank.options.selector}")
    inside = any(score.repo_id == other.repo_id for other in bank.shortlist)
    return Rejection(score.repo_id, "not_in_best_group" if inside else "not_in_shortlist", detail)
