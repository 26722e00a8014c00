from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rocket_hub.inference import Continuation
from rocket_hub.inference.models import Encoder

_WORD = re.compile(r"\w+")
_RUN = 3  # words of the runs that are counted
_FEWEST = 10  # words below which nothing is called repetition
_SPREAD = 3  # a text may be so many times longer than the longest seed, or shorter than the shortest

Fault = tuple[str, str]  # reason, what was found


@dataclass(frozen=True)
class Lengths:
    """How long texts may be, in words."""

    fewest: int
    most: int

    @classmethod
    def like(cls, texts: Sequence[str]) -> Lengths:
        """Allow a third of the shortest to three times the longest of some texts."""
        counts = [len(text.split()) for text in texts]
        return cls(-(-min(counts) // _SPREAD), max(counts) * _SPREAD)


def text_fault(found: Continuation, lengths: Lengths) -> Fault | None:
    """Find what a text shows by itself: `empty`, `unfinished`, `too_short`, `too_long`, `repetition`."""
    words = found.text.split()
    if not words:
        return "empty", ""
    if not found.ended:
        return "unfinished", f"{len(words)} words and no end"
    if len(words) < lengths.fewest:
        return "too_short", f"{len(words)} words; the seeds allow {lengths.fewest} or more"
    if len(words) > lengths.most:
        return "too_long", f"{len(words)} words; the seeds allow {lengths.most}"
    return ("repetition", f"most of its runs of {_RUN} words were there before") if repeats(words) else None


def repeats(words: Sequence[str]) -> bool:
    """Return whether at least half of the runs of three words were there before; short texts may repeat."""
    runs = list(zip(*(words[i:] for i in range(_RUN)), strict=False))
    return len(words) >= _FEWEST and 2 * len(set(runs)) <= len(runs)


def folded(text: str) -> str:
    """Return a text without differences of letter case and white space."""
    return " ".join(text.casefold().split())


class Novelty(Protocol):
    """Finds the nearest of the texts that were added."""

    def nearest(self, text: str) -> tuple[float, str]:
        """Return (similarity, the text that is so similar); (0, "") where there is none yet."""
        ...

    def add(self, text: str) -> None:
        """Add a text."""
        ...


class RougeNovelty:
    """Similarity is ROUGE-L's F1 over words in lower case (Lin 2004; Self-Instruct filters by it)."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._known: list[tuple[str, list[str]]] = []
        for text in texts:
            self.add(text)

    def nearest(self, text: str) -> tuple[float, str]:
        """See `Novelty.nearest`."""
        words = _WORD.findall(text.casefold())
        common, best = common_with(words), (0.0, "")
        for known, other in self._known:
            total = len(words) + len(other)
            # no more words can be common than the shorter one has
            if total and 2 * min(len(words), len(other)) / total > best[0]:
                best = max(best, (2 * common(other) / total, known))
        return best

    def add(self, text: str) -> None:
        """Add a text."""
        self._known.append((text, _WORD.findall(text.casefold())))


class EmbeddingNovelty:
    """Similarity is the cosine of two texts' vectors."""

    def __init__(self, texts: Sequence[str], encoder: Encoder) -> None:
        self._encoder, self._texts = encoder, list(texts)
        self._vectors = list(encoder.encode(self._texts))

    def nearest(self, text: str) -> tuple[float, str]:
        """See `Novelty.nearest`."""
        if not self._texts:
            return 0.0, ""
        # [known, d] @ [d] -> [known]
        cosines = np.stack(self._vectors) @ self._encoder.encode([text])[0]
        best = int(cosines.argmax())
        return float(cosines[best]), self._texts[best]

    def add(self, text: str) -> None:
        """Add a text."""
        self._texts.append(text)
        self._vectors.append(self._encoder.encode([text])[0])


def rouge_l(text: str, other: str) -> float:
    """Compute ROUGE-L's F1 of two texts."""
    return RougeNovelty([other]).nearest(text)[0]


def common_with(words: Sequence[str]) -> Callable[[Sequence[str]], int]:
    """Return a function that computes the length of the longest common subsequence with some words.

    Bit-parallel (Hyyrö 2004): one addition for each word of the other text, as thousands are compared.
    """
    places: dict[str, int] = {}
    for place, word in enumerate(words):
        places[word] = places.get(word, 0) | 1 << place
    whole = (1 << len(words)) - 1

    def common(other: Sequence[str]) -> int:
        row = whole
        for word in other:
            hits = row & places.get(word, 0)
            row = ((row + hits) | (row - hits)) & whole
        return len(words) - bin(row).count("1")

    return common


def vote_fault(answer: str, votes: Sequence[str]) -> Fault | None:
    """Find `inconsistent`: at most half of the samples give the greedy answer; no answer counts as another one."""
    if 2 * votes.count(answer) > len(votes):
        return None
    said, count = Counter(votes).most_common(1)[0]
    return "inconsistent", f"{answer!r:.40} by {votes.count(answer)} of {len(votes)}, {said!r:.40} by {count}"
