"""The choice of instruction data by likeness to the K-shot (Algorithm 2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from rocket_hub.encoder import RETRIEVAL_PREFIX, Encoder
from rocket_hub.errors import InputError, NothingLeftError
from rocket_hub.options import InstructionOptions
from rocket_hub.records import Example, InstructionSelection, Rejection, Row, count_reasons
from rocket_hub.selection.decontamination import contaminated
from rocket_hub.selection.diversity import keep_distinct


def select_instructions(
    encoder: Encoder,
    shots: Sequence[Example],
    rows: Sequence[Row],
    options: InstructionOptions,
    *,
    evaluation_questions: Collection[str] = (),
) -> InstructionSelection:
    """Choose the rows most like the K-shot, without near-duplicates (Algorithm 2).

    Rows that hold an evaluation question, that hold a shot's question, or that are there twice go first. The others
    are ranked by their largest cosine to any shot, over prompt and completion, and taken in this order; of two
    near-duplicates the one less like the K-shot is dropped, and the next row takes its place, until C are taken.

    Args:
        encoder: Turns texts into vectors.
        shots: The K-shot as read: bare question and whole answer text.
        rows: Candidates from all data sets. Equal similarity keeps their order.
        options: C, tau and the least similarity.
        evaluation_questions: Bare questions that no training row may hold.

    Returns:
        The selection; rows below `min_similarity` or beyond C are counted in `considered`, not listed.

    Raises:
        InputError: There are no shots.
        NothingLeftError: No row is left.
    """
    if not shots:
        raise InputError("the K-shot is empty; rows are compared with at least one example")
    faults = _faults(rows, shots, evaluation_questions)
    pool = [row for position, row in enumerate(rows) if position not in faults]
    vectors = encoder.encode([_text(row) for row in pool])
    similarity = _largest_similarity(vectors, encoder.encode([_text(shot) for shot in shots]))
    order = np.argsort(-similarity, kind="stable")
    order = order[similarity[order] >= options.min_similarity]
    kept, dropped = keep_distinct(vectors[order], options.threshold, options.max_rows)
    near = [
        Rejection(_name(pool[order[row]]), "near_duplicate_of", _name(pool[order[partner]]))
        for row, partner in dropped.items()
    ]
    rejected = (*faults.values(), *near)
    if not kept:
        reasons = ", ".join(f"{n} {reason}" for reason, n in count_reasons(rejected).items()) or "none rejected"
        raise NothingLeftError(
            f"no instruction data is left of {len(rows)} rows ({reasons}; {len(pool) - len(order)} below "
            f"instructions.min_similarity {options.min_similarity:g}); give more data sets or lower the limit"
        )
    selected = tuple(pool[order[i]] for i in kept)
    return InstructionSelection(
        selected=selected,
        scores=tuple(float(similarity[order[i]]) for i in kept),
        rejected=rejected,
        considered=len(pool),
        per_source=dict(Counter(row.source for row in selected).most_common()),
    )


def _faults(
    rows: Sequence[Row], shots: Sequence[Example], evaluation_questions: Collection[str]
) -> dict[int, Rejection]:
    """Find the rows that may not be taken whatever they are like: position -> the reason."""
    in_evaluation = contaminated(rows, evaluation_questions)
    in_kshot = contaminated(rows, [shot.prompt for shot in shots])
    faults: dict[int, Rejection] = {}
    first: dict[tuple[str, str], Row] = {}
    for position, row in enumerate(rows):
        if position in in_evaluation:
            faults[position] = Rejection(_name(row), "contaminated", in_evaluation[position])
        elif position in in_kshot:
            faults[position] = Rejection(_name(row), "duplicate_of_kshot", in_kshot[position])
        elif (same := first.setdefault((row.prompt.strip(), row.completion.strip()), row)) is not row:
            faults[position] = Rejection(_name(row), "duplicate_of", _name(same))
    return faults


def _largest_similarity(vectors: np.ndarray, shots: np.ndarray) -> np.ndarray:
    """Compute max_i cos(shot i, row): [n, d], [K, d] -> [n]."""
    return (vectors @ shots.T).max(axis=1)


def _text(example: Example | Row) -> str:
    """Join prompt and completion behind the paper's prefix."""
    return f"{RETRIEVAL_PREFIX}{example.prompt.strip()}\n{example.completion.strip()}"


def _name(row: Row) -> str:
    """Name a row as rejections do."""
    return f"{row.source}#{row.index}"
