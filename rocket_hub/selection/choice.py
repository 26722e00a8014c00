"""Which rows are taken until the budget is spent: arrays only, no text, no model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from rocket_hub.options import InstructionOptions
from rocket_hub.selection.duplicates import distinct
from rocket_hub.selection.similarity import ordered, similarity
from rocket_hub.selection.vectors import Vectors


@dataclass
class Choice:
    """What was taken, by position, and why the rest was not.

    Attributes:
        similarity: How like the K-shot each row is, [n].
        taken: The rows taken, in the order in which they were.
        near: Dropped row -> the taken row that it is a near-duplicate of.
        too_long: Rows that are longer than the whole budget of tokens.
        tokens: What the taken rows have in all, if there is a budget of tokens.
    """

    similarity: np.ndarray
    taken: list[int] = field(default_factory=list)
    near: dict[int, int] = field(default_factory=dict)
    too_long: list[int] = field(default_factory=list)
    tokens: int = 0


def choose(
    vectors: Vectors, shots: np.ndarray, options: InstructionOptions, tokens_of: Callable[[int], int] | None = None
) -> Choice:
    """Take the rows most like the K-shot, without near-duplicates, until the budget is spent (Algorithm 2).

    Of two near-duplicates the one that comes later in the order is dropped, and the next row takes its place. The
    first row that no longer fits into the budget of tokens ends the choice; a shorter one further down would be there
    only because it is short.

    Args:
        vectors: [n, d], rows of length 1; read in blocks.
        shots: [K, d], rows of length 1.
        options: How rows are compared, τ, the least similarity, and the budget.
        tokens_of: Counts the tokens of a row; needed for `max_tokens` only.

    Returns:
        The choice. What it does not name is below the least similarity, or behind the last row taken.

    Raises:
        InputError: An option cannot be used.
    """
    if not vectors.shape[0]:
        return Choice(np.zeros(0, dtype=np.float32))
    choice = Choice(similarity(vectors, shots, options.similarity, options.kde_gamma))
    order = ordered(vectors, shots, choice.similarity, options.similarity, options.min_similarity)
    if options.max_tokens is not None and tokens_of is not None:
        order = _fitting(order, options.max_tokens, tokens_of, choice.too_long)
    for row, partner in distinct(vectors, order, options.threshold):
        if partner is not None:
            choice.near[row] = partner
            continue
        if options.max_tokens is not None and tokens_of is not None:
            if choice.tokens + tokens_of(row) > options.max_tokens:
                break
            choice.tokens += tokens_of(row)
        choice.taken.append(row)
        if len(choice.taken) == options.max_rows:
            break
    return choice


def _fitting(order: Iterable[int], limit: int, tokens_of: Callable[[int], int], too_long: list[int]) -> Iterator[int]:
    """Leave out, and note, the rows that alone are longer than the budget."""
    for row in order:
        if tokens_of(row) <= limit:
            yield row
        else:
            too_long.append(row)
