"""What scoring costs beside the forward passes, and against the naive loop."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM

from rocket_hub.inference.generation import greedy
from rocket_hub.inference.tokens import encode, evaluating
from rocket_hub.lora.attach import swapping
from rocket_hub.recipe import read_budget
from rocket_hub.records import Example
from rocket_hub.selection.halving import Race, pairs_within, race, schedule, spread
from rocket_hub.selection.shots import Meter, Share, tokenised
from tests.benchmarks.bank import BASE


@dataclass(frozen=True)
class Timed:
    """What scoring a bank took, in seconds of the process's own time.

    Attributes:
        whole: Everything: tokenising, swapping, batching, forward passes, collecting.
        forward: Inside the base model's forward pass alone.
        pairs: How many pairs were scored.
        nll: Mean negative log-likelihood per token of each adapter on all shots; NaN where it was left behind.
    """

    whole: float
    forward: float
    pairs: int
    nll: np.ndarray

    @property
    def overhead(self) -> float:
        """What is not forward pass, as a share of it."""
        return self.whole / self.forward - 1


def ours(model: Any, tokenizer: Any, factors: Mapping[str, Any], shots: Sequence[Example], budget: str) -> Timed:
    """Score likelihoods within a budget, and time it."""
    inside = 0.0
    started = 0.0

    def enter(*_: Any) -> None:
        nonlocal started
        started = time.process_time()

    def leave(*_: Any) -> None:
        nonlocal inside
        inside += time.process_time() - started

    before = time.process_time()
    hooks = [model.register_forward_pre_hook(enter), model.register_forward_hook(leave)]
    try:
        found = _raced(model, tokenizer, factors, shots, budget)
    finally:
        for hook in hooks:
            hook.remove()
    return Timed(time.process_time() - before, inside, found.pairs, found.losses.mean(axis=1))


def _raced(model: Any, tokenizer: Any, factors: Mapping[str, Any], shots: Sequence[Example], budget: str) -> Race:
    """Do what `score_adapters` does, without answers."""
    kshot, bank = tokenised(tokenizer, shots, extract=str, batch_size=16), list(factors.values())
    pairs = pairs_within(read_budget(budget, "benchmark"), len(bank), len(shots), 4)
    with swapping(model, factors) as swap, evaluating(model, greedy(model, tokenizer, 1)):
        meter = Meter(model, tokenizer, kshot, swap, Share())
        return race(
            lambda alive, chosen: meter.likelihoods([bank[i] for i in alive], chosen) / kshot.tokens[list(chosen)],
            len(bank),
            schedule(len(bank), len(shots), 4, pairs),
            pairs=pairs,
            order=spread([shot.prompt + shot.completion for shot in shots], 0),
        )


def naive(folders: Sequence[Path], tokenizer: Any, shots: Sequence[Example]) -> Timed:
    """Load base and adapter for each adapter, and compute the loss of one example at a time."""
    before, nll = time.process_time(), np.zeros((len(folders), len(shots)))
    for row, folder in enumerate(folders):
        model: nn.Module = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE), folder)
        model.eval()
        for column, shot in enumerate(shots):
            ids, start = encode(tokenizer, shot.prompt, shot.completion)
            labels = torch.tensor([[-100] * start + ids[start:]])
            with torch.no_grad():
                nll[row, column] = model(input_ids=torch.tensor([ids]), labels=labels).loss.item()
    whole = time.process_time() - before
    return Timed(whole, whole, nll.size, nll.mean(axis=1))
