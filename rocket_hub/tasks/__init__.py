"""Tasks: prompt, how an answer is read out of text, metric, and evaluation set."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rocket_hub.errors import TaskError
from rocket_hub.records import Example
from rocket_hub.tasks.choices import ARC_CHALLENGE, ARC_EASY, PIQA
from rocket_hub.tasks.code import MBPP
from rocket_hub.tasks.custom import read_task
from rocket_hub.tasks.numeric import GSM8K
from rocket_hub.tasks.task import Task
from rocket_hub.tasks.yes_no import BOOLQ

if TYPE_CHECKING:
    import evaluate


def load_metric(task: Task) -> evaluate.Metric:
    """Return a task's metric."""
    from rocket_hub.tasks import metrics  # imports `evaluate`, which takes seconds

    known = {"exact_match": metrics.ExactMatch, "pass_at_1": metrics.PassAt1}
    if task.metric not in known:
        raise TaskError(f"task '{task.name}': unknown metric '{task.metric}'; known: {', '.join(known)}")
    metric: evaluate.Metric = known[task.metric](keep_in_memory=True)
    return metric


def score(
    task: Task, texts: Sequence[str], examples: Sequence[Example], *, allow_code_execution: bool = False
) -> dict[str, Any]:
    """Read the answers out of generated texts and compute the task's metric.

    Args:
        task: The task.
        texts: What a model wrote, n of them.
        examples: The problems, in the task's form, n of them.
        allow_code_execution: Run what the model wrote, where the answer is a program (`rocket_hub.sandbox`).

    Returns:
        What the metric computes: the share of right answers under the metric's name, `correct` (one 0 or 1 a problem)
        and, for programs, `reasons`.

    Raises:
        TaskError: There are not as many texts as problems, or none.
        SandboxError: Programs may not be run, or this machine cannot isolate them.
    """
    if len(texts) != len(examples) or not texts:
        raise TaskError(f"{len(texts)} texts for {len(examples)} problems of '{task.name}'; give one a problem")
    answers = [task.read_answer(text, example) for text, example in zip(texts, examples, strict=True)]
    programs = task.metric == "pass_at_1"
    right = ["\n".join(example.tests) if programs else example.answer for example in examples]
    options = {"allow_code_execution": allow_code_execution} if programs else {}
    judged: dict[str, Any] = load_metric(task).compute(predictions=answers, references=right, **options)
    return judged


TASKS = {task.name: task for task in (GSM8K, MBPP, ARC_CHALLENGE, ARC_EASY, PIQA, BOOLQ)}


def get_task(name: str) -> Task:
    """Find a task by name, or read a custom task from the path of a `.yaml` file; see `rocket_hub.tasks.custom`.

    Raises:
        TaskError: There is no such task; the message names the nearest one and all that exist.
        RecipeError: The file is not in the form of a task; the message names file, key and what was meant.
    """
    if name.endswith((".yaml", ".yml")):
        return read_task(Path(name))
    if name not in TASKS:
        near = get_close_matches(name, TASKS, n=1)
        meant = f", did you mean '{near[0]}'?" if near else ""
        known = f"Known tasks: {', '.join(TASKS)}; or give the path of a .yaml file"
        raise TaskError(f"unknown task '{name}'{meant} {known}")
    return TASKS[name]


__all__ = [
    "ARC_CHALLENGE", "ARC_EASY", "BOOLQ", "GSM8K", "MBPP", "PIQA", "Task", "get_task", "load_metric", "score",
]  # fmt: skip
