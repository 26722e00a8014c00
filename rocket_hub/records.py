from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Example:
    """One example: a shot, a problem of an evaluation set, a row of open data or a generated row.

    A row of open data has no `answer` apart from its completion; a shot has no `source`.

    Attributes:
        prompt: What the model is given; of a shot or a problem, in the task's form.
        completion: What it should write: rationale, then answer, in the task's form.
        answer: The answer alone, as the task's metric compares it.
        rationale: The reasoning before the answer; empty where the example has none.
        choices: Texts of the options of a multiple-choice question, in the order of their letters.
        tests: Python statements that raise where a program is wrong; only for tasks whose answer is a program.
        source: Repository id of the data set that a row is from.
        index: Position of a row in its data set, from 0.
    """

    prompt: str
    completion: str
    answer: str = ""
    rationale: str = ""
    choices: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    source: str = ""
    index: int = 0


@dataclass(frozen=True)
class Pinned:
    """A repository at one commit."""

    repo_id: str  # `namespace/name`
    revision: str  # the 40-digit commit hash
    kind: str = "model"  # `model` or `dataset`
    licence: str = ""  # what its card declares; empty when it declares nothing


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
    return counts_in_words(count_reasons(rejected))


def counts_in_words(reasons: Mapping[str, int]) -> str:
    """Write counts per reason; see `reasons_in_words`."""
    return ", ".join(f"{count} {reason}" for reason, count in reasons.items()) or "none"


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

    selected: tuple[Example, ...]
    scores: tuple[float, ...]
    rejected: tuple[Rejection, ...]
    considered: int
    per_source: dict[str, int] = field(default_factory=dict)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    tokens: int = 0
    flagged: tuple[Rejection, ...] = ()


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
        description: What its name, tags and data say it is about, cut at 500 characters.
        prior: How likely it was to help before it was tried; only the order counts.
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
    prior: float = 0.0


@dataclass(frozen=True)
class AdapterDiscovery:
    """What `discover_adapters` found for one base model.

    Attributes:
        base: The base model at its commit.
        selected: Adapters that fit, likeliest first.
        rejected: The others that were listed, and why not.
        note: What to know about the whole, for example that the list is an old one; usually empty.
    """

    base: Pinned
    selected: tuple[AdapterCandidate, ...]
    rejected: tuple[Rejection, ...] = ()
    note: str = ""


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
        sizes: Bytes of each of them, in the same order.
        rows: Rows of the train split, as the card says; 0 when it does not.
        downloads: As the Hub counts them.
        languages: Codes of the languages that its card declares.
        label_names: Names of the classes of its label, where its rows have numbers for them.
        flags: What is odd but no fault: `task_data` (made from the task's own training data), `language_undeclared`,
            `languages_mixed`, `over_bytes` (its files are larger than the byte budget, so that only the first rows are
            read), `files_cut` (it has more files than are read).
        description: What its name, its tags and its card say, cut at 500 characters.
    """

    repo_id: str
    revision: str
    licence: str = ""
    shape: str = ""
    files: tuple[str, ...] = ()
    size: int = 0
    sizes: tuple[int, ...] = ()
    rows: int = 0
    downloads: int = 0
    languages: tuple[str, ...] = ()
    label_names: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    description: str = ""


@dataclass(frozen=True)
class DatasetDiscovery:
    """What `discover_datasets` found."""

    selected: tuple[DatasetCandidate, ...]
    rejected: tuple[Rejection, ...] = ()


@dataclass(frozen=True)
class Generated:
    """Instruction data that a model made.

    Attributes:
        method: `self_specialization` or `meteor`.
        maker: Who wrote it, for the card: the base model, or the teacher, at its commit where it has one.
        rows: What was kept; their `source` is `generated:<method>`.
        rejected: What was not, each with its reason.
        counts: How many there were at each step (asked for, brainstormed, distinct, answered, kept, ...).
        bill: What a teacher cost: calls, tokens in and out; empty where nobody was asked.
    """

    method: str
    maker: str
    rows: tuple[Example, ...]
    rejected: tuple[Rejection, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    bill: dict[str, Any] = field(default_factory=dict)


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


@dataclass(frozen=True)
class Setting:
    """One point of a method's grid."""

    learning_rate: float  # peak learning rate
    weight: float = 1.0  # weight of the experts at the start (the stack's, or the gates')
