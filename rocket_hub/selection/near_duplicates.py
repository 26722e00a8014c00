"""Similarity of rows to the K-shot, the order in which rows are taken, and near-duplicates; all in blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import get_args

import numpy as np

from rocket_hub.errors import InputError
from rocket_hub.options import Similarity
from rocket_hub.selection.embeddings import Vectors

MODES = get_args(Similarity)
_SIMILARITY_BLOCK = 8192
_BLOCK = 1024
_DIGITS = 6  # beyond them lies the rounding of float32 products, which must not rank rows
_ROUNDING = 1e-5  # more than float32 products of rows of length 1 are ever off, with any block size, BLAS or GPU


def similarity(vectors: Vectors, shots: np.ndarray, mode: str = "max", gamma: float = 10.0) -> np.ndarray:
    """Compute the similarity of each row to the K-shot, on the scale of a cosine [n].

    - `max`: the largest cosine to any shot (Algorithm 2). A single shot can fill the whole budget.
    - `mean`: the mean cosine, which is the cosine with the mean shot up to a factor.
    - `kde`: a Gaussian kernel density of the shots (Table 3), mean_i exp(−γ‖shot_i − row‖²), as
      log(mean_i exp(2γ cos_i)) / 2γ, which ranks alike on the cosine's scale: `mean` for small γ, `max` for large.
    - `round_robin` ranks by shots, see `ordered`; its similarity is that of `max`.

    Values are float32, rounded to six digits, so that equal rows are equal wherever they stand.

    Args:
        vectors: [n, d], rows of length 1; read once, in blocks.
        shots: [K, d], rows of length 1.
        mode: One of `MODES`.
        gamma: γ of `kde`, one over twice the squared bandwidth.
    """
    check_mode(mode, gamma)
    count, width = vectors.shape
    if len(shots) == 0 or width != shots.shape[1]:
        raise InputError(f"rows of {width} numbers cannot be compared with shots of shape {shots.shape}")
    found = np.empty(count, dtype=np.float32)
    for block, cosines in _cosines(vectors, shots):
        if mode == "mean":
            found[block] = cosines.mean(axis=1)
        elif mode == "kde":
            largest = cosines.max(axis=1)
            density = np.exp(2 * gamma * (cosines - largest[:, None])).mean(axis=1)
            found[block] = largest + np.log(density) / (2 * gamma)
        else:
            found[block] = cosines.max(axis=1)
    return found.round(_DIGITS)


def ordered(
    vectors: Vectors, shots: np.ndarray, ranked_by: np.ndarray, mode: str = "max", least: float = -1.0
) -> Iterator[int]:
    """Yield the positions of the rows in the order in which they are taken, each once.

    With `round_robin` each shot in turn takes the row nearest to it that is left, so that every shot has its part of
    the budget; this needs 12 n K bytes. In the other modes the most similar row comes first. Equally similar rows keep
    their order. Arguments as of `similarity`, which returned `ranked_by`; rows below `least` are left out.
    """
    if mode != "round_robin":
        order = np.argsort(-ranked_by, kind="stable")
        yield from order[ranked_by[order] >= least]
        return
    cosines = np.empty((len(shots), vectors.shape[0]), dtype=np.float32)
    for block, found in _cosines(vectors, shots):
        cosines[:, block] = found.round(_DIGITS).T
    nearest = [iter(np.argsort(-row, kind="stable")) for row in cosines]
    free = ranked_by >= least
    for _ in range(int(free.sum()) // len(shots) + 1):
        for rows in nearest:
            row = next((row for row in rows if free[row]), None)
            if row is not None:
                free[row] = False
                yield row


def check_mode(mode: str, gamma: float) -> None:
    """Raise InputError for a way to compare that does not exist."""
    if mode not in MODES:
        raise InputError(f"instructions.similarity: expected one of {', '.join(MODES)}, found {mode!r}")
    if not gamma > 0:
        raise InputError(f"instructions.kde_gamma: expected a positive number, found {gamma}")


def _cosines(vectors: Vectors, shots: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Compare all rows with all shots: yields slices of rows with their cosines [b, K]."""
    for start in range(0, vectors.shape[0], _SIMILARITY_BLOCK):
        block = slice(start, min(start + _SIMILARITY_BLOCK, vectors.shape[0]))
        yield block, vectors[np.arange(block.start, block.stop)] @ shots.T  # [b, d] @ [d, K] -> [b, K]


def distinct(vectors: Vectors, order: Iterable[int], threshold: float) -> Iterator[tuple[int, int | None]]:
    """Find the near-duplicates of kept rows, lazily.

    A row is dropped when its cosine with a kept row before it is above the threshold; a row that was itself dropped
    drops no other. Blocks of rows are compared with blocks of kept ones, so that no more than 1,024² cosines exist at
    any time; cosines within rounding of the threshold are computed again in double precision, so that the result is
    that of comparing the pairs one by one.

    Args:
        vectors: [n, d], rows of length 1.
        order: The rows, highest priority first; each at most once.
        threshold: τ. At 1 nothing is dropped, not even equal rows, as in the paper.

    Yields:
        (row, None) for a row that is kept, (row, the first kept row near it) for one that is dropped.
    """
    if threshold >= 1:
        yield from ((int(row), None) for row in order)
        return
    kept: list[int] = []
    rest = iter(order)
    while rows := [int(row) for row in islice(rest, _BLOCK)]:
        block = vectors[np.asarray(rows)]
        partners = _partners(block, vectors, kept, threshold)  # [b], -1 = none yet
        within = np.zeros((len(rows), len(rows)), dtype=bool)
        within[_above(block, block, threshold)] = True
        drops = np.asarray(np.triu(within, 1).any(axis=1))
        for i, row in enumerate(rows):
            if partners[i] >= 0:
                yield row, int(partners[i])
                continue
            kept.append(row)
            if drops[i]:
                partners[within[i] & (partners < 0)] = row
            yield row, None


def _partners(block: np.ndarray, vectors: Vectors, kept: list[int], threshold: float) -> np.ndarray:
    """Find the first kept row that each row of a block is a near-duplicate of: [b, d] -> [b], -1 = none."""
    partners = np.full(len(block), -1)
    alone = np.arange(len(block))  # rows of the block without a partner so far
    for start in range(0, len(kept), _BLOCK):
        others = np.asarray(kept[start : start + _BLOCK])
        rows, columns = _above(block[alone], vectors[others], threshold)
        # Pairs come row by row, columns ascending: the first of each row is its earliest partner.
        found, first = np.unique(rows, return_index=True)
        partners[alone[found]] = others[columns[first]]
        alone = alone[partners[alone] < 0]
    return partners


def _above(rows: np.ndarray, others: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Find the pairs whose cosine is above the threshold: positions in `rows`, positions in `others`."""
    cosines = rows @ others.T  # [a, d] @ [d, b] -> [a, b]
    left, right = np.nonzero(cosines > threshold - _ROUNDING)
    near = cosines[left, right]
    doubtful = np.flatnonzero(near <= threshold + _ROUNDING)
    for start in range(0, len(doubtful), _BLOCK):
        pairs = doubtful[start : start + _BLOCK]
        exact = np.einsum("pd,pd->p", rows[left[pairs]], others[right[pairs]], dtype=np.float64)
        near[pairs] = np.where(exact > threshold, 2.0, -2.0)
    sure = near > threshold
    return left[sure], right[sure]
