"""How long the most diverse group takes, and how long by the definition, pair by pair from the files."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from rocket_hub.selection.groups import best_group, delta_w_similarity, mean_ranks

SIZE = 4  # of the group
MODULES, WIDTH, RANK = 16, 1024, 16  # 2.1 MB an adapter

Factors = Mapping[str, tuple[np.ndarray, np.ndarray]]


def varied(bank: Sequence[Mapping[str, Sequence[Any]]], count: int) -> list[Factors]:
    """Make as many adapters as are asked for: a bank's own, then copies of them with noise of half their size."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(count):
        noise = 0.5 * (number >= len(bank))
        factors = bank[number % len(bank)]
        made.append({
            module: (_noisy(np.asarray(a), noise, rng), _noisy(np.asarray(b), noise, rng))
            for module, (a, b) in factors.items()
        })  # fmt: skip
    return made


def _noisy(matrix: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Add noise to a matrix, in units of its own deviation."""
    return (matrix + noise * matrix.std() * rng.normal(size=matrix.shape)).astype(np.float32)


def wide(count: int) -> list[Factors]:
    """Make adapters of random numbers for a wider base."""
    rng, shapes = np.random.default_rng(0), ((RANK, WIDTH), (WIDTH, RANK))
    names = [f"layer{number}" for number in range(MODULES)]
    return [
        {name: tuple(rng.normal(size=s).astype(np.float32) for s in shapes) for name in names} for _ in range(count)
    ]


def rank_sums(count: int) -> np.ndarray:
    """Make up Σ (RP + RA) of adapters."""
    return np.random.default_rng(1).permutation(2 * count)[:count] + 1.0


def choosing(adapters: Sequence[Factors]) -> float:
    """Time the exact choice of a group among adapters that are loaded, in seconds."""
    before = time.process_time()
    best_group(rank_sums(len(adapters)), delta_w_similarity(adapters), SIZE)
    return time.process_time() - before


def against_definition(adapters: Sequence[Factors]) -> tuple[float, float, bool]:
    """Choose by the cosine of ΔW pair by pair, both files read for each pair of each group, and as we do.

    Returns:
        (seconds by the definition, our seconds with each file read once, whether the winner is the same).
    """
    count = len(adapters)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.safetensors" for number in range(count)]
        for file, factors in zip(files, adapters, strict=True):
            sides = {f"{name}.{side}": pair[side == "B"] for name, pair in factors.items() for side in "AB"}
            save_file({name: np.ascontiguousarray(matrix) for name, matrix in sides.items()}, file)
        before = time.process_time()
        groups = list(itertools.combinations(range(count), SIZE))
        means = [np.mean([_cosine(files[i], files[j]) for i, j in itertools.combinations(g, 2)]) for g in groups]
        totals = rank_sums(count)[np.array(groups)].sum(axis=1) + mean_ranks(np.array(means).round(6))
        theirs = groups[int(np.argmin(totals))]
        between, rounds = time.process_time(), 10
        for _ in range(rounds):
            ours = best_group(rank_sums(count), delta_w_similarity([_read(file) for file in files]), SIZE)
        own = (time.process_time() - between) / rounds
        return between - before, own, tuple(ours) == tuple(theirs)


def _cosine(one: Path, other: Path) -> float:
    """Compute the cosine of the updates in two files, by its definition."""
    first, second = _read(one), _read(other)
    inner = sum(float(np.vdot(b @ a, second[m][1] @ second[m][0])) for m, (a, b) in first.items() if m in second)
    lengths = [sum(float(np.square(b @ a).sum()) for a, b in factors.values()) for factors in (first, second)]
    return inner / float(np.sqrt(lengths[0] * lengths[1]))


def _read(file: Path) -> Factors:
    """Read one file."""
    tensors = load_file(file)
    return {key[:-2]: (tensors[key], tensors[f"{key[:-1]}B"]) for key in tensors if key.endswith(".A")}
