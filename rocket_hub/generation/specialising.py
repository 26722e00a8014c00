"""The model between two rounds: a LoRA on the seeds and the rows that the base made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from rocket_hub.adapting import adapted, fresh_lora
from rocket_hub.options import TrainOptions
from rocket_hub.records import Example, Row
from rocket_hub.runs import digest, read_json, write_json
from rocket_hub.serialization import to_dict
from rocket_hub.tasks import Task
from rocket_hub.training import train_expert

RANK, ALPHA = 8, 16  # of all linear modules, as in Self-MoE


def lora_specialiser(
    model: Any,
    tokenizer: Any,
    task: Task,
    seeds: Sequence[Example],
    options: TrainOptions,
    folder: Path,
    *,
    seed: int = 0,
    progress: Callable[[int, int, float], None] | None = None,
) -> Callable[[list[Row]], AbstractContextManager[tuple[Any, str]]]:
    """Return what specialises a model on rows, for `self_specialize`.

    Args:
        model: The base model; it is given back unchanged. A quantised one makes it QLoRA.
        tokenizer: Its tokenizer.
        task: The task, without shots and chat template.
        seeds: Verified examples in the task's form; they are trained on, too.
        options: Learning rate, steps, batch size.
        folder: For the adapters; one that is there already is not trained again.
        seed: Seeds the adapter's start and the order of the rows.
        progress: Called after each training step.

    Returns:
        A function from rows to a context in which the specialised model can be used, with its name.
    """
    asked = task.for_model(tokenizer)

    @contextmanager
    def specialise(rows: list[Row]) -> Iterator[tuple[Any, str]]:
        raw = [Example(task.question_of(each), each.completion.strip(), "") for each in seeds]
        raw += [Example(row.prompt, row.completion, "") for row in rows]
        examples = [asked.example(each) for each in raw]
        inputs = [[(each.prompt, each.completion) for each in examples], to_dict(options), seed]
        place = folder / digest(inputs)
        if read_json(place / "training.json") is None:
            start = fresh_lora(model, place / "start", rank=RANK, alpha=ALPHA, targets=("all-linear",), seed=seed)
            train_expert(
                model, tokenizer, start, examples, options, place / "adapter", seed=seed, progress=progress
            )  # fmt: skip
            write_json(place / "training.json", {"rows": len(rows), "seeds": len(seeds)})
        with adapted(model, place / "adapter") as special:
            yield special, f"specialised as {place.name}"

    return specialise
