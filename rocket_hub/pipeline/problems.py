"""Problems and rows in the task's form."""

from __future__ import annotations

from collections.abc import Sequence

from rocket_hub.discovery.hub.client import call
from rocket_hub.errors import HubError, TaskError
from rocket_hub.pipeline.context import Context
from rocket_hub.records import Example, Pinned
from rocket_hub.tasks import Task


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

    Raises:
        TaskError: There is no such split or configuration, or a row is not in the task's form.
        HubError: The data set cannot be had.
    """
    from datasets import load_dataset

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


def as_example(prompt: str, completion: str) -> Example:
    """Wrap a row of data so that a task can bring it into its form."""
    return Example(prompt=prompt, completion=completion, answer="")
