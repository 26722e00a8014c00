"""Plain data that travels between the stages.

Every selection says `selected`, `rejected` (each with a `reason` that names the fault) and, where there are numbers,
`scores`. Records are frozen; `serialization.py` is how the run folder and the recipes store them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Example:
    """One human-verified example of the task.

    Attributes:
        prompt: What the model is given, already in the task's form.
        completion: What it should write: rationale, then answer, in the task's form.
        answer: The answer alone, as the task's metric compares it.
        rationale: The reasoning before the answer; empty where the example has none.
    """

    prompt: str
    completion: str
    answer: str
    rationale: str = ""


@dataclass(frozen=True)
class Row:
    """One row of instruction data, in TRL's column names.

    Attributes:
        prompt: The instruction with its input.
        completion: The response.
        source: Repository id of the data set.
        index: Position of the row in its data set, from 0.
    """

    prompt: str
    completion: str
    source: str
    index: int


@dataclass(frozen=True)
class Pinned:
    """A repository at one commit.

    Attributes:
        repo_id: `namespace/name`.
        revision: The 40-digit commit hash.
        kind: `model` or `dataset`.
        licence: What its card declares; empty when it declares nothing.
    """

    repo_id: str
    revision: str
    kind: str = "model"
    licence: str = ""


@dataclass(frozen=True)
class Rejection:
    """Something that was looked at and not taken.

    Attributes:
        item: Repository id, or `source#index` for a row.
        reason: One word that names the fault, for example `rank_mismatch`.
        detail: What was found.
    """

    item: str
    reason: str
    detail: str = ""


def count_reasons(rejected: Iterable[Rejection]) -> dict[str, int]:
    """Count rejections per reason, most frequent first."""
    return dict(Counter(rejection.reason for rejection in rejected).most_common())


def reasons_in_words(rejected: Iterable[Rejection]) -> str:
    """Write the counts per reason for a table or a card, for example `2 gated, 1 dora`."""
    return ", ".join(f"{count} {reason}" for reason, count in count_reasons(rejected).items()) or "none"


@dataclass(frozen=True)
class AdapterCandidate:
    """A LoRA adapter on the Hub that fits the base model.

    Attributes:
        repo_id: `namespace/name`.
        revision: Commit hash.
        licence: Declared licence; empty when none.
        rank: Largest rank of any module.
        target_modules: Last names of the adapted modules, sorted.
        size: Bytes of `adapter_model.safetensors`.
        downloads: As the Hub counts them.
        datasets: Training data that its card declares.
        flags: What is odd but no fault, for example `quantized_base`.
        description: The card's text without its metadata, cut at 500 characters.
    """

    repo_id: str
    revision: str
    licence: str = ""
    rank: int = 0
    target_modules: tuple[str, ...] = ()
    size: int = 0
    downloads: int = 0
    datasets: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    description: str = ""


@dataclass(frozen=True)
class AdapterDiscovery:
    """What `discover_adapters` found for one base model."""

    base: Pinned
    selected: tuple[AdapterCandidate, ...]
    rejected: tuple[Rejection, ...] = ()


@dataclass(frozen=True)
class DatasetCandidate:
    """An instruction data set on the Hub whose columns are understood.

    Attributes:
        repo_id: `namespace/name`.
        revision: Commit hash.
        licence: Declared licence; empty when none.
        shape: Name of the column shape, for example `alpaca`.
        files: Paths of the data files of the train split, in the repository.
        size: Bytes of these files.
    """

    repo_id: str
    revision: str
    licence: str = ""
    shape: str = ""
    files: tuple[str, ...] = ()
    size: int = 0


@dataclass(frozen=True)
class DatasetDiscovery:
    """What `discover_datasets` found."""

    selected: tuple[DatasetCandidate, ...]
    rejected: tuple[Rejection, ...] = ()


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


@dataclass(frozen=True)
class Evaluation:
    """What one method scored on the evaluation set.

    Attributes:
        method: Name of the method or control.
        accuracy: Share of right answers, 0 to 1.
        low: Lower end of the 95 % Wilson interval.
        high: Upper end of the 95 % Wilson interval.
        correct: One 0 or 1 a problem, in the order of the evaluation set.
        seconds: Wall-clock seconds of the evaluation.
        details: Chosen settings (learning rate, weight), training seconds and the like.
    """

    method: str
    accuracy: float
    low: float
    high: float
    correct: tuple[int, ...] = ()
    seconds: float = 0.0
    details: dict[str, Any] = field(default_factory=dict)
