"""The K-shot of a draw, from the train split of a task's evaluation set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from cells import SHOTS

from rocket_hub.records import Example


def drawn_rows(task: Any, split: str, draw: int) -> list[dict[str, Any]]:
    """Draw rows in the benchmark's own columns; those that a build would refuse are exchanged for others.

    Args:
        task: With its evaluation set.
        split: Its test split.
        draw: Seeds the draw.

    Returns:
        `SHOTS` rows, or all where there are fewer.
    """
    from datasets import load_dataset

    rows = load_dataset(task.dataset, task.config, split="train")
    rng = Random(100 + draw)
    chosen = rng.sample(range(len(rows)), min(SHOTS, len(rows)))
    spare = iter(rng.sample(others := sorted({*range(len(rows))} - {*chosen}), len(others)))
    test = task.examples(load_dataset(task.dataset, task.config, split=split), task.dataset)
    while refused := leaked(task, rows.select(chosen), test):
        chosen = [next(spare) if place in refused else i for place, i in enumerate(chosen)]
    return [rows[i] for i in chosen]


def leaked(task: Any, rows: Any, test: Sequence[Example]) -> set[int]:
    """Find the rows that are, by the build's own rule, problems of the test split: a build refuses them as examples."""
    from rocket_hub.records import Example
    from rocket_hub.rows.kshot import load_kshot
    from rocket_hub.selection.decontamination import contaminated

    with TemporaryDirectory() as folder:
        rows.to_json(path := Path(folder) / "train.jsonl")
        shots = load_kshot(path)
    texts = [Example(shot.prompt, shot.completion, source="train", index=number) for number, shot in enumerate(shots)]
    return {*contaminated(texts, [task.question_of(problem) for problem in test])}
