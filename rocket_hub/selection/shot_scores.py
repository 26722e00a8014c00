"""What every adapter did on every shot, and what finding out cost."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rocket_hub.records import Rejection


@dataclass(frozen=True)
class Cost:
    """What scoring cost.

    Attributes:
        pairs: Perplexities of an adapter on a shot that were computed.
        possible: M * K, the pairs of the exhaustive run.
        allowed: Pairs that the budget allowed; `pairs` is more where the least schedule is dearer than that.
        answers: Answers of an adapter to a shot, generated or chosen by likelihood; only finalists answer.
        tokens: Tokens that went through the model, the bare base's included.
        seconds: Wall-clock seconds.
    """

    pairs: int
    possible: int
    allowed: int
    answers: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class ShotScores:
    """What every adapter did on every shot.

    Attributes:
        repo_ids: The M adapters that could be scored, those that were left behind half way included.
        nll: Summed negative log-likelihood of each completion in nats, or what stands for it with the arithmetic mean
            (see `row_nll`) [M, K]; NaN where a pair was not scored.
        tokens: Tokens of each completion [K].
        correct: 1 where the answer is the right one, 0 where it is not, -1 where none was asked for [M, K].
        rejected: Adapters that could not be scored, `unloadable` or `nan_scores`, and those left behind, `halved_out`.
        base_nll: The bare base model's `nll` [K].
        base_correct: The bare base model's `correct` [K].
        answers: Answers by adapter and shot, empty where there is none.
        cost: What it cost.
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
        """Keep the adapters that were scored on all shots; only their means compare."""
        kept = np.flatnonzero(np.isfinite(self.nll).all(axis=1) & (self.correct >= 0).all(axis=1))
        return replace(
            self,
            repo_ids=tuple(self.repo_ids[i] for i in kept),
            nll=self.nll[kept],
            correct=self.correct[kept],
            answers=tuple(self.answers[i] for i in kept) if self.answers else (),
        )
