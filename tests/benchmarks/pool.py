"""The real pool: 74 instruction sets, 101,140 rows, against 50 shots of a benchmark's train split.

`python -m tests.benchmarks.pool end-to-end TASK CACHE` chooses 1,000 rows for one draw of the shots;
`... leading TASK CACHE` compares draws and ways to compare on the vectors alone. Both print JSON.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from rocket_hub.inference.models import DeferredEncoder, encoder_key
from rocket_hub.options import InstructionOptions
from rocket_hub.records import Example
from rocket_hub.selection.embeddings import embed, open_cache
from rocket_hub.selection.instructions import choose, select_instructions, text_of

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
ENCODER = SHARED / "models" / "potion-base-4m"
SHOTS, CHOSEN, DRAWS, MODES = 50, 1000, 3, ("max", "round_robin")

MATHS = {"aqua_rat", "competition_math", "svamp", "ni_mathematics_dataset"}
CODE = {"humaneval", "humanevalpack_fix", "gpteacher_codegen"}
SCIENCE = {
    "ni_scitail_sentence", "ni_propara", "p3_qasc", "ni_qasc_facts", "ni_qasc_question", "p3_quartz", "p3_ropes",
    "ni_ropes_question", "ni_ropes_background",
}  # fmt: skip
EXPECTED = {"gsm8k": MATHS, "mbpp": CODE, "arc_challenge": SCIENCE, "arc_easy": SCIENCE}
"""What a person would expect to lead."""


def rows() -> Iterator[Example]:
    """All rows, set by set."""
    for path in sorted((SHARED / "instructions").glob("*.parquet")):
        for index, row in enumerate(pq.read_table(path).to_pylist()):
            prompt = f"{row['instruction']}\n\n{row['input']}" if row["input"] else row["instruction"]
            yield Example(prompt, row["output"], source=path.stem, index=index)


def question(row: dict) -> str:
    """A benchmark's question with its options."""
    lines = [f"{letter}. {text}" for letter, text in zip("ABCDEFGH", row["choices"] or (), strict=False)]
    return "\n".join([row["question"], *lines])


def shots(task: str, draw: int) -> list[Example]:
    """Draw 50 examples of the train split."""
    table = pq.read_table(SHARED / "benchmarks" / task / "train.parquet").to_pylist()
    drawn = [table[i] for i in np.random.default_rng(draw).choice(len(table), SHOTS, replace=False)]
    return [Example(question(row), answer(row, task), row["answer"]) for row in drawn]


def answer(row: dict, task: str) -> str:
    """A benchmark's answer, with its rationale or its letter where it has one."""
    if task == "gsm8k":
        return f"{row['rationale']}\n#### {row['answer']}"
    return f"{'ABCDEFGH'[row['answer_index']]}. {row['answer']}" if row["choices"] else row["answer"]


def evaluation_questions(task: str) -> list[str]:
    """The questions of the test split."""
    table = pq.read_table(SHARED / "benchmarks" / task / "test.parquet")
    return [question(row) for row in table.to_pylist()]


def end_to_end(task: str, cache: Path) -> dict:
    """Read, gate, encode, compare and choose."""
    found = select_instructions(
        DeferredEncoder(str(ENCODER), None), shots(task, 0), rows(), InstructionOptions(max_rows=CHOSEN),
        evaluation_questions=evaluation_questions(task), cache=cache / encoder_key(str(ENCODER), None),
    )  # fmt: skip
    reasons = Counter[str]()
    for count in found.counts.values():
        reasons.update(count)
    read = {source: count["read"] for source, count in found.counts.items()}
    first = "\0".join(f"{row.source}#{row.index}" for row in found.selected)
    return {"chosen": found.per_source, "read": read, "reasons": reasons, "selected": first}


def leading(task: str, cache: Path) -> list[dict]:
    """Choose for several draws of the shots, by the largest cosine and in turns."""
    pool = list(rows())
    encoder, read = DeferredEncoder(str(ENCODER), None), Counter(row.source for row in pool)
    found = []
    with open_cache(cache / encoder_key(str(ENCODER), None)) as kept:
        vectors = embed(encoder, [text_of(row) for row in pool], kept)
        for draw in range(DRAWS):
            drawn = embed(encoder, [text_of(shot) for shot in shots(task, draw)], kept)[np.arange(SHOTS)]
            for mode in MODES:
                options = InstructionOptions(similarity=mode, max_rows=CHOSEN)
                chosen = Counter(pool[row].source for row in choose(vectors, drawn, options).taken)
                found.append({"draw": draw, "mode": mode, "chosen": chosen, "read": read})
    return found


def leaders(chosen: dict[str, int], read: dict[str, int], count: int = 5) -> list[tuple[str, float]]:
    """The sets of which the largest share of rows was chosen: some were cut at 2,000 rows and others have 141."""
    shares = {source: number / read[source] for source, number in chosen.items()}
    return sorted(shares.items(), key=lambda entry: -entry[1])[:count]


def as_expected(task: str, chosen: dict[str, int], read: dict[str, int]) -> bool:
    """Whether the first set, and at least two of the first three, are such as a person would expect."""
    first = [source in EXPECTED[task] for source, _ in leaders(chosen, read, 3)]
    return first[0] and sum(first) >= 2


if __name__ == "__main__":
    work = {"end-to-end": end_to_end, "leading": leading}[sys.argv[1]]
    print(json.dumps(work(sys.argv[2], Path(sys.argv[3]))))
