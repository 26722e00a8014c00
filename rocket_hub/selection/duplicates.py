"""Near-duplicate removal (the last step of Algorithm 2): exact, in blocks, with O(n) memory beside the vectors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np

from rocket_hub.selection.vectors import Vectors

_BLOCK = 1024
_ROUNDING = 1e-5  # more than float32 products of rows of length 1 are ever off, with any block size, BLAS or GPU


def distinct(vectors: Vectors, order: Iterable[int], threshold: float) -> Iterator[tuple[int, int | None]]:
    """Walk through rows and tell near-duplicates of those before them.

    A row is dropped when its cosine with a kept row before it is above the threshold; a row that was itself dropped
    drops no other. Blocks of rows are compared with blocks of kept ones, so that no more than 1,024² cosines exist at
    any time; cosines within rounding of the threshold are computed again in double precision, so that the result is
    that of comparing the pairs one by one. Nothing is compared before the caller asks for it.

    Args:
        vectors: [n, d], rows of length 1.
        order: Rows to look at, highest priority first; each at most once.
        threshold: τ. At 1 nothing is dropped, not even equal rows, as in the paper.

    Yields:
        (row, None) for a row that is kept, (row, the first kept row that it is a near-duplicate of) for the others.
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


def keep_distinct(embeddings: Vectors, threshold: float, limit: int | None = None) -> tuple[list[int], dict[int, int]]:
    """Drop near-duplicates, keeping the row of higher priority; see `distinct`.

    Args:
        embeddings: [n, d], rows of length 1, highest priority first.
        threshold: τ.
        limit: Stop once so many rows are kept; None = look at all.

    Returns:
        (kept rows ascending, dropped row -> the first kept row that it is a near-duplicate of).
    """
    kept: list[int] = []
    dropped: dict[int, int] = {}
    if limit == 0:
        return kept, dropped
    for row, partner in distinct(embeddings, range(embeddings.shape[0]), threshold):
        if partner is not None:
            dropped[row] = partner
            continue
        kept.append(row)
        if len(kept) == limit:
            break
    return kept, dropped


def _partners(block: np.ndarray, vectors: Vectors, kept: list[int], threshold: float) -> np.ndarray:
    """Find for each row of a block the first kept row that it is a near-duplicate of: [b, d] -> [b], -1 = none."""
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
