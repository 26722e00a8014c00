"""What every stage of one build shares."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rocket_hub.kshot import load_kshot
from rocket_hub.recipe import Recipe
from rocket_hub.records import Example, Pinned
from rocket_hub.runs import Reporter, RunFolder, digest
from rocket_hub.serialization import to_dict
from rocket_hub.tasks import Task, get_task

if TYPE_CHECKING:
    from huggingface_hub import HfApi


@dataclass
class Context:
    """Recipe, task, examples, run folder and Hub of one build; the base model is loaded when first needed.

    Attributes:
        shots: The K-shot as it was given.
        examples: The K-shot in the task's form.
        pinned: The base at its commit; set by the first stage.
    """

    recipe: Recipe
    task: Task
    shots: tuple[Example, ...]
    examples: tuple[Example, ...]
    run: RunFolder
    api: HfApi
    hub_name: str
    reporter: Reporter
    pinned: Pinned = field(default_factory=lambda: Pinned("", ""))

    @cached_property
    def base(self) -> tuple[Any, Any]:
        """The base model and its tokenizer, loaded once."""
        from rocket_hub.base_models import load_base

        self.reporter.say(f"loading {self.pinned.repo_id}")
        return load_base(self.pinned.repo_id, self.pinned.revision, self.recipe.train.dtype)

    def inputs(self, *groups: str, **more: Any) -> dict[str, Any]:
        """Collect what a stage depends on: groups of the recipe, the K-shot, and results of earlier stages."""
        recipe = to_dict(self.recipe)
        chosen = {f"{group}.{key}": value for group in groups for key, value in recipe[group].items()}
        fixed = {"hub": self.hub_name, "task": self.task.name, "base": self.recipe.base, "seed": self.recipe.seed,
                 "base_revision": self.pinned.revision}  # fmt: skip
        return {**fixed, "kshot": digest([to_dict(shot) for shot in self.shots]), **chosen,
                **{name: digest(value) for name, value in more.items()}}  # fmt: skip


def open_context(recipe: Recipe, kshot: Path, out: Path, hub_name: str, reporter: Reporter) -> Context:
    """Read the K-shot, find the task and open the run folder."""
    task = get_task(recipe.task).at(recipe.evaluate.dataset, recipe.evaluate.config)
    shots = load_kshot(kshot)
    examples = tuple(task.example(shot) for shot in shots)
    _check(task, kshot, shots, examples)
    from huggingface_hub import HfApi

    return Context(recipe, task, shots, examples, RunFolder(out, reporter), HfApi(), hub_name, reporter)


def _check(task: Task, kshot: Path, shots: tuple[Example, ...], examples: tuple[Example, ...]) -> None:
    """Refuse a K-shot whose answers the task cannot read: every later number would be wrong."""
    from rocket_hub.errors import KShotError

    for number, (shot, example) in enumerate(zip(shots, examples, strict=True), 1):
        if not example.answer:
            raise KShotError(
                f"{kshot}: example {number}: the task '{task.name}' finds no answer in {shot.completion[-60:]!r}; "
                f"a completion looks like {task.completion('…', '42')!r}"
            )
