"""Measure a model on the task's evaluation set, with an interval, and compare two measurements pair by pair."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rocket_hub.errors import TaskError
from rocket_hub.inference import Progress, generate, option_nll
from rocket_hub.inference.tokens import batches
from rocket_hub.options import EvaluateOptions
from rocket_hub.records import Evaluation, Example
from rocket_hub.runs import KeptResults, digest
from rocket_hub.selection.statistics import accuracy_interval
from rocket_hub.tasks import Task, score
from rocket_hub.tasks.yes_no import CHOICES as YES_NO

REASONS = 5  # why programs failed, the most frequent ones


def evaluate(
    model: Any,
    tokenizer: Any,
    task: Task,
    examples: Sequence[Example],
    options: EvaluateOptions,
    *,
    method: str = "model",
    progress: Progress | None = None,
    kept: Path | None = None,
) -> Evaluation:
    """Measure a model by what it writes (greedily), by which option it finds likeliest, or by both.

    Args:
        model: A causal language model, plain or with a PEFT adapter.
        tokenizer: Its tokenizer.
        task: Reads the answers out of the generated text.
        examples: Problems in the task's form.
        options: Batch size, longest answer, and how is measured.
        method: Name for tables.
        progress: Called with (problems done, problems in all); with `both`, once through for each.
        kept: File of this very model's answers, one JSON line each; what is in it is not asked again. None = nowhere.

    Returns:
        Accuracy with its 95 % Wilson interval and one 0 or 1 a problem. With `likelihood` it is `acc_norm` of
        lm-evaluation-harness, the likelihood per character; where the options are always yes and no it is `acc`, as
        there. Both are in `details`, each with interval and `correct`; and for programs why they failed.

    Raises:
        TaskError: There are no problems, or likelihood is asked for and a problem has no options.
        SandboxError: The answers are programs, and may not or cannot be run.
        StorageError: `kept` cannot be written.
    """
    started, details = time.monotonic(), dict[str, Any]()
    if not examples:
        raise TaskError(f"task '{task.name}': no problems to measure on; give at least one")
    questions = [task.options(example) for example in examples] if options.scoring != "generation" else []
    if options.scoring != "likelihood":
        texts = _texts(model, tokenizer, task, examples, options, progress, kept)
        judged = score(task, texts, examples, allow_code_execution=options.allow_code_execution)
        main = _measured(judged["correct"])
        if "reasons" in judged:
            details["reasons"] = dict(Counter(judged["reasons"]).most_common(REASONS))
    if questions:
        chosen = _chosen(model, tokenizer, questions, options, progress, kept)
        right = [task.choice_index(example) for example in examples]
        for place, name in enumerate(("acc", "acc_norm")):
            details[name] = _measured([int(each[place] == at) for each, at in zip(chosen, right, strict=True)])
    if options.scoring == "likelihood":
        main = details["acc" if all(example.choices == YES_NO for example in examples) else "acc_norm"]
    return Evaluation(method, **main, seconds=time.monotonic() - started, details=details)


def _measured(correct: Sequence[int]) -> dict[str, Any]:
    """Put a share beside its interval."""
    low, high = accuracy_interval(sum(correct), len(correct))
    return {"accuracy": sum(correct) / len(correct), "low": low, "high": high, "correct": tuple(correct)}


def _texts(
    model: Any,
    tokenizer: Any,
    task: Task,
    examples: Sequence[Example],
    options: EvaluateOptions,
    progress: Progress | None,
    kept: Path | None,
) -> list[str]:
    """Let the model write an answer to each problem."""
    prompts = [example.prompt for example in examples]

    def write(rows: list[int]) -> list[str]:
        asked = [prompts[i] for i in rows]
        length, size = options.max_new_tokens, options.batch_size
        return generate(model, tokenizer, asked, max_new_tokens=length, batch_size=size, stop=task.stop)

    keys = [digest(["text", prompt, options.max_new_tokens, task.stop]) for prompt in prompts]
    return _each(keys, _groups(tokenizer, prompts, options.batch_size), write, progress, kept)


def _chosen(
    model: Any,
    tokenizer: Any,
    questions: Sequence[tuple[str, Sequence[str]]],
    options: EvaluateOptions,
    progress: Progress | None,
    kept: Path | None,
) -> list[list[int]]:
    """Find the likeliest option of each question: as it is (`acc`), and per character (`acc_norm`)."""

    def choose(rows: list[int]) -> list[list[int]]:
        scores = option_nll(model, tokenizer, [questions[i] for i in rows], batch_size=options.batch_size)
        return [[each.chosen("nothing"), each.chosen("characters")] for each in scores]

    keys = [digest(["option", *question]) for question in questions]
    prompts = [prompt for prompt, _ in questions]
    return _each(keys, _groups(tokenizer, prompts, options.batch_size), choose, progress, kept)


def _groups(tokenizer: Any, prompts: Sequence[str], size: int) -> list[list[int]]:
    """Batch prompts by their length in tokens; an interrupted run goes on with the same batches, so it ends equal."""
    return list(batches([len(ids) for ids in tokenizer(text=list(prompts), verbose=False)["input_ids"]], size))


def _each(
    keys: Sequence[str],
    groups: Sequence[list[int]],
    compute: Callable[[list[int]], list[Any]],
    progress: Progress | None,
    kept: Path | None,
) -> list[Any]:
    """Compute one result a row, group by group, but for the groups that an earlier run has kept."""
    store = KeptResults(kept) if kept else None
    known, done = store.known if store else dict[str, Any](), 0
    for group in groups:
        if not all(keys[i] in known for i in group):
            found = {keys[i]: result for i, result in zip(group, compute(group), strict=True)}
            if store:
                store.add(found)
            else:
                known.update(found)
        done += len(group)
        if progress:
            progress(done, len(keys))
    return [known[key] for key in keys]


def paired_difference(one: Evaluation, other: Evaluation) -> tuple[float, float]:
    """Return the difference in accuracy (one - other) and its standard error over the same problems.

    One problem says nothing about the error: it is infinite.

    Raises:
        ValueError: The two were not measured on the same number of problems.
    """
    difference = _differences(one, other)
    error = difference.std(ddof=1) / math.sqrt(len(difference)) if len(difference) > 1 else math.inf
    return float(difference.mean()), float(error)


def bootstrap_difference(
    one: Evaluation, other: Evaluation, *, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the difference in accuracy over the same problems.

    A resample of n problems only matters by how many of each difference (-1, 0, 1) are in it, which is multinomial.

    Args:
        one: A measurement.
        other: Another one on the same problems.
        resamples: How many.
        seed: Seeds them.

    Returns:
        (low, high) of one - other.

    Raises:
        ValueError: The two were not measured on the same number of problems.
    """
    difference = _differences(one, other)
    values, counts = np.unique(difference, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(difference), counts / len(difference), size=resamples)
    # [resamples, values] @ [values] -> [resamples]
    low, high = np.percentile(drawn @ values / len(difference), [2.5, 97.5])
    return float(low), float(high)


def _differences(one: Evaluation, other: Evaluation) -> np.ndarray:
    """Subtract two measurements problem by problem."""
    if len(one.correct) != len(other.correct) or not one.correct:
        raise ValueError(f"'{one.method}' and '{other.method}' were not measured on the same problems")
    return np.array(one.correct, float) - np.array(other.correct, float)
