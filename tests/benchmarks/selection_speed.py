"""Time of scoring against the naive loop, and of the choice of a group against its definition."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from safetensors.numpy import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM

from rocket_hub.inference.generation import decoding
from rocket_hub.inference.tokens import encode, evaluating
from rocket_hub.lora.attach import swapping
from rocket_hub.recipe import read_budget
from rocket_hub.records import Example
from rocket_hub.selection.groups import delta_w_similarity, mean_ranks, ranked_groups
from rocket_hub.selection.halving import Race, pairs_within, race, schedule, spread
from rocket_hub.selection.shots import Meter, Share, tokenised
from tests.benchmarks.bank import BASE

GROUP = 4
MODULES, WIDTH, RANK = 16, 1024, 16  # 2.1 MB an adapter

Factors = Mapping[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Timed:
    """Seconds of the process's own time that scoring a bank took.

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
    """Score likelihoods within a budget, as `score_adapters` does without answers."""
    inside = started = 0.0

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
    kshot, bank = tokenised(tokenizer, shots, extract=str, batch_size=16), list(factors)
    pairs = pairs_within(read_budget(budget, "benchmark"), len(bank), len(shots), GROUP)
    modules = [module for found in factors.values() for module in found]
    with swapping(model, modules) as swap, evaluating(model, decoding(model, tokenizer, 1)):
        meter = Meter(model, tokenizer, kshot, swap, Share(), factors)
        return race(
            lambda alive, chosen: meter.likelihoods([bank[i] for i in alive], chosen) / kshot.tokens[list(chosen)],
            len(bank),
            schedule(len(bank), len(shots), GROUP, pairs),
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


def varied(bank: Sequence[Mapping[str, Sequence[Any]]], count: int) -> list[Factors]:
    """Return a bank's adapters, and then copies of them with noise of half their size, until there are `count`."""
    rng = np.random.default_rng(0)

    def noisy(matrix: np.ndarray, noise: float) -> np.ndarray:
        return (matrix + noise * matrix.std() * rng.normal(size=matrix.shape)).astype(np.float32)

    made = []
    for number in range(count):
        noise, factors = 0.5 * (number >= len(bank)), bank[number % len(bank)]
        made.append(
            {name: (noisy(np.asarray(a), noise), noisy(np.asarray(b), noise)) for name, (a, b) in factors.items()}
        )
    return made


def wide(count: int) -> list[Factors]:
    """Make random adapters for a wider base."""
    rng, shapes = np.random.default_rng(0), ((RANK, WIDTH), (WIDTH, RANK))
    return [
        {f"layer{number}": tuple(rng.normal(size=s).astype(np.float32) for s in shapes) for number in range(MODULES)}
        for _ in range(count)
    ]


def rank_sums(count: int) -> np.ndarray:
    """Make up Σ (RP + RA) of adapters."""
    return np.random.default_rng(1).permutation(2 * count)[:count] + 1.0


def choosing(adapters: Sequence[Factors]) -> float:
    """Time the exact choice of a group among adapters that are loaded, in seconds."""
    before = time.process_time()
    ranked_groups(rank_sums(len(adapters)), delta_w_similarity(adapters), GROUP)
    return time.process_time() - before


def against_definition(adapters: Sequence[Factors]) -> tuple[float, float, bool]:
    """Choose a group by the cosine of ΔW pair by pair, both files read for each pair of each group, and as we do.

    Returns the seconds by the definition, our seconds with each file read once, and whether the winner is the same.
    """
    count = len(adapters)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.safetensors" for number in range(count)]
        for file, factors in zip(files, adapters, strict=True):
            sides = {f"{name}.{side}": pair[side == "B"] for name, pair in factors.items() for side in "AB"}
            save_file({name: np.ascontiguousarray(matrix) for name, matrix in sides.items()}, file)
        before = time.process_time()
        groups = list(itertools.combinations(range(count), GROUP))
        means = [np.mean([_cosine(files[i], files[j]) for i, j in itertools.combinations(g, 2)]) for g in groups]
        totals = rank_sums(count)[np.array(groups)].sum(axis=1) + mean_ranks(np.array(means).round(6))
        theirs = groups[int(np.argmin(totals))]
        between, rounds = time.process_time(), 10
        for _ in range(rounds):
            similarity = delta_w_similarity([_read(file) for file in files])
            ours = ranked_groups(rank_sums(count), similarity, GROUP)[0][0]
        own = (time.process_time() - between) / rounds
        return between - before, own, tuple(ours) == tuple(theirs)


def _cosine(one: Path, other: Path) -> float:
    """Compute the cosine of the updates in two files, by its definition."""
    first, second = _read(one), _read(other)
    inner = sum(float(np.vdot(b @ a, second[m][1] @ second[m][0])) for m, (a, b) in first.items() if m in second)
    lengths = [sum(float(np.square(b @ a).sum()) for a, b in factors.values()) for factors in (first, second)]
    return inner / float(np.sqrt(lengths[0] * lengths[1]))


def _read(file: Path) -> Factors:
    tensors = load_file(file)
    return {key[:-2]: (tensors[key], tensors[f"{key[:-1]}B"]) for key in tensors if key.endswith(".A")}
