"""What a choice of experts looks at: their scores, and how alike those are that may be chosen together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rocket_hub.errors import InputError
from rocket_hub.options import ExpertOptions
from rocket_hub.records import ExpertScore
from rocket_hub.selection.diversity import Factors, behaviour_similarity, delta_w_similarity, paper_similarity

SAME = 0.99999  # cosine of two updates that are one, but for the rounding of bf16 files
NEARLY = 0.95

Loss = Callable[[Mapping[str, float]], float]  # weight of each adapter -> mean K-shot loss of their weighted sum
Tokens = Callable[[Sequence[str]], np.ndarray]  # M adapters -> probability of each token of the K-shot [M, T]
Votes = Callable[[Mapping[str, np.ndarray]], np.ndarray]  # module -> prototypes [M, in] -> votes [M]; see `arrow`


@dataclass(frozen=True)
class Probes:
    """What a selector may ask of the base model about the K-shot; none = it cannot be asked.

    Attributes:
        loss: K-shot loss of a weighted sum of adapters, for `lorahub`.
        votes: Counts which prototypes the K-shot's hidden states answer to, for `arrow`.
        tokens: Finds how likely each adapter finds each token of the K-shot, for `coverage`.
    """

    loss: Loss | None = None
    votes: Votes | None = None
    tokens: Tokens | None = None


NO_PROBES = Probes()


@dataclass(frozen=True)
class Bank:
    """What a selector may look at.

    Attributes:
        scores: All M adapters, best rank sum first; equal ones by perplexity, then by repository id.
        factors: repository id -> module -> (A, B).
        options: M, N, which similarity.
        pool: The adapters that the group may be made of, best first: no two of them are the same update.
        similarity: How alike those are [P, P].
        copies: Adapter that is left out of the pool -> the better one whose update it is.
        seed: Seeds what is random.
        probes: What may be asked of the base model.
    """

    scores: tuple[ExpertScore, ...]
    factors: Mapping[str, Factors]
    options: ExpertOptions
    pool: tuple[ExpertScore, ...]
    similarity: np.ndarray
    copies: Mapping[str, str]
    seed: int = 0
    probes: Probes = NO_PROBES

    @property
    def shortlist(self) -> tuple[ExpertScore, ...]:
        """The M best of the pool (Algorithm 1)."""
        return self.pool[: self.options.shortlist]


def rank_sum(score: ExpertScore) -> float:
    """Add RP and RA."""
    return score.rank_perplexity + score.rank_accuracy


def make_bank(
    scores: Sequence[ExpertScore],
    factors: Mapping[str, Factors],
    options: ExpertOptions,
    *,
    seed: int = 0,
    probes: Probes = NO_PROBES,
) -> Bank:
    """Order the adapters and find out which of them are alike.

    Two adapters with one update, whatever their factors, ranks or size of the update, are one skill: the one that the
    K-shot ranks higher stays in the pool. The paper knows no such rule, so with its own diversity there is none.

    Args:
        scores: One an adapter, with its ranks.
        factors: repository id -> module -> (A [r, in], B [out, r] with the scaling folded in), for the shortlist at
            least; others without them can only be ranked.
        options: M, N and which similarity.
        seed: For the bank.
        probes: For the bank.

    Returns:
        The bank.

    Raises:
        InputError: The factors of a shortlisted adapter are missing, or cannot be compared.
    """
    ordered = tuple(sorted(scores, key=lambda score: (rank_sum(score), score.perplexity, score.repo_id)))
    missing = [score.repo_id for score in ordered[: options.shortlist] if score.repo_id not in factors]
    if missing:
        raise InputError(f"no weights given for {', '.join(missing)}, which the diversity of the group needs")
    pool = [score for score in ordered if score.repo_id in factors]
    copies: dict[str, str] = {}
    if options.diversity == "paper":
        shortlist, rest = pool[: options.shortlist], pool[options.shortlist :]
        pool = [*shortlist, *(score for score in rest if _shapes(score, factors) == _shapes(shortlist[0], factors))]
        return Bank(ordered, factors, options, tuple(pool), similarity_of(pool, factors, options.diversity), copies,
                    seed, probes)  # fmt: skip
    cosines = similarity_of(pool, factors, "delta_w")
    for i, j in zip(*np.nonzero(np.triu(cosines >= SAME, 1)), strict=True):
        if pool[i].repo_id not in copies:
            copies.setdefault(pool[j].repo_id, pool[i].repo_id)
    kept = [i for i, score in enumerate(pool) if score.repo_id not in copies]
    pool = [pool[i] for i in kept]
    similarity = cosines[np.ix_(kept, kept)]
    if options.diversity != "delta_w":
        similarity = similarity_of(pool, factors, options.diversity)
    return Bank(ordered, factors, options, tuple(pool), similarity, copies, seed, probes)


def similarity_of(scores: Sequence[ExpertScore], factors: Mapping[str, Factors], diversity: str) -> np.ndarray:
    """Compute how alike adapters are [n, n], see `ExpertOptions.diversity`.

    Raises:
        InputError: They cannot be compared in this way.
    """
    if diversity == "behaviour":
        if len({len(score.correct) for score in scores}) > 1 or any(not score.correct for score in scores):
            raise InputError(
                "experts.diversity: 'behaviour' compares answers shot by shot, and not every adapter has answered all "
                "of them; use 'delta_w', which compares the weights"
            )
        return behaviour_similarity(np.array([score.correct for score in scores]))
    chosen = [factors[score.repo_id] for score in scores]
    return paper_similarity(chosen) if diversity == "paper" else delta_w_similarity(chosen)


def _shapes(score: ExpertScore, factors: Mapping[str, Factors]) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Name the modules of an adapter with the shapes of their factors."""
    return {name: (a.shape, b.shape) for name, (a, b) in factors[score.repo_id].items()}
