"""Scores of the real bank and of the demo bank on whole pools of questions."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet

from rocket_hub.errors import AdapterError
from rocket_hub.inference.models import load_base
from rocket_hub.localhub.connect import DEMO
from rocket_hub.lora.expert import read_expert
from rocket_hub.records import Example
from rocket_hub.selection.scoring import ShotScores, score_adapters
from rocket_hub.tasks import GSM8K
from tests.benchmarks.bank import BASE
from tests.benchmarks.measuring import benchmark, lettered

LONGEST = 256  # tokens
DEMO_KINDS = ("its own K-shot", "questions of one step")

Factors = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Pool:
    """A bank of adapters on its base, and the scores of each on a pool of questions."""

    model: Any
    tokenizer: Any
    factors: Factors
    shots: list[Example]
    scores: ShotScores

    @property
    def texts(self) -> list[str]:
        return [shot.prompt + shot.completion for shot in self.shots]


def real_pool(task: str, folders: Mapping[str, Path], rows: int) -> Pool:
    """Score the real bank on rows of a benchmark's train split."""
    model, tokenizer = load_base(str(BASE), None)
    factors = {name: read_expert(folder).modules for name, folder in folders.items()}
    table = benchmark(task, "train")
    random.Random(0).shuffle(table)
    shots = []
    for row in table:
        shot = _example(row)
        if len(tokenizer(shot.prompt + shot.completion, verbose=False)["input_ids"]) <= LONGEST:
            shots.append(shot)
    return Pool(model, tokenizer, factors, shots[:rows], _scores(model, tokenizer, factors, shots[:rows], 1))


def _example(row: Mapping[str, Any]) -> Example:
    """Write a row of a benchmark as question, rationale and answer."""
    letters = lettered(row["choices"])
    question = "\n".join([row["question"], *letters])
    answer = letters[row["answer_index"]] if letters else f"{row['rationale']}\n#### {row['answer']}"
    return Example(f"Question: {question}\nAnswer:", f" {answer}", row["answer"])


def demo_pool(kind: str, rows: int) -> Pool:
    """Score the demo Hub's adapters, answers included, on one of `DEMO_KINDS`."""
    model, tokenizer = load_base(str(DEMO / "models" / "rocket-demo" / "tiny-llama"), None)
    factors = {}
    for path in sorted((DEMO / "models" / "rocket-demo").glob("*/adapter_config.json")):
        try:
            factors[path.parent.name] = read_expert(path.parent, base_weights=model.get_parameter).modules
        except AdapterError:  # the demo has adapters that must be refused
            continue
    if kind == DEMO_KINDS[0]:  # two steps a question, which no adapter alone was trained for
        path = DEMO / "datasets" / "rocket-demo" / "word-problems" / "data" / "train-00000.parquet"
        known = GSM8K.examples(pyarrow.parquet.read_table(path).to_pylist(), path.name)
    else:
        known = _one_step()
    shots = random.Random(0).sample(known, rows)
    return Pool(model, tokenizer, factors, shots, _scores(model, tokenizer, factors, shots, 32))


def _one_step() -> list[Example]:
    """Read the demo's open data sets of one step a question."""
    known = []
    for name in ("first-steps", "tutor-chat"):
        text = (DEMO / "datasets" / "rocket-demo" / name / "train.jsonl").read_text(encoding="utf-8")
        for row in map(json.loads, text.splitlines()):
            turns = [turn["content"] for turn in row.get("messages", ())]
            asked, said = turns or (row["instruction"], row["output"])
            known.append(GSM8K.example(Example(asked, said, said)))
    return known


def _scores(model: Any, tokenizer: Any, factors: Factors, shots: list[Example], new_tokens: int) -> ShotScores:
    return score_adapters(
        model, tokenizer, factors, shots, extract=GSM8K.extract, batch_size=16 if new_tokens == 1 else 60,
        max_new_tokens=new_tokens, budget="all",
    )  # fmt: skip
