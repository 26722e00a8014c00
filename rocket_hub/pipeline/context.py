from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from accelerate.utils.memory import clear_device_cache
from datasets import load_dataset
from huggingface_hub import HfApi

from rocket_hub.discovery.hub.client import call, reason_of
from rocket_hub.discovery.instructions import iter_instructions
from rocket_hub.errors import (
    AdapterError,
    DatasetError,
    HubError,
    HubUnreachableError,
    InputError,
    KShotError,
    RecipeError,
    SandboxError,
    TaskError,
)
from rocket_hub.inference.models import load_base, load_tokenizer
from rocket_hub.inference.placement import Placement, place
from rocket_hub.options import EvaluateOptions
from rocket_hub.recipe import Recipe
from rocket_hub.records import DatasetCandidate, Example, Pinned, Rejection
from rocket_hub.rows.kshot import load_kshot
from rocket_hub.runs import Reporter, RunFolder, digest
from rocket_hub.sandbox import check_isolation
from rocket_hub.serialization import to_dict
from rocket_hub.tasks import Task, get_task


def evaluation_set(context: Context, pinned: Pinned, *, whole: bool = False) -> list[Example]:
    """Read the evaluation set at its commit, as it is measured; `whole`: all of it, without examples before each."""
    options = context.recipe.evaluate
    task = context.task if whole else context.measured
    return read_problems(task, options.split, pinned.revision, max_rows=None if whole else options.max_rows)


def read_problems(task: Task, split: str | None, revision: str | None, *, max_rows: int | None = None) -> list[Example]:
    """Read an evaluation set in the task's form.

    Args:
        task: The task; names the data set and its configuration.
        split: Which split; none = the task's own.
        revision: Commit hash; none = the newest.
        max_rows: At most this many problems; none = all.
    """
    split = split or task.split
    try:
        rows = call(task.dataset, load_dataset, task.dataset, task.config, split=split, revision=revision)
    except HubError as error:
        if not isinstance(error.__cause__, ValueError):
            raise
        detail = str(error.__cause__).strip().splitlines()[0]
        raise TaskError(
            f"{task.dataset}: configuration {task.config or '(the only one)'}, split '{split}': {detail}; name what "
            "the data set has in evaluate.config and evaluate.split"
        ) from error
    return task.examples(rows.select(range(min(max_rows, len(rows)))) if max_rows else rows, task.dataset)


def questions(task: Task, examples: Sequence[Example]) -> list[str]:
    """Return the bare questions of problems in the task's form, for comparison with rows of data."""
    return [task.question_of(example) for example in examples]


@dataclass
class Context:
    """Recipe, task, examples, run folder and Hub of one build; the base model is loaded when first needed."""

    recipe: Recipe
    task: Task  # the task as the base is asked: from the second stage on in its chat template, if it has one
    shots: tuple[Example, ...]  # the K-shot as it was given
    examples: tuple[Example, ...]  # the K-shot in the task's form
    run: RunFolder
    api: HfApi
    hub_name: str
    reporter: Reporter
    pinned: Pinned = field(default_factory=lambda: Pinned("", ""))  # the base at its commit; set by the first stage
    plain: tuple[Example, ...] = ()  # the K-shot in the task's form without a chat template, where `examples` have one

    @cached_property
    def base(self) -> tuple[Any, Any]:
        """The base model and its tokenizer, loaded once."""
        self.reporter.say(f"loading {self.pinned.repo_id}")
        return load_base(self.pinned.repo_id, self.pinned.revision, self.recipe.compute)

    def release(self) -> None:
        """Give the memory of the base model back; whoever needs it next loads it again."""
        vars(self).pop("base", None)
        clear_device_cache(garbage_collection=True)

    @cached_property
    def placement(self) -> Placement:
        """Where the base is computed, and in which precision, on which results depend."""
        return place(self.recipe.compute)

    def use_chat_template(self) -> None:
        """Ask everything from now on in the base's chat template, if its tokenizer has one; needs no weights."""
        task = self.task.for_model(load_tokenizer(self.pinned.repo_id, self.pinned.revision))
        if task is not self.task:
            self.reporter.say(f"{self.pinned.repo_id} is asked in its chat template")
            self.plain, self.examples = self.examples, tuple(task.example(shot) for shot in self.shots)
            self.task = task

    @property
    def measured(self) -> Task:
        """The task as it is measured: with the first examples before every problem, where that was asked for."""
        shots = (self.plain or self.examples)[: self.recipe.evaluate.few_shot]
        return self.task.with_shots(shots) if shots else self.task

    def rows_of(self, candidate: DatasetCandidate) -> Iterator[Example]:
        """Read the rows of a data set, as many as the recipe allows."""
        rows, size = self.recipe.discover.max_rows_per_dataset, self.recipe.discover.max_bytes_per_dataset
        return iter_instructions(self.api, candidate, max_rows=rows, max_bytes=size)

    def inputs(self, *groups: str, **more: Any) -> dict[str, Any]:
        """Collect what a stage depends on: groups of the recipe, the K-shot, and results of earlier stages."""
        recipe = to_dict(self.recipe)
        chosen = {f"{group}.{key}": value for group in groups for key, value in recipe[group].items()}
        fixed = {"hub": self.hub_name, "task": self.task.name, "base": self.recipe.base, "seed": self.recipe.seed,
                 "base_revision": self.pinned.revision}  # fmt: skip
        chat = {"chat_template": digest(self.task.chat("…"))} if self.task.chat else {}
        return {**fixed, **chat, "kshot": digest(self.shots), **chosen,
                **{name: digest(value) for name, value in more.items()}}  # fmt: skip


def open_context(
    recipe: Recipe, kshot: Path, out: Path, hub_name: str, reporter: Reporter, *, measured: bool = True
) -> Context:
    """Read the K-shot, find the task and open the run folder; `measured`: whether the result will be."""
    check_alone()
    task = get_task(recipe.task).at(recipe.evaluate.dataset, recipe.evaluate.config)
    if measured:
        check_measurable(task, recipe.evaluate)
    shots = load_kshot(kshot)
    examples = tuple(task.example(shot) for shot in shots)
    _check(task, kshot, shots, examples)
    if not 0 <= (wanted := recipe.evaluate.few_shot) <= len(shots):
        raise RecipeError(f"evaluate.few_shot: expected 0 to {len(shots)}, the examples of {kshot}; found {wanted}")
    return Context(recipe, task, shots, examples, RunFolder(out, reporter), HfApi(), hub_name, reporter)


@contextmanager
def rejecting(item: str, rejected: list[Rejection]) -> Iterator[None]:
    """Reject an adapter or a data set that turns out to be unusable, instead of failing; an outage is raised."""
    try:
        yield
    except HubUnreachableError:
        raise
    except HubError as error:
        rejected.append(Rejection(item, reason_of(error), str(error)))
    except (AdapterError, DatasetError) as error:
        rejected.append(Rejection(item, error.reason, str(error)))


def check_measurable(task: Task, options: EvaluateOptions) -> None:
    """Refuse, before anything is computed, what could only fail at its end.

    Raises:
        SandboxError: The answers are programs, and may not be run, or this machine cannot isolate them.
    """
    if task.metric != "pass_at_1":
        return
    if not options.allow_code_execution:
        raise SandboxError(
            f"the task '{task.name}' is measured by running programs that a model wrote, shut in a process of their "
            "own; allow it with --allow-code-execution (evaluate.allow_code_execution: true)"
        )
    check_isolation()


def check_alone() -> None:
    """Refuse to work where other processes of the same launch would do the same work, in the same run folder."""
    world = os.environ.get("WORLD_SIZE", "1")
    if world.isdecimal() and int(world) > 1:
        raise InputError(
            f"rocket-hub works in one process, and this launch has {world} (WORLD_SIZE): start it without torchrun or "
            "accelerate. In a script of your own, several processes share the scoring of adapters (score_adapters in "
            "rocket_hub.selection.scoring), the encoding of rows (select_instructions) and training with TRL's "
            "SFTTrainer"
        )


def _check(task: Task, kshot: Path, shots: tuple[Example, ...], examples: tuple[Example, ...]) -> None:
    """Refuse a K-shot whose answers the task cannot read: every later number would be wrong."""
    for number, (shot, example) in enumerate(zip(shots, examples, strict=True), 1):
        if not example.answer:
            raise KShotError(
                f"{kshot}: example {number}: the task '{task.name}' finds no answer in {shot.completion[-60:]!r}; "
                f"a completion looks like {task.completion('…', '42')!r}"
            )
