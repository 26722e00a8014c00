"""What the stages of a build leave, in their order. Paths are relative to the run folder."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import rocket_hub.records as records


@dataclass(frozen=True)
class Difference:
    """How far one measurement is from another, paired over the problems."""

    difference: float  # in accuracy
    standard_error: float  # of that difference; infinite over one problem


@dataclass(frozen=True)
class Recommendation:
    """Which method to use, and why."""

    method: str  # name of the method
    reason: str  # one sentence with the numbers


@dataclass(frozen=True)
class Choice:
    """The setting that was chosen, and what every point of the grid scored.

    Attributes:
        setting: The chosen point.
        nll: Mean negative log-likelihood per completion token on the held-out shots, in nats, per point.
        standard_error: Standard error of each mean over the shots.
    """

    setting: records.Setting
    nll: tuple[float, ...] = ()
    standard_error: tuple[float, ...] = ()


@dataclass(frozen=True)
class Training:
    """What a training did."""

    adapter: str  # folder of the trained adapter
    learning_rate: float  # peak learning rate of the experts
    steps: int  # optimiser steps
    loss: float  # mean loss of the last twentieth of the steps, in nats per completion token
    seconds: float  # wall-clock seconds, without what an earlier, stopped run spent


@dataclass(frozen=True)
class Reload:
    """What a fresh process made of a published adapter."""

    max_difference: float  # largest absolute difference of any logit to those of the local files
    generated: tuple[str, ...]  # what it generated with the KV cache, one text a prompt
    same_text: bool  # whether this process generates the same from the local files without the KV cache
    bound: float  # largest difference that is taken for noise, from what the shape of a batch changes
    agreement: float  # share of positions where both name the same likeliest token
    precision: str  # in which both computed


@dataclass(frozen=True)
class Discovery:
    """Stage 1: what is on the Hub, at its commits."""

    adapters: records.AdapterDiscovery
    datasets: records.DatasetDiscovery
    encoder: records.Pinned
    evaluation: records.Pinned

    @property
    def base(self) -> records.Pinned:
        """The base model at its commit."""
        return self.adapters.base

    @property
    def usable(self) -> list[records.Pinned]:
        """Usable adapters and data sets."""
        adapters = [records.Pinned(one.repo_id, one.revision, "model", one.licence) for one in self.adapters.selected]
        datasets = [records.Pinned(one.repo_id, one.revision, "dataset", one.licence) for one in self.datasets.selected]
        return [*adapters, *datasets]

    @property
    def pins(self) -> dict[str, records.Pinned]:
        """Base, encoder, evaluation set, usable adapters and data sets, by kind and id (`models/namespace/name`)."""
        return {f"{pin.kind}s/{pin.repo_id}": pin for pin in (self.encoder, self.evaluation, self.base, *self.usable)}


@dataclass(frozen=True)
class Generation:
    """Stage 0, after discovery: rows that a model made; the rows themselves are in a file.

    Attributes:
        method: `self_specialization`, `meteor` or `none`.
        maker: Who wrote them, see `Generated`.
        rows: How many were kept.
        sha256: Of the file with the rows.
        counts: How many there were at each step.
        reasons: Why the others were not kept.
        bill: What a teacher cost.
        made_from: What wrote them and what it read: the base model first, then a teacher or documents.
        seeds: Solved examples that they grew from.
        task: Name of the task.
        found: Rows with an answer that were found on the Hub, where these were enough; none = not counted.
        rows_file: The rows.
        rejected_file: The others, each with its reason.
        settings: Options of the method.
        stages: METEOR's own counts, by stage.
        adapters: METEOR's adapters, by stage.
    """

    method: str = "none"
    maker: str = ""
    rows: int = 0
    sha256: str = ""
    counts: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    bill: dict[str, Any] = field(default_factory=dict)
    made_from: tuple[records.Pinned, ...] = ()
    seeds: int = 0
    task: str = ""
    found: int | None = None
    rows_file: str = ""
    rejected_file: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    stages: dict[str, Any] = field(default_factory=dict)
    adapters: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DataSelection(records.InstructionSelection):
    """Stage 3: the rows that the K-shot chose; of the rejected ones only the first of each reason are listed."""

    reasons: dict[str, int] = field(default_factory=dict)  # reason -> all rows and data sets that were rejected for it
    rejected_file: str = ""  # all of them
    map: str = ""  # the picture of the rows
    read: int = 0  # rows that were read
    without_answer: int = 0  # rows without an answer in the task's form


@dataclass(frozen=True)
class Chosen:
    """What the first stages left: all that a method is made of."""

    found: Discovery  # what is on the Hub
    generated: Generation  # what is known of generated rows
    experts: records.ExpertSelection  # the experts that the K-shot chose (stage 2)
    rows: DataSelection  # the rows that it chose

    @property
    def group(self) -> tuple[str, ...]:
        """Experts that methods are made of; where none helps, a fresh LoRA takes the shape of the group."""
        return self.experts.selected or self.experts.group


@dataclass(frozen=True)
class Adapter:
    """Stage 4: the merged adapter, before training."""

    method: str  # how it was made, see `rocket_hub.controls`
    adapter: str  # its folder
    weight: float  # weight of the experts at the start
    bytes: int  # size of its weights


@dataclass(frozen=True)
class Trained:
    """Stage 5: the chosen setting and the training at it."""

    choice: Choice
    training: Training


@dataclass(frozen=True)
class Evaluations:
    """Stage 6: the result and its controls on the same problems, cheapest method first."""

    evaluations: tuple[records.Evaluation, ...]  # one a method
    differences: dict[str, Difference]  # method -> the result minus it
    recommendation: Recommendation  # which one to use
    labels: dict[str, str]  # method -> what it is, in a few words

    def of(self, method: str) -> records.Evaluation:
        """Return the measurement of a method."""
        return next(each for each in self.evaluations if each.method == method)


@dataclass(frozen=True)
class Publication:
    """Stage 7: where the result is."""

    repo_id: str | None  # the repository; none = it was not pushed
    content: str  # folder with all that is published
    commit: str = ""  # its commit
    reload: Reload | None = None  # what a fresh process made of it; none = not checked


@dataclass(frozen=True)
class CardFacts:
    """What the card of an adapter says, one field for each place in the template."""

    title: str  # last part of the id
    summary: str
    routed: bool  # published as a routed adapter, with a stock-LoRA form beside it
    trained: bool
    repo_id: str
    base: records.Pinned
    dtype: str  # that the base was loaded in
    collapse: Mapping[str, Any] | None  # what the stock-LoRA form costs, see `rocket_hub.moe.collapsing`
    prompt: str  # a prompt of the task
    evaluation_note: str  # what was measured, and how
    results: list[dict[str, str]]  # one row a method
    recommendation: dict[str, str]  # label and reason
    experts: list[dict[str, Any]]  # one row an expert in it
    shots: int
    verdict: str  # what the shots say of the choice
    flagged: int  # chosen rows that a person should look at
    scored: int  # adapters
    diversity: float  # of the group
    adapters_rejected: str  # counts of the reasons, as of rows and data sets
    rows: int
    considered: str
    datasets: list[dict[str, Any]]  # one row a data set in it
    generated: dict[str, Any] | None  # rows that a model made; none = there are none in it
    rows_rejected: str
    datasets_rejected: str
    licence: str  # of the result
    licence_notes: str
    version: str  # of this package
    recipe: str
