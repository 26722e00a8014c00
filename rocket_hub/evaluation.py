import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rocket_hub.errors import TaskError
from rocket_hub.inference import Progress, generate, option_nll
from rocket_hub.inference.tokens import batches
from rocket_hub.options import EvaluateOptions
from rocket_hub.records import Evaluation, Example
from rocket_hub.runs import Batches, KeptResults, digest
from rocket_hub.selection.statistics import accuracy_interval
from rocket_hub.tasks import Task, score
from rocket_hub.tasks.yes_no import CHOICES as YES_NO

REASONS = 5  # why programs failed, the most frequent ones
Each = Callable[[Sequence[str], Sequence[str], Callable[[list[int]], list[Any]]], list[Any]]


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
    each = partial(_each, KeptResults(kept), tokenizer, options.batch_size, progress)
    questions = [task.options(example) for example in examples] if options.scoring != "generation" else []
    if options.scoring != "likelihood":
        texts = _texts(model, tokenizer, task, examples, options, each)
        judged = score(task, texts, examples, allow_code_execution=options.allow_code_execution)
        main = _measured(judged["correct"])
        if "reasons" in judged:
            details["reasons"] = dict(Counter(judged["reasons"]).most_common(REASONS))
    if questions:
        chosen = _chosen(model, tokenizer, questions, options, each)
        right = [task.choice_index(example) for example in examples]
        for place, name in enumerate(("acc", "acc_norm")):
            details[name] = _measured([int(found[place] == at) for found, at in zip(chosen, right, strict=True)])
    if options.scoring == "likelihood":
        main = details["acc" if all(example.choices == YES_NO for example in examples) else "acc_norm"]
    return Evaluation(method, **main, seconds=time.monotonic() - started, details=details)


def _measured(correct: Sequence[int]) -> dict[str, Any]:
    """Put a share beside its interval."""
    low, high = accuracy_interval(sum(correct), len(correct))
    return {"accuracy": sum(correct) / len(correct), "low": low, "high": high, "correct": tuple(correct)}


def _texts(
    model: Any, tokenizer: Any, task: Task, examples: Sequence[Example], options: EvaluateOptions, each: Each
) -> list[str]:
    """Let the model write an answer to each problem."""
    prompts = [example.prompt for example in examples]

    def write(rows: list[int]) -> list[str]:
        asked = [prompts[i] for i in rows]
        length, size = options.max_new_tokens, options.batch_size
        return generate(model, tokenizer, asked, max_new_tokens=length, batch_size=size, stop=task.stop)

    return each(prompts, [digest(["text", prompt, options.max_new_tokens, task.stop]) for prompt in prompts], write)


def _chosen(
    model: Any, tokenizer: Any, questions: Sequence[tuple[str, Sequence[str]]], options: EvaluateOptions, each: Each
) -> list[list[int]]:
    """Find the likeliest option of each question: as it is (`acc`), and per character (`acc_norm`)."""

    def choose(rows: list[int]) -> list[list[int]]:
        scores = option_nll(model, tokenizer, [questions[i] for i in rows], batch_size=options.batch_size)
        return [[score.chosen("nothing"), score.chosen("characters")] for score in scores]

    return each([prompt for prompt, _ in questions], [digest(["option", *question]) for question in questions], choose)


def _each(
    kept: KeptResults,
    tokenizer: Any,
    size: int,
    progress: Progress | None,
    prompts: Sequence[str],
    keys: Sequence[str],
    answer: Callable[[list[int]], list[Any]],
) -> list[Any]:
    """Answer prompts in batches of like length; an interrupted run goes on with the same batches, so it ends equal."""

    def compute(missing: list[int]) -> Batches[int]:
        waiting, done = set(missing), 0
        for batch in batches([len(ids) for ids in tokenizer(text=list(prompts), verbose=False)["input_ids"]], size):
            if not waiting.isdisjoint(batch):
                yield dict(zip(batch, answer(batch), strict=True))
            done += len(batch)
            if progress:
                progress(done, len(prompts))

    return kept.each(range(len(prompts)), keys.__getitem__, compute)


def paired_difference(one: Evaluation, other: Evaluation) -> tuple[float, float]:
    """Return the difference in accuracy (one - other) and its standard error over the same problems.

    Over one problem the error is infinite.

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
