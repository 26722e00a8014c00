"""Score adapters on the K-shot: reasoning perplexity and exact match (Eq. 1-5), within a budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from rocket_hub.errors import InputError
from rocket_hub.inference.generation import decoding
from rocket_hub.inference.tokens import Progress, evaluating
from rocket_hub.lora.attach import Pair, misfit, swapping
from rocket_hub.options import Budget, ExpertOptions
from rocket_hub.recipe import read_budget
from rocket_hub.records import Example, ExpertScore, Rejection
from rocket_hub.selection.groups import mean_ranks
from rocket_hub.selection.halving import Halved, Race, pairs_of, pairs_within, race, schedule, spread
from rocket_hub.selection.shots import Answer, Choices, Meter, Shots, share, tokenised
from rocket_hub.selection.statistics import Cost, ShotScores

_LARGEST_EXPONENT = 700.0  # e^700 is still a number in float64
T = TypeVar("T")


def exact_match(predictions: Sequence[str], answers: Sequence[str]) -> np.ndarray:
    """Compare n predicted and right answers (the indicator of Eq. 5) [n]; an empty prediction is never right.

    Raises:
        InputError: The two have different lengths.
    """
    if len(predictions) != len(answers):
        raise InputError(f"{len(predictions)} predictions for {len(answers)} answers; give one a question")
    return np.array([bool(p) and p == a for p, a in zip(predictions, answers, strict=True)], dtype=bool)


def reasoning_perplexity(nll_sums: np.ndarray, token_counts: np.ndarray) -> np.ndarray:
    """Compute the reasoning perplexity of each shot, exp(mean NLL per token of rationale and answer), at most e^700.

    Eq. 2 prints no mean, but the values of the paper's Fig. 4 are per-token means. It is the inverse of the geometric
    mean of the tokens' probabilities, or of their arithmetic mean where the sums are of that; see `row_nll`.

    Args:
        nll_sums: Summed NLL in nats [..., K].
        token_counts: Completion tokens, broadcast to the same shape, at least 1.
    """
    return np.exp(np.minimum(np.asarray(nll_sums, dtype=np.float64) / token_counts, _LARGEST_EXPONENT))


def losses(nll_sums: np.ndarray, token_counts: np.ndarray, signal: str) -> np.ndarray:
    """Turn likelihoods into the losses [..., K] that halving ranks by; NaN where the likelihood is no number.

    Args:
        nll_sums: Summed NLL in nats [..., K].
        token_counts: Completion tokens, broadcast to the same shape, at least 1.
        signal: `likelihood`, the NLL per token; or `accuracy`, the probability of anything but the completion: what
            the error rate would be if answers were drawn and only the completion were right.
    """
    found = nll_sums / token_counts if signal == "likelihood" else -np.expm1(-nll_sums)
    return np.where(np.isfinite(nll_sums), found, np.nan)


def expert_scores(scores: ShotScores) -> tuple[ExpertScore, ...]:
    """Turn the scores of each shot into one score an adapter, with ranks RP and RA (Algorithm 1, lines 2-6).

    Adapters that were not scored on all shots are left out.
    """
    scores = scores.complete()
    perplexity = reasoning_perplexity(scores.nll, scores.tokens).mean(axis=1)
    accuracy = np.asarray(scores.correct, dtype=np.float64).mean(axis=1)
    ranks = mean_ranks(perplexity), mean_ranks(-accuracy)
    return tuple(
        ExpertScore(
            repo_id=repo_id,
            perplexity=float(perplexity[i]),
            accuracy=float(accuracy[i]),
            rank_perplexity=float(ranks[0][i]),
            rank_accuracy=float(ranks[1][i]),
            nll=tuple((scores.nll[i] / scores.tokens).tolist()),
        )
        for i, repo_id in enumerate(scores.repo_ids)
    )


def score_adapters(
    model: Any,
    tokenizer: Any,
    factors: Mapping[str, Mapping[str, Pair]],
    shots: Sequence[Example],
    *,
    extract: Callable[[str], str],
    batch_size: int,
    max_new_tokens: int,
    budget: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    options: ExpertOptions | None = None,
    choices: Sequence[Choices | None] | None = None,
    stop: Sequence[str] = (),
) -> ShotScores:
    """Score LoRA adapters on the K-shot on one base model: likelihoods by successive halving, then answers.

    The finalists, at least a shortlist and as many tied with its last as the budget affords, are scored on all shots,
    and they alone answer. The base is scored too, and counts as no pair. Several processes (`torchrun`,
    `accelerate launch`) share the work and get equal scores.

    Args:
        model: The base model; unchanged when this returns, or raises.
        tokenizer: Its tokenizer.
        factors: repository id -> module name as in the base -> (A [r, in], B [out, r] with the scaling folded in);
            looked up when an adapter is put on the base.
        shots: K examples in the task's form.
        extract: Reads the answer out of generated text.
        batch_size: Rows computed at once.
        max_new_tokens: Longest generated answer, in tokens.
        budget: See `read_budget`; None = that of `options`. Minutes depend on the machine.
        seed: Decides which shots come first.
        progress: Called with (pairs and answers done, planned).
        options: The shortlist and the budget; None = the defaults.
        stop: Texts before which a generated answer ends.
        choices: One a shot: its options, whose likelihoods decide in place of a generated answer, or None.

    Returns:
        The scores. Adapters that do not fit the base, or compute what is no number, are rejected with the reason.

    Raises:
        InputError: There are no shots, something has no tokens, or choices do not fit (RecipeError: the budget).
    """
    started, options = time.perf_counter(), options or ExpertOptions()
    allowed = read_budget(budget or options.budget, "budget")
    kshot = tokenised(
        tokenizer, shots, extract=extract, batch_size=batch_size, choices=choices, mean=options.perplexity, stop=stop
    )
    faults, modules = _fitting(model, factors)
    names = [repo_id for repo_id, fault in faults.items() if not fault]
    how = decoding(model, tokenizer, max_new_tokens)
    with share() as part, swapping(model, modules) as swap, evaluating(model, how):
        meter = Meter(model, tokenizer, kshot, swap, part, factors)
        scores, cost = _measured(meter, names, allowed, options, seed, progress)
    unfit = (Rejection(repo_id, "unloadable", fault) for repo_id, fault in faults.items() if fault)
    cost = replace(cost, seconds=time.perf_counter() - started)
    return replace(scores, rejected=(*unfit, *scores.rejected), cost=cost)


def _fitting(model: Any, factors: Mapping[str, Mapping[str, Pair]]) -> tuple[dict[str, str], list[str]]:
    """Look at each adapter once: why it cannot be put on the model, empty when it can, and all modules of those."""
    faults: dict[str, str] = {}
    modules: dict[str, None] = {}
    for repo_id, found in factors.items():
        faults[repo_id] = misfit(model, found)
        modules |= dict.fromkeys([] if faults[repo_id] else found)
    return faults, list(modules)


def _measured(
    meter: Meter, names: Sequence[str], budget: Budget, options: ExpertOptions, seed: int, progress: Progress | None
) -> tuple[ShotScores, Cost]:
    """Score the base, race the adapters, and let the finalists answer."""
    count = len(meter.shots.examples)
    base_nll, pair = _priced(meter, budget.unit, lambda: meter.likelihoods([None], range(count))[0])
    base_answers, answer = _priced(meter, budget.unit, lambda: meter.answers([None])[0])
    finalists = min(options.shortlist, len(names))
    pairs = pairs_within(budget, len(names), count, finalists, pair=pair / count, answer=answer / count)
    rounds = schedule(len(names), count, finalists, pairs)
    meter.scored = _reporter(progress, pairs_of(rounds) + finalists * count)
    nll = np.full((len(names), count), np.nan)

    def score(alive: Sequence[int], chosen: Sequence[int]) -> np.ndarray:
        nll[np.ix_(alive, chosen)] = found = meter.likelihoods([names[i] for i in alive], chosen)
        return losses(found, meter.shots.tokens[list(chosen)], options.signal)

    order = spread([shot.prompt + shot.completion for shot in meter.shots.examples], seed)
    worth = answer / pair if budget.unit in ("tokens", "minutes") else 0.0
    found = race(score, len(names), rounds, pairs=pairs, order=order, answer=worth)
    answered = meter.answers([names[i] for i in found.finalists])
    scores = _scores(names, meter.shots, nll, found, dict(zip(found.finalists, answered, strict=True)))
    base_correct = np.array([each.correct for each in base_answers], dtype=np.int8)
    cost = Cost(found.pairs, len(names) * count, pairs, len(answered) * count, meter.tokens, 0.0)
    return replace(scores, base_nll=base_nll, base_correct=base_correct), cost


def _priced(meter: Meter, unit: str, work: Callable[[], T]) -> tuple[T, float]:
    """Run some work; returns its result and its cost, in tokens or in minutes."""
    started, before = time.perf_counter(), meter.tokens
    found = work()
    if unit == "minutes":
        return found, meter.slowest(time.perf_counter() - started) / 60
    return found, float(meter.tokens - before)


def _reporter(progress: Progress | None, planned: int) -> Callable[[int], None]:
    """Return a counter of scored shots for `progress`; ties may take more shots than planned."""
    done = 0

    def scored(shots: int) -> None:
        nonlocal done
        done += shots
        if progress:
            progress(min(done, planned), planned)

    return scored


def _scores(
    names: Sequence[str], shots: Shots, nll: np.ndarray, found: Race, answered: Mapping[int, Sequence[Answer]]
) -> ShotScores:
    """Collect the results of the race, without adapters whose likelihoods are no numbers."""
    rows = [i for i in range(len(names)) if i not in found.broken]
    correct = np.full((len(rows), len(shots.examples)), -1, dtype=np.int8)
    for row, i in enumerate(rows):
        if i in answered:
            correct[row] = [each.correct for each in answered[i]]
    nothing = ("",) * len(shots.examples)
    return ShotScores(
        repo_ids=tuple(names[i] for i in rows),
        nll=nll[rows],
        tokens=shots.tokens,
        correct=correct,
        rejected=(
            *(Rejection(names[i], "nan_scores", f"no finite likelihood on {n} shots") for i, n in found.broken.items()),
            *(Rejection(names[i], "halved_out", _dropped(each)) for i, each in found.halved.items()),
        ),
        answers=tuple(tuple(each.text for each in answered[i]) if i in answered else nothing for i in rows),
    )


def _dropped(halved: Halved) -> str:
    return (
        f"round {halved.round}, after {halved.shots} shots: mean loss {halved.loss:.4g}; "
        f"the last that went on: {halved.last_kept:.4g}"
    )
