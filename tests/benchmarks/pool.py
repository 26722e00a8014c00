"""Selection of 1,000 rows from 74 instruction sets (101,140 rows) for 50 shots of a benchmark's train split.

`python -m tests.benchmarks.pool TASK CACHE` prints what was chosen as JSON.
"""

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from rocket_hub.inference.models import DeferredEncoder, encoder_key
from rocket_hub.options import InstructionOptions
from rocket_hub.records import Example
from rocket_hub.selection.instructions import select_instructions
from tests.benchmarks.contamination import instruction_rows
from tests.benchmarks.measuring import SHARED, benchmark, lettered

ENCODER = SHARED / "models" / "potion-base-4m"
SHOTS, CHOSEN = 50, 1000

MATHS = {"aqua_rat", "competition_math", "svamp", "ni_mathematics_dataset"}
CODE = {"humaneval", "humanevalpack_fix", "gpteacher_codegen"}
SCIENCE = {
    "ni_scitail_sentence", "ni_propara", "p3_qasc", "ni_qasc_facts", "ni_qasc_question", "p3_quartz", "p3_ropes",
    "ni_ropes_question", "ni_ropes_background",
}  # fmt: skip
EXPECTED = {"gsm8k": MATHS, "mbpp": CODE, "arc_challenge": SCIENCE, "arc_easy": SCIENCE}
"""What a person would expect to lead."""


def question(row: dict) -> str:
    return "\n".join([row["question"], *lettered(row["choices"] or ())])


def shots(task: str) -> list[Example]:
    table = benchmark(task, "train")
    drawn = [table[i] for i in np.random.default_rng(0).choice(len(table), SHOTS, replace=False)]
    return [Example(question(row), answer(row, task), row["answer"]) for row in drawn]


def answer(row: dict, task: str) -> str:
    """A benchmark's answer, with its rationale or its letter where it has one."""
    if task == "gsm8k":
        return f"{row['rationale']}\n#### {row['answer']}"
    return f"{'ABCDEFGH'[row['answer_index']]}. {row['answer']}" if row["choices"] else row["answer"]


def evaluation_questions(task: str) -> list[str]:
    return [question(row) for row in benchmark(task, "test")]


def end_to_end(task: str, cache: Path) -> dict:
    """Read, filter, encode, compare and choose."""
    encoder, rows = DeferredEncoder(str(ENCODER), None), instruction_rows(SHARED)
    found = select_instructions(
        encoder, shots(task), rows, InstructionOptions(max_rows=CHOSEN),
        evaluation_questions=evaluation_questions(task), cache=cache / encoder_key(str(ENCODER), None),
    )  # fmt: skip
    reasons = Counter[str]()
    for count in found.counts.values():
        reasons.update(count)
    read = {source: count["read"] for source, count in found.counts.items()}
    first = "\0".join(f"{row.source}#{row.index}" for row in found.selected)
    return {"chosen": found.per_source, "read": read, "reasons": reasons, "selected": first}


def leaders(chosen: dict[str, int], read: dict[str, int], count: int = 5) -> list[tuple[str, float]]:
    """The sets of which the largest share of rows was chosen: some were cut at 2,000 rows and others have 141."""
    shares = {source: number / read[source] for source, number in chosen.items()}
    return sorted(shares.items(), key=lambda entry: -entry[1])[:count]


def as_expected(task: str, chosen: dict[str, int], read: dict[str, int]) -> bool:
    """Whether the first set, and at least two of the first three, are such as a person would expect."""
    first = [source in EXPECTED[task] for source, _ in leaders(chosen, read, 3)]
    return first[0] and sum(first) >= 2


if __name__ == "__main__":
    print(json.dumps(end_to_end(sys.argv[1], Path(sys.argv[2]))))
