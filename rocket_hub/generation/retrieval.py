"""Passages of domain text that stand before a question: found by words (BM25), by meaning (an encoder), or by both."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from rocket_hub.encoder import Encoder
from rocket_hub.errors import InputError

PASSAGE_WORDS = 100
_FUSED = 60
"""The constant of reciprocal rank fusion (Cormack et al. 2009)."""
_DEEP = 50
"""Ranks of each list that are fused."""
_TOKEN = r"(?u)\b\w+\b"  # bm25s leaves out tokens of one sign, and numbers are what some questions are about


def cut(texts: Sequence[str], words: int = PASSAGE_WORDS) -> list[str]:
    """Cut texts into passages at the ends of paragraphs, else of sentences, else anywhere.

    Args:
        texts: Documents.
        words: Longest passage.

    Returns:
        Passages, each on one line and only once; short paragraphs of one document stand together.
    """
    found: dict[str, None] = {}
    for text in texts:
        held: list[str] = []
        for part in _parts(text, words):
            if held and len(held) + len(part) > words:
                found[" ".join(held)] = None
                held = []
            held = [*held, *part]
        if held:
            found[" ".join(held)] = None
    return list(found)


def _parts(text: str, words: int) -> list[list[str]]:
    """Part a text into runs of words, none longer than a passage."""
    parts = []
    for paragraph in re.split(r"\n\s*\n", text):
        split = paragraph.split()
        sentences = [split] if len(split) <= words else [s.split() for s in re.split(r"(?<=[.!?])\s+", paragraph)]
        for sentence in sentences:
            parts += [sentence[at : at + words] for at in range(0, len(sentence), words)]
    return parts


class Retriever:
    """Finds the passages that belong to a question.

    Args:
        passages: What `cut` gives.
        kind: `bm25`, `dense` or `both`.
        encoder: Compares meanings; needed for all but `bm25`.

    Raises:
        InputError: There are no passages, or the encoder is missing.
    """

    def __init__(self, passages: Sequence[str], kind: str, encoder: Encoder | None = None) -> None:
        if not passages:
            raise InputError("there are no passages to find; give documents with text in them")
        if kind != "bm25" and encoder is None:
            raise InputError(f"retrieval {kind!r} needs an encoder; give one, or take 'bm25'")
        self._passages, self._kind, self._encoder = list(passages), kind, encoder
        self._index = _index(self._passages) if kind != "dense" else None
        self._vectors = encoder.encode(self._passages) if encoder and kind != "bm25" else None

    def find(self, questions: Sequence[str], count: int) -> list[list[str]]:
        """Find at most `count` passages for each question, the best first."""
        if not questions or not count:
            return [[] for _ in questions]
        ranks = []
        if self._index is not None:
            ranks.append([_words_ranked(self._index, question) for question in questions])
        if self._vectors is not None and self._encoder is not None:
            # [questions, d] @ [d, passages] -> [questions, passages]
            cosines = self._encoder.encode(questions) @ self._vectors.T
            ranks.append([_order(row) for row in cosines])
        found = [fused([ranked[i] for ranked in ranks])[:count] for i in range(len(questions))]
        return [[self._passages[i] for i in best] for best in found]


def fused(ranked: Sequence[Sequence[int]]) -> list[int]:
    """Fuse lists of passages, best first, by the sum of 1 / (60 + rank); one list stays as it is."""
    scores: dict[int, float] = {}
    for one in ranked:
        for rank, passage in enumerate(one[:_DEEP], 1):
            scores[passage] = scores.get(passage, 0.0) + 1 / (_FUSED + rank)
    return sorted(scores, key=lambda passage: (-scores[passage], passage))


def _index(passages: Sequence[str]) -> Any:
    """Index passages by their words."""
    import bm25s

    index = bm25s.BM25()
    index.index(_tokens(passages), show_progress=False)
    return index


def _tokens(texts: Sequence[str]) -> list[list[str]]:
    """Part texts into words, in any language."""
    import bm25s

    tokens: list[list[str]] = bm25s.tokenize(
        list(texts), token_pattern=_TOKEN, stopwords=None, return_ids=False, show_progress=False
    )
    return tokens


def _words_ranked(index: Any, question: str) -> list[int]:
    """Rank the passages that have a word of the question."""
    words = sorted(set(_tokens([question])[0]) & set(index.vocab_dict))
    if not words:
        return []
    scores = np.asarray(index.get_scores(words))
    return [i for i in _order(scores) if scores[i] > 0]


def _order(scores: np.ndarray) -> list[int]:
    """Order by score, best first; of equals the first."""
    best: list[int] = np.argsort(-scores, kind="stable")[:_DEEP].tolist()
    return best
