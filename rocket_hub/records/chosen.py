"""What the K-shot chooses."""

from __future__ import annotations

from dataclasses import dataclass, field

from rocket_hub.records.ingredients import Rejection, Row


@dataclass(frozen=True)
class ExpertScore:
    """How one adapter, or the bare base, does on the K-shot.

    Attributes:
        repo_id: `namespace/name`.
        perplexity: Reasoning perplexity per completion token, mean over the shots (Eq. 2 and 4).
        accuracy: Share of exact matches by greedy generation (Eq. 5).
        rank_perplexity: Rank by perplexity, 1 = lowest (RP); ties share the mean rank.
        rank_accuracy: Rank by accuracy, 1 = highest (RA); ties share the mean rank.
        nll: Mean negative log-likelihood per token, in nats, one number a shot, or with `experts.perplexity:
            arithmetic` minus the log of the tokens' mean probability; empty where some were not scored.
        correct: 1 = right, 0 = wrong, one number a shot; empty where it was not asked to answer.
        shots: How many shots it was scored on.
        accuracy_low: Lower end of the 95 % Wilson interval of the accuracy.
        accuracy_high: Upper end of it; from 0 to 1 where it was not asked to answer.
        chosen_share: In how many of the resamples of the shots it was chosen, 0 to 1; none = not resampled. Adapters
            that were not scored on all shots take no part, so it is the noise of the last choice alone.
        similarity: Mean similarity to the other experts of the group; none = not compared.
        licence: Declared licence; empty when none.
        marks: What to look at: `task_data` (it was made from the task's own training data), `halved_out` (left behind
            before all shots were scored), `not_likelier` and `not_righter` (not beyond one standard error better than
            the base), `like <repository>` (its update is nearly that of a better one), and what discovery flagged.
    """

    repo_id: str
    perplexity: float
    accuracy: float
    rank_perplexity: float
    rank_accuracy: float
    nll: tuple[float, ...] = ()
    correct: tuple[int, ...] = ()
    shots: int = 0
    accuracy_low: float = 0.0
    accuracy_high: float = 1.0
    chosen_share: float | None = None
    similarity: float | None = None
    licence: str = ""
    marks: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExpertSelection:
    """The group of experts that the K-shot chose (Algorithm 1), and how far the shots bear it out.

    Differences are paired over the shots, in nats a completion token, each with its standard error; none = unknown.

    Attributes:
        selected: Repository ids of the chosen experts, best first: the group, or what is left after the verdict.
        rejected: The other scored adapters, each with the reason.
        scores: One a scored adapter, best rank sum first.
        diversity: Group diversity of the chosen group.
        best_single: Repository id of the adapter with the best rank sum.
        group: Repository ids of the chosen group, whatever the verdict.
        verdict: `group`, `one_expert` (one is enough) or `none_helps` (none beats the bare base); see `judge`.
        reason: The verdict in one sentence with its numbers.
        base: The bare base model; none = not scored.
        runner_up: The second group of Algorithm 1; empty when there is none.
        lead: Mean likelihood of the group's experts minus that of the runner-up's.
        lead_error: Its standard error.
        gain: What the likeliest expert of the group on each shot gains over `best_single`: a bound in hindsight.
        gain_error: Its standard error.
        ties: Adapters of other groups with the very same total; a rule without meaning decided against them.
        held_out_accuracy: Accuracy of the best single expert on shots that had no say in choosing it.
        selector: How the group was chosen.
        rationales: Where the shots' reasoning comes from, in words.
        cost: What scoring cost, by name: `pairs` of `possible`, `answers`, `tokens`, `seconds`.
    """

    selected: tuple[str, ...]
    rejected: tuple[Rejection, ...]
    scores: tuple[ExpertScore, ...]
    diversity: float
    best_single: str
    group: tuple[str, ...] = ()
    verdict: str = "group"
    reason: str = ""
    base: ExpertScore | None = None
    runner_up: tuple[str, ...] = ()
    lead: float | None = None
    lead_error: float | None = None
    gain: float | None = None
    gain_error: float | None = None
    ties: tuple[str, ...] = ()
    held_out_accuracy: float | None = None
    selector: str = "rocket"
    rationales: str = ""
    cost: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class InstructionSelection:
    """The rows that the K-shot chose (Algorithm 2).

    Attributes:
        selected: Rows, in the order in which they were taken: most similar first.
        scores: How like the K-shot each selected row is, in the same order, on the scale of a cosine.
        rejected: Near-duplicates, contaminated rows and the like, one each; rows below the least similarity or beyond
            the budget are counted in `counts`, not listed.
        considered: Rows that were compared.
        per_source: Selected rows per data set.
        counts: Data set -> `read`, `chosen` and every reason -> rows; the numbers after `read` sum up to it.
        tokens: Tokens of the selected rows, if there was a budget of tokens.
        flagged: Selected rows that a person should look at, as they may come from the evaluation set.
    """

    selected: tuple[Row, ...]
    scores: tuple[float, ...]
    rejected: tuple[Rejection, ...]
    considered: int
    per_source: dict[str, int] = field(default_factory=dict)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    tokens: int = 0
    flagged: tuple[Rejection, ...] = ()
