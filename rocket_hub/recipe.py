"""The recipe: everything a build is told, in one strict YAML file.

The groups of options have the names of the stages and come in their order. An unknown key, or a value of the wrong
type, is an error that names file, key and what was meant.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from rocket_hub.errors import RecipeError
from rocket_hub.serialization import from_dict, to_dict


@dataclass(frozen=True)
class DiscoverOptions:
    """What may be taken from the Hub.

    Attributes:
        max_adapters: At most this many adapters go on to scoring, likeliest first.
        max_datasets: At most this many data sets are read.
        max_rows_per_dataset: At most this many rows are read from one data set.
        datasets: Only these data sets, by id; empty = search.
        allow_licences: Licences that are accepted although they restrict the result, for example `cc-by-nc-4.0`.
        leave_task_out: Reject adapters and data made from the task's own training split.
    """

    max_adapters: int = 50
    max_datasets: int = 20
    max_rows_per_dataset: int = 20_000
    datasets: tuple[str, ...] = ()
    allow_licences: tuple[str, ...] = ()
    leave_task_out: bool = False


@dataclass(frozen=True)
class ExpertOptions:
    """How the K-shot chooses experts (Algorithm 1).

    Attributes:
        shortlist: M, the adapters with the best rank sums.
        num_experts: N, the size of the group.
        diversity: `delta_w` (cosine of BA, gauge-invariant) or `paper` (Eq. 6).
    """

    shortlist: int = 8
    num_experts: int = 4
    diversity: str = "delta_w"


@dataclass(frozen=True)
class InstructionOptions:
    """How the K-shot chooses rows (Algorithm 2).

    Attributes:
        encoder: Sentence encoder, a repository id.
        max_rows: C, the rows nearest to the K-shot.
        threshold: tau, the cosine above which two rows are near-duplicates.
        min_similarity: Rows below this similarity to every shot are not taken; -1 takes all.
    """

    encoder: str = "sentence-transformers/all-MiniLM-L6-v2"
    max_rows: int = 1000
    threshold: float = 0.9
    min_similarity: float = -1.0


@dataclass(frozen=True)
class MergeOptions:
    """How experts become one routed adapter.

    Attributes:
        gate: `sigmoid` (one gate an expert, starts exactly at the static stack) or `softmax` (the paper's Eq. 7-9).
        gate_start: Weights at which the experts start; more than one = a grid to choose from.
        top_k: Experts active per token; none = all.
        train_experts: Train experts and routers jointly; false = routers only.
    """

    gate: str = "sigmoid"
    gate_start: tuple[float, ...] = (0.5,)
    top_k: int | None = None
    train_experts: bool = True


@dataclass(frozen=True)
class TrainOptions:
    """How the merged adapter, and every trained control, is fine-tuned.

    Attributes:
        learning_rate: Peak learning rates; more than one = a grid to choose from.
        router_learning_rate_ratio: The routers' learning rate as a share of the experts'.
        max_steps: Optimiser steps.
        batch_size: Rows a step.
        warmup_ratio: Share of the steps in which the learning rate rises.
        weight_decay: AdamW's decoupled weight decay.
        max_length: Longest row, in tokens.
        dtype: `float32` or `bfloat16`.
    """

    learning_rate: tuple[float, ...] = (2.0e-4,)
    router_learning_rate_ratio: float = 0.1
    max_steps: int = 200
    batch_size: int = 16
    warmup_ratio: float = 0.1
    weight_decay: float = 0.0
    max_length: int = 1024
    dtype: str = "float32"


@dataclass(frozen=True)
class Setting:
    """One point of a method's grid.

    Attributes:
        learning_rate: Peak learning rate.
        weight: Weight of the experts at the start (the stack's, or the gates').
    """

    learning_rate: float
    weight: float = 1.0


@dataclass(frozen=True)
class EvaluateOptions:
    """How the result and its controls are measured.

    Attributes:
        dataset: Evaluation set, a repository id; none = the task's own.
        config: Configuration of the evaluation set; none = its only one.
        split: Its split.
        max_rows: At most this many problems; none = all.
        batch_size: Prompts generated at once.
        max_new_tokens: Longest answer, in tokens.
        controls: Names of the controls to run beside the result, or `all`.
        settings: Fixed settings of trained controls, by name; a control without one gets the same grid as the result.
    """

    dataset: str | None = None
    config: str | None = None
    split: str = "test"
    max_rows: int | None = None
    batch_size: int = 32
    max_new_tokens: int = 256
    controls: tuple[str, ...] = ()
    settings: dict[str, Setting] = field(default_factory=dict)


@dataclass(frozen=True)
class PushOptions:
    """Where and how the result is published.

    Attributes:
        repo_id: Target repository; none = do not push.
        private: Create it as a private repository.
        publish: `all` (routed adapter, its stock-LoRA form, card) or `best` (only what the card recommends).
        verify: Reload the pushed adapter in a fresh process and compare the logits.
    """

    repo_id: str | None = None
    private: bool = False
    publish: str = "all"
    verify: bool = True


_CHOICES = {
    "experts.diversity": ("delta_w", "paper"),
    "merge.gate": ("sigmoid", "softmax"),
    "train.dtype": ("float32", "bfloat16"),
    "push.publish": ("all", "best"),
}
_POSITIVE = {
    "discover": ("max_adapters", "max_datasets", "max_rows_per_dataset"),
    "experts": ("shortlist", "num_experts"),
    "instructions": ("max_rows",),
    "train": ("max_steps", "batch_size", "max_length"),
    "evaluate": ("batch_size", "max_new_tokens"),
}


@dataclass(frozen=True)
class Recipe:
    """Everything a build is told.

    Attributes:
        task: Name of a task in `rocket_hub.tasks`.
        base: Base model, a repository id.
        seed: Seeds sampling, initialisation and data order.
    """

    task: str
    base: str
    seed: int = 0
    discover: DiscoverOptions = field(default_factory=DiscoverOptions)
    experts: ExpertOptions = field(default_factory=ExpertOptions)
    instructions: InstructionOptions = field(default_factory=InstructionOptions)
    merge: MergeOptions = field(default_factory=MergeOptions)
    train: TrainOptions = field(default_factory=TrainOptions)
    evaluate: EvaluateOptions = field(default_factory=EvaluateOptions)
    push: PushOptions = field(default_factory=PushOptions)

    @classmethod
    def from_yaml(cls, text: str, where: str) -> Recipe:
        """Read a recipe.

        Args:
            text: YAML.
            where: Name of its file, for messages.

        Raises:
            RecipeError: The text is no YAML, has an unknown key, or a value that does not fit.
        """
        try:
            data = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise RecipeError(f"{where}: not YAML: {error}") from error
        recipe = from_dict(cls, data, where)
        recipe.check(where)
        return recipe

    @classmethod
    def from_file(cls, path: Path) -> Recipe:
        """Read a recipe from a file; see `from_yaml`."""
        try:
            return cls.from_yaml(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"{path}: cannot be read: {error}") from error

    def to_yaml(self) -> str:
        """Write the recipe so that `from_yaml` gives it back."""
        return yaml.safe_dump(_lists(to_dict(self)), sort_keys=False)

    def updated(self, group: str, **values: object) -> Recipe:
        """Return a copy with some options of one group replaced; `None` values are left as they are."""
        given = {key: value for key, value in values.items() if value is not None}
        return replace(self, **{group: replace(getattr(self, group), **given)})

    def check(self, where: str) -> None:
        """Raise RecipeError for values that no stage could use."""
        options = {f"{group}.{key}": value for group, values in to_dict(self).items() if isinstance(values, dict)
                   for key, value in values.items()}  # fmt: skip
        for key, known in _CHOICES.items():
            if options[key] not in known:
                raise RecipeError(f"{where}: {key}: expected one of {', '.join(known)}, found {options[key]!r}")
        for key in (f"{group}.{name}" for group, names in _POSITIVE.items() for name in names):
            if options[key] < 1:
                raise RecipeError(f"{where}: {key}: expected at least 1, found {options[key]}")
        for key in ("train.learning_rate", "merge.gate_start"):
            if not options[key] or min(options[key]) <= 0:
                raise RecipeError(f"{where}: {key}: expected positive numbers, found {list(options[key])}")
        if self.experts.shortlist < self.experts.num_experts:
            raise RecipeError(
                f"{where}: experts.shortlist ({self.experts.shortlist}) must be at least experts.num_experts "
                f"({self.experts.num_experts}): the group is chosen from the shortlist"
            )


def _lists(value: object) -> object:
    """Turn tuples into lists, which is how YAML writes them."""
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, (list, tuple)) else value
