"""The benchmark rows of the shared data, in the columns that the Hub has them in."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from rocket_hub.tasks import Task

Example = dict[str, Any]


def gsm8k(row: Example) -> Example:
    return {"question": row["question"], "answer": f"{row['rationale']}\n#### {row['answer']}"}


def arc(row: Example) -> Example:
    """The original has the labels 1 to 4 in some rows, and A to E in most."""
    count = len(row["choices"])
    labels = (
        [str(i + 1) for i in range(count)] if int(row["id"].rpartition("-")[2]) % 10 == 0 else list("ABCDE"[:count])
    )
    choices = {"text": row["choices"], "label": labels}
    return {"id": row["id"], "question": row["question"], "choices": choices, "answerKey": labels[row["answer_index"]]}


def piqa(row: Example) -> Example:
    return {"goal": row["question"], "sol1": row["choices"][0], "sol2": row["choices"][1], "label": row["answer_index"]}


def boolq(row: Example) -> Example:
    question = row["question"].removesuffix("?")  # the original has no question marks
    return {"question": question, "passage": row["context"], "answer": row["answer"] == "yes"}


def mbpp(row: Example) -> Example:
    meta = json.loads(row["meta"])
    return {"task_id": meta["task_id"], "text": row["question"], "code": row["answer"].replace("\n", "\r\n"),
            "test_list": row["test_list"], "test_setup_code": meta["test_setup_code"],
            "challenge_test_list": meta["challenge_test_list"]}  # fmt: skip


NATIVE = {"gsm8k": gsm8k, "mbpp": mbpp, "arc_challenge": arc, "arc_easy": arc, "piqa": piqa, "boolq": boolq}
SPLITS = {
    "gsm8k": ("train", "test"),
    "mbpp": ("train", "validation", "test", "prompt"),
    "arc_challenge": ("train", "test"),
    "arc_easy": ("train", "test"),
    "piqa": ("train", "validation"),  # the test split has no answers
    "boolq": ("train",),
}


def rows(shared_data: Path, task: Task) -> Iterator[tuple[str, Example]]:
    """Yield (id, row in the columns of the Hub) for all rows that have an answer."""
    for split in SPLITS[task.name]:
        for row in pq.read_table(shared_data / "benchmarks" / task.name / f"{split}.parquet").to_pylist():
            yield row["id"], NATIVE[task.name](row)
