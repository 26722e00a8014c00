"""Chosen rows that a person should look at: they may come from the evaluation set, but it is not certain."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from rocket_hub.inference.models import RETRIEVAL_PREFIX, Encoder
from rocket_hub.records import Rejection, Row
from rocket_hub.selection.decontamination import neighbours
from rocket_hub.selection.embeddings import embed, whole
from rocket_hub.selection.gates import row_name
from rocket_hub.selection.vectors import EmbeddingCache


def flagged(
    encoder: Encoder,
    rows: Sequence[Row],
    doubts: Mapping[str, Rejection],
    evaluation_questions: Collection[str],
    cache: EmbeddingCache,
) -> tuple[Rejection, ...]:
    """List the rows to look at.

    Args:
        encoder: Turns texts into vectors.
        rows: The chosen rows.
        doubts: Name of a row -> what the search for words found doubtful.
        evaluation_questions: Bare questions of the evaluation set.
        cache: Where vectors are looked up and kept.

    Returns:
        What was doubtful, then `near_evaluation_question` with the nearest question of each row whose prompt is near.
    """
    found = [doubts[name] for row in rows if (name := row_name(row)) in doubts]
    questions = list(dict.fromkeys(evaluation_questions))
    if not questions:
        return tuple(found)
    texts = [whole(f"{RETRIEVAL_PREFIX}{text.strip()}") for text in (*(row.prompt for row in rows), *questions)]
    vectors, count = embed(encoder, texts, cache), len(rows)
    near = neighbours(vectors[np.arange(count)], vectors[np.arange(count, len(texts))])
    found += [
        Rejection(row_name(rows[row]), "near_evaluation_question", f"cosine {cosine:.2f} with: {questions[question]}")
        for row, (question, cosine) in near.items()
    ]
    return tuple(found)
