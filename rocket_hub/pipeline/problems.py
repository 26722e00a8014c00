"""Problems and rows in the task's form."""

from __future__ import annotations

from rocket_hub.discovery.hub import call
from rocket_hub.pipeline.context import Context
from rocket_hub.records import Example, Pinned
from rocket_hub.tasks import Task


def evaluation_set(context: Context, pinned: Pinned, *, whole: bool = False) -> list[Example]:
    """Read the evaluation set in the task's form, at its commit; `whole` ignores `evaluate.max_rows`."""
    from datasets import load_dataset

    options, task = context.recipe.evaluate, context.task
    rows = call(task.dataset, load_dataset, task.dataset, task.config, split=options.split, revision=pinned.revision)
    kept = rows.select(range(min(options.max_rows, len(rows)))) if options.max_rows and not whole else rows
    return task.examples(kept, task.dataset)


def questions(task: Task, examples: list[Example]) -> list[str]:
    """Return the bare questions of problems in the task's form, for comparison with rows of data."""
    frame = task.prompt("\0").partition("\0")
    return [example.prompt.removeprefix(frame[0]).removesuffix(frame[2]) for example in examples]


def as_example(prompt: str, completion: str) -> Example:
    """Wrap a row of data so that a task can bring it into its form."""
    return Example(prompt=prompt, completion=completion, answer="")
