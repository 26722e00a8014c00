"""Expert selection against its bars: `python -m tests.benchmarks.selection`, under five minutes once the bank is made.

The bank is 24 real LoRA experts of a real base (see `bank.py`); the demo Hub's adapters serve for accuracy. Times are
the process's own on one thread. `KEPT` and `SPARE` of halving were chosen on this bank's draws of gsm8k, arc_easy and
piqa; arc_challenge was not looked at then.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rocket_hub.recipe import read_budget
from rocket_hub.selection.halving import pairs_within, race, schedule, spread, tied
from rocket_hub.selection.scoring import losses
from tests.benchmarks.bank import BANK, FOLDER, bank
from tests.benchmarks.measuring import SHARED, Bars, print_bars
from tests.benchmarks.scored import DEMO_KINDS, Pool, demo_pool, real_pool
from tests.benchmarks.selection_speed import against_definition, choosing, naive, ours, varied, wide

POOLS = {"gsm8k": 120, "arc_easy": 120, "arc_challenge": 120}
BUDGET, BEST = "40%", 4
DRAWS, SHOTS = 20, 50


@dataclass(frozen=True)
class Draw:
    """Agreement of halving with the exhaustive run on one K-shot, and the shares of the pairs that it read."""

    equal: bool  # the same best four
    within: bool  # the same, or they differ only within one paired standard error
    pairs: float  # whose likelihood was read
    answers: float  # whose answer was read


def agreement(exhaustive: np.ndarray, ours: Sequence[int]) -> tuple[bool, bool]:
    """Compare a choice with the best of the exhaustive run, whose losses are [M, K].

    Returns whether they are equal, and whether those in which they differ are tied one by one, the better with the
    better.
    """
    means = exhaustive.mean(axis=1)
    best = np.argsort(means, kind="stable")[:BEST].tolist()
    missing = sorted(set(best) - set(ours), key=lambda i: means[i])
    instead = sorted(set(ours) - set(best), key=lambda i: means[i])
    pairs = zip(missing, instead, strict=True)
    return not missing, all(tied(exhaustive[one], exhaustive[other]) for one, other in pairs)


def compare(
    found: np.ndarray, texts: Sequence[str], budget: str, *, wrong: np.ndarray | None = None, finalists: int = BEST
) -> list[Draw]:
    """Draw K-shots from a pool, and choose the best four by halving and exhaustively.

    Halving goes by `found` [M, P] and reads of it only what it asks for. The choice is made by `wrong` [M, P], 1 where
    an answer is wrong, if it is given. At least `finalists` adapters are scored on all shots.
    """
    adapters = len(found)
    draws = []
    for seed in range(DRAWS):
        drawn = np.random.default_rng(seed).choice(len(texts), SHOTS, replace=False)
        asked = np.zeros((adapters, SHOTS), dtype=bool)

        def look(alive: Sequence[int], shots: Sequence[int], drawn=drawn, asked=asked) -> np.ndarray:
            asked[np.ix_(alive, shots)] = True
            return found[np.ix_(alive, drawn[list(shots)])]

        pairs = pairs_within(read_budget(budget, "benchmark"), adapters, SHOTS, finalists)
        order = spread([texts[i] for i in drawn], seed)
        chosen = race(look, adapters, schedule(adapters, SHOTS, finalists, pairs), pairs=pairs, order=order)
        judged = found[:, drawn] if wrong is None else wrong[:, drawn]
        ours = sorted(chosen.finalists, key=lambda i: (judged[i].mean(), i))[:BEST]
        answers = 0.0 if wrong is None else len(chosen.finalists) / adapters
        draws.append(Draw(*agreement(judged, ours), float(asked.mean()), answers))
    return draws


def in_words(draws: Sequence[Draw]) -> str:
    equal, within = (sum(getattr(draw, name) for draw in draws) for name in ("equal", "within"))
    pairs, answers = max(draw.pairs for draw in draws), max(draw.answers for draw in draws)
    return (
        f"equal in {equal} of {len(draws)} draws, equal or within one paired standard error in {within}; "
        f"at most {pairs:.1%} of the pairs" + (f", {answers:.1%} of the answers" if answers else "")
    )


def held(draws: list[Draw], limit: float = 0.4) -> bool:
    """Whether the bar on halving is reached; likelihoods and answers are each counted as pairs of their own."""
    spent = max(max(draw.answers, draw.pairs) for draw in draws)
    return sum(draw.within for draw in draws) >= DRAWS - 1 and spent <= limit


def likelihood(task: str, pool: Pool) -> Bars:
    """Compare the best four by completion likelihood on the real bank."""
    found = losses(pool.scores.nll, pool.scores.tokens, "likelihood")
    draws = compare(found, pool.texts, BUDGET)
    return [(held(draws), f"top 4 of {len(found)} by likelihood, {task}: {in_words(draws)}")]


def accuracy(kind: str, pool: Pool) -> Bars:
    """Compare the best four by accuracy on the demo bank: likelihoods first, answers of the survivors."""
    scores = pool.scores
    found = losses(scores.nll, scores.tokens, "accuracy")
    wrong = 1.0 - (scores.correct == 1)
    best = (scores.correct == 1).mean(axis=1).max()
    lines: Bars = [(None, f"demo bank, {kind}: the best of {len(found)} adapters answers {best:.1%} right")]
    for budget, finalists, bar in ((BUDGET, 4, True), (BUDGET, 5, False), ("70%", 5, False)):
        draws = compare(found, pool.texts, budget, wrong=wrong, finalists=finalists)
        label = f"top 4 by accuracy, demo bank, {kind}, budget {budget}, {finalists} finalists: {in_words(draws)}"
        lines.append((held(draws) if bar else None, label))
    return lines


def speed(pool: Pool) -> Bars:
    """Time scoring by itself and against the naive loop, on one K-shot of 50."""
    folders, shots = bank(), pool.shots[:50]
    args = pool.model, pool.tokenizer, pool.factors, shots
    ours(*args[:2], dict(list(pool.factors.items())[:2]), shots, "all")  # warm
    paths = list(folders.values())
    half = naive(paths[::2], pool.tokenizer, shots)  # half before and half after ours, against drifts of the machine
    full, part = ours(*args, "all"), ours(*args, BUDGET)
    rest = naive(paths[1::2], pool.tokenizer, shots)
    slow, pairs = half.whole + rest.whole, half.pairs + rest.pairs
    apart = max(np.abs(full.nll[::2] - half.nll).max(), np.abs(full.nll[1::2] - rest.nll).max())
    return [
        (full.overhead <= 0.05, f"swap and bookkeeping, all pairs: {full.overhead:.1%} of the forward time (bar 5%)"),
        (part.overhead <= 0.05, f"the same with a budget of {BUDGET}: {part.overhead:.1%}"),
        (apart < 1e-4, f"largest difference to the naive loop: {apart:.1e} nats a token"),
        (None, f"naive loop {slow:.1f} s for {pairs} pairs; ours {full.whole:.1f} s for {full.pairs} "
               f"({slow / full.whole:.1f}x), {part.whole:.1f} s for {part.pairs}"),
        (slow >= 3 * part.whole, f"faster than the naive loop with a budget of {BUDGET}: "
                                       f"{slow / part.whole:.1f}x (bar 3x)"),
    ]  # fmt: skip


def diversity(pool: Pool) -> Bars:
    """Time the choice of the group among the bank's adapters, and further ones like them."""
    bank = list(pool.factors.values())
    small, large, other = choosing(varied(bank, 38)), choosing(varied(bank, 200)), choosing(wide(38))
    theirs, own, same = against_definition(varied(bank, 8))
    return [
        (small < 1, f"best group of 4 among 38, exact, after loading: {small:.2f} s (bar 1 s)"),
        (large < 2, f"best group of 4 among 200: {large:.2f} s (bar 2 s)"),
        (other < 1, f"best group of 4 among 38 of 2.1 MB each: {other:.2f} s (bar 1 s)"),
        (same and theirs >= 50 * own, f"definition at M=8 {theirs:.2f} s, ours {own:.3f} s, each file read once: "
                                      f"{theirs / own:.0f}x (bar 50x), {'same' if same else 'ANOTHER'} winner"),
    ]  # fmt: skip


def main() -> int:
    if not SHARED.is_dir():
        print("the shared data folder is not beside this checkout")
        return 0
    if not all((FOLDER / made.name).is_dir() for made in BANK):
        print("making the bank first")
    folders, started = bank(), time.perf_counter()
    pools = {task: real_pool(task, folders, rows) for task, rows in POOLS.items()}
    lines = [line for task, pool in pools.items() for line in likelihood(task, pool)]
    for kind in DEMO_KINDS:
        lines += accuracy(kind, demo_pool(kind, 100))
    lines += speed(pools["gsm8k"]) + diversity(pools["gsm8k"])
    code = print_bars(lines)
    print(f"\n{time.perf_counter() - started:.0f} s in all, {time.process_time():.0f} s of the process's own")
    return code


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    sys.exit(main())
