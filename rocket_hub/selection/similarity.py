"""How like the K-shot each row is, and the order in which rows are taken: arrays only, in blocks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rocket_hub.errors import InputError
from rocket_hub.selection.vectors import Vectors

MODES = ("max", "mean", "kde", "round_robin")
_BLOCK = 8192
_DIGITS = 6  # beyond them lies the rounding of float32 products, which must not rank rows


def similarity(vectors: Vectors, shots: np.ndarray, mode: str = "max", gamma: float = 10.0) -> np.ndarray:
    """Compute how like the K-shot each row is, on the scale of a cosine.

    - `max`: the largest cosine to any shot (Algorithm 2). A single shot can fill the whole budget.
    - `mean`: the mean cosine, which is the cosine with the mean shot up to a factor. The middle of several kinds of
      shots may be like none of them.
    - `kde`: a Gaussian kernel density of the shots (Table 3), mean_i exp(−γ‖shot_i − row‖²). Its logarithm is brought
      to the cosine's scale, log(mean_i exp(2γ cos_i)) / 2γ, which ranks alike: `mean` for small γ, `max` for large.
    - `round_robin` ranks by shots, see `ordered`; its similarity is that of `max`.

    Args:
        vectors: [n, d], rows of length 1; read once, in blocks.
        shots: [K, d], rows of length 1.
        mode: One of `MODES`.
        gamma: γ of `kde`, one over twice the squared bandwidth.

    Returns:
        [n] float32, rounded to six digits, so that equal rows are equal wherever they stand.

    Raises:
        InputError: There is no such mode, γ is not positive, or rows and shots have different widths.
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
    """Go through the rows in the order in which they are taken.

    With `round_robin` each shot in turn takes the row nearest to it that is left, so that every shot has its part of
    the budget; this needs 12 n K bytes. In the other modes the most similar row comes first. Of equally similar rows
    the one that stands first comes first.

    Args:
        vectors: [n, d], rows of length 1.
        shots: [K, d], rows of length 1.
        ranked_by: What `similarity` found, [n].
        mode: One of `MODES`.
        least: Rows below this similarity are left out.

    Yields:
        Each row once, by position.
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
    """Compare all rows with all shots, block by block: yields which rows, and their cosines [b, K]."""
    for start in range(0, vectors.shape[0], _BLOCK):
        block = slice(start, min(start + _BLOCK, vectors.shape[0]))
        yield block, vectors[np.arange(block.start, block.stop)] @ shots.T  # [b, d] @ [d, K] -> [b, K]
