"""Does halving choose what the exhaustive run chooses? Of a matrix of losses it reads only what it asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rocket_hub.recipe import read_budget
from rocket_hub.selection.halving import pairs_within, race, schedule, spread, tied

BEST = 4  # how many are compared
DRAWS, SHOTS = 20, 50


@dataclass(frozen=True)
class Draw:
    """What halving chose from one K-shot.

    Attributes:
        equal: Whether the best four are those of the exhaustive run.
        within: Whether they are, or differ only within one paired standard error.
        pairs: Share of the pairs whose likelihood was read.
        answers: Share of the pairs whose answer was read.
        finalists: Adapters scored on all shots.
    """

    equal: bool
    within: bool
    pairs: float
    answers: float
    finalists: int


def agreement(exhaustive: np.ndarray, ours: Sequence[int]) -> tuple[bool, bool]:
    """Compare a choice with the best of the exhaustive run.

    Args:
        exhaustive: Losses of all adapters on all shots [M, K].
        ours: The adapters chosen.

    Returns:
        (equal, or the adapters in which they differ are tied one by one, the better with the better).
    """
    means = exhaustive.mean(axis=1)
    best = np.argsort(means, kind="stable")[:BEST].tolist()
    missing = sorted(set(best) - set(ours), key=lambda i: means[i])
    instead = sorted(set(ours) - set(best), key=lambda i: means[i])
    pairs = zip(missing, instead, strict=True)
    return not missing, all(tied(exhaustive[one], exhaustive[other]) for one, other in pairs)


def compare(
    losses: np.ndarray, texts: Sequence[str], budget: str, *, wrong: np.ndarray | None = None, finalists: int = BEST
) -> list[Draw]:
    """Draw K-shots from a pool and choose the best four by halving and exhaustively.

    Args:
        losses: What halving goes by, of all adapters on the whole pool [M, P].
        texts: The pool [P].
        budget: Share of the pairs that may be read.
        wrong: What the choice is made by if not by `losses`: 1 where an answer is wrong [M, P]; finalists only.
        finalists: At least so many are scored on all shots.

    Returns:
        One a draw.
    """
    adapters = len(losses)
    draws = []
    for seed in range(DRAWS):
        drawn = np.random.default_rng(seed).choice(len(texts), SHOTS, replace=False)
        asked = np.zeros((adapters, SHOTS), dtype=bool)

        def look(alive: Sequence[int], shots: Sequence[int], drawn=drawn, asked=asked) -> np.ndarray:
            asked[np.ix_(alive, shots)] = True
            return losses[np.ix_(alive, drawn[list(shots)])]

        pairs = pairs_within(read_budget(budget, "benchmark"), adapters, SHOTS, finalists)
        order = spread([texts[i] for i in drawn], seed)
        found = race(look, adapters, schedule(adapters, SHOTS, finalists, pairs), pairs=pairs, order=order)
        judged = losses[:, drawn] if wrong is None else wrong[:, drawn]
        ours = sorted(found.finalists, key=lambda i: (judged[i].mean(), i))[:BEST]
        answers = 0.0 if wrong is None else len(found.finalists) / adapters
        draws.append(Draw(*agreement(judged, ours), float(asked.mean()), answers, len(found.finalists)))
    return draws


def in_words(draws: Sequence[Draw]) -> str:
    """Say in one line what the draws gave."""
    equal, within = (sum(getattr(draw, name) for draw in draws) for name in ("equal", "within"))
    pairs, answers = max(draw.pairs for draw in draws), max(draw.answers for draw in draws)
    return (
        f"equal in {equal} of {len(draws)} draws, equal or within one paired standard error in {within}; "
        f"at most {pairs:.1%} of the pairs" + (f", {answers:.1%} of the answers" if answers else "")
    )
