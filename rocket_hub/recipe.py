from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

import rocket_hub.options as options
from rocket_hub.errors import RecipeError
from rocket_hub.serialization import check, from_dict, put, to_dict

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


@dataclass(frozen=True)
class Recipe:
    """Everything a build is told; its groups of options have the names of the stages and come in their order.

    Attributes:
        task: Name of a task in `rocket_hub.tasks`.
        base: Base model, a repository id.
        seed: Seeds sampling, initialisation and data order.
    """

    task: str
    base: str
    seed: int = field(default=0, metadata={"minimum": 0, "maximum": options.MAX_SEED})
    compute: options.ComputeOptions = field(default_factory=options.ComputeOptions)
    discover: options.DiscoverOptions = field(default_factory=options.DiscoverOptions)
    generation: options.GenerationOptions = field(default_factory=options.GenerationOptions)
    experts: options.ExpertOptions = field(default_factory=options.ExpertOptions)
    instructions: options.InstructionOptions = field(default_factory=options.InstructionOptions)
    merge: options.MergeOptions = field(default_factory=options.MergeOptions)
    train: options.TrainOptions = field(default_factory=options.TrainOptions)
    evaluate: options.EvaluateOptions = field(default_factory=options.EvaluateOptions)
    push: options.PushOptions = field(default_factory=options.PushOptions)

    def __post_init__(self) -> None:
        """Check it, once for all: there is no recipe that a stage cannot use.

        Raises:
            RecipeError: A value is not legal, or values do not fit together.
        """
        check(self, "recipe")
        _check_together(self)

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
        except (yaml.YAMLError, ValueError) as error:
            raise RecipeError(f"{where}: not YAML: {error}") from error
        return from_dict(cls, data, where)

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

    def changed(self, settings: Iterable[tuple[str, object, str]]) -> Recipe:
        """Return a copy with some options replaced; it is checked when all are.

        Args:
            settings: For each option its key (`experts.num_experts`), the value as YAML gives it, and what to call it
                in messages (`-o experts.num_experts`).

        Raises:
            RecipeError: A key is unknown, a value is not legal, or the values do not fit together.
        """
        values = vars(self).copy()
        for key, value, where in settings:
            put(Recipe, values, key.split("."), value, where)
        return Recipe(**values)


def _check_together(recipe: Recipe) -> None:
    """Refuse values that do not fit together."""
    experts = recipe.experts
    if (experts.signal, experts.perplexity) == ("accuracy", "arithmetic"):
        raise RecipeError(
            "experts.signal 'accuracy' is the probability of whole completions, which experts.perplexity "
            "'arithmetic' does not compute; leave one of them out"
        )
    if recipe.generation.method == "meteor" and not recipe.generation.teacher:
        raise RecipeError("generation.teacher: 'meteor' asks a stronger model; name it, for example by its id")
    read_budget(experts.budget, "experts.budget")
    if experts.shortlist < experts.num_experts:
        raise RecipeError(
            f"experts.shortlist ({experts.shortlist}) must be at least experts.num_experts ({experts.num_experts}): "
            "the group is chosen from the shortlist"
        )
    whole, part = recipe.train.batch_size, recipe.train.micro_batch_size
    if part and whole % part:
        raise RecipeError(f"train.micro_batch_size: expected a divisor of train.batch_size ({whole}), found {part}")
    check_controls(recipe.evaluate.controls, recipe.evaluate.settings)
    for name, setting in recipe.evaluate.settings.items():
        if not all(0 < number < math.inf for number in (setting.learning_rate, setting.weight)):
            raise RecipeError(f"evaluate.settings.{name}: expected positive numbers, found {setting}")


def read_budget(text: str, where: str) -> options.Budget:
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
    return options.Budget(amount, percent or f"{counted or minutes}s")


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
