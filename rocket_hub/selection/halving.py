"""Successive halving: choose which (adapter, shot) pairs to score.

All adapters are scored on a few shots, the better ones on more of them, and the finalists on all, so that their rank
sums are comparable. This lies between the successive halving of Karnin, Koren and Somekh (2013) and the successive
rejects of Audibert and Bubeck (2010): a fifth is dropped each time, as rounds are free and cuts on few shots are risky,
and the budget decides how steeply the rounds grow.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rocket_hub.options import Budget

FEWEST = 5  # nobody is cut on fewer shots than this
KEPT = 0.8  # share of the adapters that goes on to the next round
SPARE = 0.2  # share of the pairs that is kept for adapters that are tied with the last one that goes on
_STEEPNESS = np.linspace(-12, 12, 193)  # from all shots in the first round to all of them in the last

Score = Callable[[Sequence[int], Sequence[int]], np.ndarray]  # adapters [m], shots [k] -> losses [m, k], less is better


@dataclass(frozen=True)
class Round:
    """One round of the schedule: how many adapters take part, and on how many shots each has been scored at its end."""

    adapters: int
    shots: int


@dataclass(frozen=True)
class Halved:
    """An adapter that did not reach the last round."""

    round: int  # the round after which it was dropped, from 1
    shots: int  # on how many shots it was scored
    loss: float  # its mean loss over them
    last_kept: float  # the same of the last adapter that went on by its rank


@dataclass(frozen=True)
class Race:
    """The result of a race."""

    losses: np.ndarray  # [M, K], NaN where a pair was not scored
    pairs: int  # how many were scored
    finalists: tuple[int, ...]  # adapters scored on all shots, ascending
    halved: dict[int, Halved]  # adapters that were dropped
    broken: dict[int, int]  # adapters with a loss that is no number -> on how many shots


def pairs_within(
    budget: Budget, adapters: int, shots: int, finalists: int, *, pair: float = 0.0, answer: float = 0.0
) -> int:
    """Convert a budget into pairs of an adapter and a shot, each one perplexity: from 0 to M * K.

    Answers, of the finalists only, are no pairs; a budget in tokens or minutes pays for them and for the bare base
    model first.

    Args:
        budget: The budget.
        adapters: M.
        shots: K.
        finalists: How many adapters answer every shot.
        pair: Tokens, or minutes, of one pair; for budgets in that unit.
        answer: Tokens, or minutes, of one answer.
    """
    everything = adapters * shots
    if budget.unit == "%":
        return math.floor(budget.amount * everything / 100)
    if budget.unit == "pairs":
        return min(int(budget.amount), everything)
    left = budget.amount - shots * (pair + answer)
    if left >= everything * (pair + answer):
        return everything
    return int(min(max(left - shots * finalists * answer, 0.0) / pair, everything - 1))


def schedule(adapters: int, shots: int, finalists: int, pairs: int) -> tuple[Round, ...]:
    """Plan the rounds, from all M adapters on a few shots to at least `finalists` of them on all K.

    Cut M down to the finalists, a fifth at a time. Round r adds shots in proportion to m_r^-α, and α is the smallest
    that keeps within the pairs (less a spare for ties): at α = 1 all rounds cost the same, at -∞ everything is scored.
    The least plan, everyone on five shots and the finalists on all, is used even where it costs more than the pairs.
    """
    if pairs >= adapters * shots or adapters <= finalists or shots <= FEWEST:
        return (Round(adapters, shots),)
    sizes = [adapters]
    while sizes[-1] > finalists:
        sizes.append(max(min(math.ceil(sizes[-1] * KEPT), sizes[-1] - 1), finalists))
    plans = (_rounds(sizes, shots, float(steepness)) for steepness in _STEEPNESS)
    least = (Round(adapters, FEWEST), Round(finalists, shots))
    return next((plan for plan in plans if pairs_of(plan) <= (1 - SPARE) * pairs), least)


def _rounds(sizes: Sequence[int], shots: int, steepness: float) -> tuple[Round, ...]:
    """Split the shots into rounds, without those that would add no shot."""
    weights = (np.array(sizes, dtype=np.float64) / sizes[0]) ** -steepness
    ends = np.rint(np.cumsum(weights) / weights.sum() * shots).astype(int)
    ends[:-1] = ends[:-1].clip(FEWEST, shots - 1)  # the finalists have a round of their own
    found: list[Round] = []
    for size, end in zip(sizes, ends.tolist(), strict=True):
        if not found or end > found[-1].shots:
            found.append(Round(size, end))
    return tuple(found)


def pairs_of(rounds: Sequence[Round]) -> int:
    """Count the pairs of a schedule."""
    before = [0, *(each.shots for each in rounds)]
    return sum(each.adapters * (each.shots - start) for each, start in zip(rounds, before, strict=False))


def race(
    score: Score, adapters: int, rounds: Sequence[Round], *, pairs: int, order: Sequence[int], answer: float = 0.0
) -> Race:
    """Run the rounds; adapters tied with the last one that goes on go on too, as long as pairs are left.

    Adapters are ranked by their mean loss over the shots; see `tied`.

    Args:
        score: Scores adapters on shots.
        adapters: M.
        rounds: From `schedule`.
        pairs: How many pairs may be scored.
        order: The order of the K shots.
        answer: How many pairs a finalist's answer to one shot is worth; 0 where the budget does not pay for it.
    """
    losses = np.full((adapters, len(order)), np.nan)
    alive, halved, broken = list(range(adapters)), dict[int, Halved](), dict[int, int]()
    spare, done, scored = float(pairs - pairs_of(rounds)), 0, 0
    for number, each in enumerate(rounds, 1):
        added, done = list(order[done : each.shots]), each.shots
        if alive:
            losses[np.ix_(alive, added)] = score(alive, added)
            scored += len(alive) * len(added)
        seen = list(order[:done])
        broken |= {i: int(bad) for i in alive if (bad := (~np.isfinite(losses[i, seen])).sum())}
        alive = [i for i in alive if i not in broken]
        if number == len(rounds) or len(alive) <= rounds[number].adapters:
            continue
        ranked = sorted(alive, key=lambda i: (losses[i, seen].mean(), i))
        kept, rest = ranked[: rounds[number].adapters], ranked[rounds[number].adapters :]
        answers = len(order) * answer if number == len(rounds) - 1 else 0.0
        last, price = losses[kept[-1], seen], rounds[number].shots - done + answers
        ties = [i for i in rest if tied(losses[i, seen], last)][: int(max(spare, 0) / price)]
        spare -= len(ties) * price
        for i in (i for i in rest if i not in ties):
            halved[i] = Halved(number, done, float(losses[i, seen].mean()), float(last.mean()))
        alive = sorted([*kept, *ties])
    return Race(losses, scored, tuple(alive), halved, broken)


def tied(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two adapters' losses on the same shots [k] differ by at most one paired standard error."""
    difference = one - other
    return bool(abs(difference.mean()) <= difference.std(ddof=1) / math.sqrt(len(difference)))


def spread(texts: Sequence[str], seed: int) -> list[int]:
    """Order K texts so that the first few are as different as can be: farthest-first traversal (Gonzalez 1985).

    An expert for a kind of question that is not among the first shots would be cut. The first text is drawn, and then
    the one that is least like any before it comes next, by the cosine of their words, weighted by how rare they are;
    numbers count as one word. The seed decides the first text and between equal ones. Returns a permutation of K.
    """
    words = [Counter(re.findall(r"\w+|[^\w\s]", re.sub(r"\d+", "0", text.lower()))) for text in texts]
    known = {word: column for column, word in enumerate(dict.fromkeys(word for each in words for word in each))}
    counts = np.zeros((len(texts), len(known)))
    for row, each in enumerate(words):
        counts[row, [known[word] for word in each]] = list(each.values())
    weights = np.log1p(counts) * np.log((1 + len(texts)) / np.maximum((counts > 0).sum(axis=0), 1))
    unit = weights / np.maximum(np.linalg.norm(weights, axis=1, keepdims=True), 1e-12)
    left = np.random.default_rng(seed).permutation(len(texts)).tolist()
    order: list[int] = []
    nearest = np.full(len(texts), -np.inf)  # largest cosine with any shot before, rounded against the order of sums
    while left:
        order.append(left.pop(int(nearest[left].argmin())))
        nearest = np.maximum(nearest, (unit @ unit[order[-1]]).round(9))
    return order
