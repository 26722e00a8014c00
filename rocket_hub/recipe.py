"""The recipe: everything a build is told, in one strict YAML file.

The groups of options have the names of the stages and come in their order. An unknown key, or a value of the wrong
type, is an error that names file, key and what was meant.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from rocket_hub.errors import RecipeError
from rocket_hub.options import (
    Budget,
    DiscoverOptions,
    EvaluateOptions,
    ExpertOptions,
    GenerationOptions,
    InstructionOptions,
    MergeOptions,
    PushOptions,
    TrainOptions,
)
from rocket_hub.serialization import from_dict, to_dict

_CHOICES = (
    ("experts", "diversity", ("delta_w", "paper", "behaviour")),
    ("experts", "selector", ("rocket", "coverage", "random", "best_single", "arrow", "lorahub", "all")),
    ("instructions", "similarity", ("max", "mean", "kde", "round_robin")),
    ("experts", "signal", ("likelihood", "accuracy")),
    ("experts", "perplexity", ("geometric", "arithmetic")),
    ("experts", "rationales", ("given", "base")),
    ("merge", "gate", ("sigmoid", "softmax")),
    ("merge", "gate_scale", (None, "unit", "renormalised")),
    ("merge", "router", ("layer", "shared")),
    ("merge", "router_init", ("random", "arrow", "kshot")),
    ("generation", "method", ("none", "self_specialization", "meteor")),
    ("train", "schedule", ("joint", "router_only", "two_stage")),
    ("train", "dtype", ("float32", "bfloat16")),
    ("evaluate", "scoring", ("generation", "likelihood", "both")),
    ("push", "publish", ("all", "best")),
)
# In order of what they cost to keep and to serve; `core` is what fits beside every build.
CORE_CONTROLS = (
    "base", "best_single", "best_single_trained", "fresh_lora", "uniform_merge", "stack_trained", "router_only",
)  # fmt: skip
TRAINED_CONTROLS = (
    "best_single_trained", "fresh_lora", "stack_trained", "xlora", "full_finetune", "random_experts", "random_init",
    "router_only", "two_stage", "no_diversity", "no_data", "random_data",
)  # fmt: skip
CONTROLS = (
    *CORE_CONTROLS[:5], "ties", "dare_ties", "dare_linear", "lorahub", CORE_CONTROLS[5], "arrow", *TRAINED_CONTROLS[3:]
)  # fmt: skip
_BUDGET = re.compile(r"(\d{1,12}(?:\.\d{1,6})?) ?(?:(%)|([kM]?) ?(pair|token)s?|(minute)s?)")
_THOUSANDS = {"": 1, "k": 1_000, "M": 1_000_000}
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
    generation: GenerationOptions = field(default_factory=GenerationOptions)
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
        return yaml.safe_dump(json.loads(json.dumps(to_dict(self))), sort_keys=False)  # JSON has no tuples

    def updated(self, group: str, **values: object) -> Recipe:
        """Return a copy with some options of one group replaced; `None` values are left as they are."""
        given = {key: value for key, value in values.items() if value is not None}
        return replace(self, **{group: replace(getattr(self, group), **given)})

    def check(self, where: str) -> None:
        """Raise RecipeError for values that no stage could use."""
        for group, name, known in _CHOICES:
            if (found := getattr(getattr(self, group), name)) not in known:
                choices = ", ".join(map(str, known))
                raise RecipeError(f"{where}: {group}.{name}: expected one of {choices}, found {found!r}")
        for group, names in _POSITIVE.items():
            for name in names:
                if (found := getattr(getattr(self, group), name)) < 1:
                    raise RecipeError(f"{where}: {group}.{name}: expected at least 1, found {found}")
        for key, grid in (
            ("train.learning_rate", self.train.learning_rate),
            ("merge.gate_start", self.merge.gate_start),
        ):
            if not grid or min(grid) <= 0:
                raise RecipeError(f"{where}: {key}: expected positive numbers, found {list(grid)}")
        if self.evaluate.max_rows is not None and self.evaluate.max_rows < 1:
            raise RecipeError(f"{where}: evaluate.max_rows: expected at least 1, found {self.evaluate.max_rows}")
        if self.instructions.max_tokens is not None and self.instructions.max_tokens < 1:
            raise RecipeError(
                f"{where}: instructions.max_tokens: expected at least 1, found {self.instructions.max_tokens}"
            )
        if not self.instructions.kde_gamma > 0:
            raise RecipeError(
                f"{where}: instructions.kde_gamma: expected more than 0, found {self.instructions.kde_gamma}"
            )
        if (self.experts.signal, self.experts.perplexity) == ("accuracy", "arithmetic"):
            raise RecipeError(
                f"{where}: experts.signal 'accuracy' is the probability of whole completions, which experts.perplexity "
                "'arithmetic' does not compute; leave one of them out"
            )
        _check_generation(self.generation, f"{where}: generation")
        read_budget(self.experts.budget, f"{where}: experts.budget")
        if self.experts.shortlist < self.experts.num_experts:
            raise RecipeError(
                f"{where}: experts.shortlist ({self.experts.shortlist}) must be at least experts.num_experts "
                f"({self.experts.num_experts}): the group is chosen from the shortlist"
            )


def _check_generation(options: GenerationOptions, where: str) -> None:
    """Refuse budgets of nothing, and a teacher's method without a teacher."""
    for name in ("below_rows", "calls", "tokens"):
        found = getattr(options, name)
        if found is not None and found < 1:
            raise RecipeError(f"{where}.{name}: expected at least 1, found {found}")
    if options.method == "meteor" and not options.teacher:
        raise RecipeError(f"{where}.teacher: 'meteor' asks a stronger model; name it, for example by its id")


def read_budget(text: str, where: str) -> Budget:
    """Read what scoring may spend.

    Args:
        text: `40%` (of all pairs of an adapter and a shot), `800 pairs`, `2M tokens`, `10 minutes` or `all`.
        where: File and key, or the option's name, for messages.

    Raises:
        RecipeError: It is none of these, or not above 0, or above 100 %.
    """
    found = _BUDGET.fullmatch("100%" if text == "all" else text)
    if not found:
        raise RecipeError(f"{where}: expected '40%', '800 pairs', '2M tokens', '10 minutes' or 'all', found {text!r}")
    number, percent, thousands, counted, minutes = found.groups()
    amount = round(float(number) * _THOUSANDS[thousands or ""], 6)
    if amount <= 0 or (percent and amount > 100) or (counted and not amount.is_integer()):
        raise RecipeError(f"{where}: expected more than nothing, whole pairs or tokens, at most 100%; found {text!r}")
    return Budget(amount, percent or f"{counted or minutes}s")


def check_controls(names: Sequence[str], settings: Collection[str] = ()) -> tuple[str, ...]:
    """Resolve `all` and `core`, and refuse unknown names, among the controls and among those with fixed settings.

    Returns:
        The controls in their order of cost, each once.

    Raises:
        RecipeError: A name is no control.
    """
    groups = {"all": CONTROLS, "core": CORE_CONTROLS}
    for key, given, known in (("controls", names, {*groups, *CONTROLS}), ("settings", settings, {*CONTROLS})):
        for name in given:
            if name not in known:
                raise RecipeError(f"evaluate.{key}: unknown control '{name}'; known: all, {', '.join(CONTROLS)}; core "
                                  f"= {', '.join(CORE_CONTROLS)}")  # fmt: skip
    wanted = {control for name in names for control in groups.get(name, (name,))}
    return tuple(name for name in CONTROLS if name in wanted)


def controls_of(recipe: Recipe) -> tuple[str, ...]:
    """List the controls that a recipe asks for, but not the one that its own `train.schedule` makes the result be."""
    return tuple(name for name in check_controls(recipe.evaluate.controls) if name != recipe.train.schedule)
