"""What the K-shot chooses."""

from __future__ import annotations

from dataclasses import dataclass, field

from rocket_hub.records.ingredients import Rejection, Row


@dataclass(frozen=True)
class ExpertScore:
    """How one adapter does on the K-shot.

    Attributes:
        repo_id: `namespace/name`.
        perplexity: Reasoning perplexity per completion token, mean over the shots (Eq. 2 and 4).
        accuracy: Share of exact matches by greedy generation (Eq. 5).
        rank_perplexity: Rank by perplexity, 1 = lowest (RP); ties share the mean rank.
        rank_accuracy: Rank by accuracy, 1 = highest (RA); ties share the mean rank.
        nll: Mean negative log-likelihood per token, in nats, one number a shot.
    """

    repo_id: str
    perplexity: float
    accuracy: float
    rank_perplexity: float
    rank_accuracy: float
    nll: tuple[float, ...] = ()


@dataclass(frozen=True)
class ExpertSelection:
    """The group of experts that the K-shot chose (Algorithm 1).

    Attributes:
        selected: Repository ids of the N chosen experts, best first.
        rejected: The other scored adapters, `not_in_shortlist` or `not_in_best_group`.
        scores: One a scored adapter, best rank sum first.
        diversity: Group diversity of the chosen group.
        best_single: Repository id of the adapter with the best rank sum.
    """

    selected: tuple[str, ...]
    rejected: tuple[Rejection, ...]
    scores: tuple[ExpertScore, ...]
    diversity: float
    best_single: str


@dataclass(frozen=True)
class InstructionSelection:
    """The rows that the K-shot chose (Algorithm 2).

    Attributes:
        selected: Rows, most similar first.
        scores: Largest cosine similarity of each selected row to any shot, in the same order.
        rejected: Near-duplicates, contaminated rows and the like, one each; rows that only fell behind the budget are
            counted in `considered`, not listed.
        considered: Rows that were compared.
        per_source: Selected rows per data set.
    """

    selected: tuple[Row, ...]
    scores: tuple[float, ...]
    rejected: tuple[Rejection, ...]
    considered: int
    per_source: dict[str, int] = field(default_factory=dict)
