"""Run adapters over the K-shot on one base model, in pieces that several processes share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from rocket_hub.selection.sharing import Share
from rocket_hub.selection.signals import Answer, Shots, answer_batches, answers, likelihood_batches, likelihoods
from rocket_hub.selection.swapping import Pair, Swap

T = TypeVar("T")
Adapter = Mapping[str, Pair] | None  # None = the bare base model


@dataclass
class Meter:
    """Scores adapters and counts what that takes.

    A piece of work is one adapter on one batch. Batches depend on the shots alone, so that any number of processes
    computes the same numbers.

    Attributes:
        base: The base model, evaluating, with greedy decoding set.
        tokenizer: Its tokenizer.
        shots: The K-shot.
        swap: Puts an adapter on the base.
        share: This process's part.
        tokens: Tokens that went through the model so far.
        scored: Called with the number of shots of each piece that is done.
    """

    base: Any
    tokenizer: Any
    shots: Shots
    swap: Swap
    share: Share
    tokens: int = 0
    scored: Callable[[int], None] = lambda _: None

    def likelihoods(self, adapters: Sequence[Adapter], chosen: Sequence[int]) -> np.ndarray:
        """Sum the negative log-likelihoods of the chosen shots' completions [adapters, chosen], in nats."""
        batches = likelihood_batches(self.shots, chosen)
        found = self._run(adapters, batches, lambda batch: likelihoods(self.base, self.shots, batch))
        self.tokens += len(adapters) * int(self.shots.lengths[list(chosen)].sum())
        return np.array([[row[shot] for shot in chosen] for row in found]).reshape(len(adapters), len(chosen))

    def answers(self, adapters: Sequence[Adapter]) -> list[list[Answer]]:
        """Let each adapter answer all shots, [adapters][K]."""
        batches = answer_batches(self.shots)
        found = self._run(adapters, batches, lambda batch: answers(self.base, self.tokenizer, self.shots, batch))
        self.tokens += sum(answer.tokens for row in found for answer in row.values())
        return [[row[shot] for shot in sorted(row)] for row in found]

    def slowest(self, seconds: float) -> float:
        """Return the largest of all processes' times, so that they decide alike."""
        return max(self.share.gather({self.share.rank: seconds}))

    def _run(
        self, adapters: Sequence[Adapter], batches: Sequence[list[int]], work: Callable[[list[int]], list[T]]
    ) -> list[dict[int, T]]:
        """Do this process's pieces and collect everybody's: for each adapter, shot -> what `work` found."""
        pieces = [(adapter, batch) for adapter in range(len(adapters)) for batch in batches]
        done: dict[int, list[T]] = {}
        on: int | None = None
        for piece in self.share.mine(len(pieces)):
            adapter, batch = pieces[piece]
            if adapter != on:
                self.swap(adapters[adapter])
                on = adapter
            done[piece] = work(batch)
            self.scored(len(batch) * self.share.world)
        found: list[dict[int, T]] = [{} for _ in adapters]
        for (adapter, batch), values in zip(pieces, self.share.gather(done), strict=True):
            found[adapter].update(zip(batch, values, strict=True))
        return found
