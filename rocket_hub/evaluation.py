"""Measure a model on the task's evaluation set, with an interval, and compare two measurements pair by pair."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rocket_hub.inference import generate
from rocket_hub.options import EvaluateOptions
from rocket_hub.records import Evaluation, Example
from rocket_hub.tasks import Task

Z = 1.959963984540054  # two-sided 95 %


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share (it stays inside 0 to 1, also at 0 and 100 %).

    Raises:
        ValueError: `total` is not positive.
    """
    if total <= 0:
        raise ValueError(f"an interval needs at least one problem, found {total}")
    share, spread = correct / total, Z * Z / total
    centre = (share + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * math.sqrt(share * (1 - share) / total + spread / (4 * total))
    return max(0.0, centre - half), min(1.0, centre + half)


def evaluate(
    model: Any,
    tokenizer: Any,
    task: Task,
    examples: Sequence[Example],
    options: EvaluateOptions,
    *,
    method: str = "model",
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Measure exact match by greedy generation.

    Args:
        model: A causal language model, plain or with a PEFT adapter.
        tokenizer: Its tokenizer.
        task: Reads the answers out of the generated text.
        examples: Problems in the task's form.
        options: Batch size and longest answer.
        method: Name for tables.
        progress: Called with (problems done, problems in all).

    Returns:
        Accuracy with its 95 % Wilson interval and one 0 or 1 a problem.
    """
    started = time.monotonic()
    texts = generate(
        model,
        tokenizer,
        [example.prompt for example in examples],
        max_new_tokens=options.max_new_tokens,
        batch_size=options.batch_size,
        progress=progress,
    )
    correct = tuple(int(task.extract(text) == example.answer) for text, example in zip(texts, examples, strict=True))
    low, high = wilson_interval(sum(correct), len(correct))
    return Evaluation(method, sum(correct) / len(correct), low, high, correct, time.monotonic() - started)


def paired_difference(one: Evaluation, other: Evaluation) -> tuple[float, float]:
    """Return the difference in accuracy (one - other) and its standard error over the same problems.

    One problem says nothing about the error: it is infinite.

    Raises:
        ValueError: The two were not measured on the same number of problems.
    """
    if len(one.correct) != len(other.correct) or not one.correct:
        raise ValueError(f"'{one.method}' and '{other.method}' were not measured on the same problems")
    difference = np.array(one.correct, float) - np.array(other.correct, float)
    error = difference.std(ddof=1) / math.sqrt(len(difference)) if len(difference) > 1 else math.inf
    return float(difference.mean()), float(error)
