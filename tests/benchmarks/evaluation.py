"""Speed of evaluation, on the demo's base with one of its experts: `python -m tests.benchmarks.evaluation`.

Against one problem at a time with the same code, and against a plain loop of PEFT's LoRA over the same batches. Each is
timed in the same rounds; about a minute on one core.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import pyarrow.parquet as pq
import torch
from peft import PeftModel

from rocket_hub.evaluation import evaluate
from rocket_hub.inference.models import load_base
from rocket_hub.localhub.connect import DEMO
from rocket_hub.options import EvaluateOptions
from rocket_hub.records import Example
from rocket_hub.tasks import GSM8K
from tests.benchmarks.measuring import print_bars, ratio

ROWS, ROUNDS, SLOW_ROUNDS = 200, 5, 2
BATCH, NEW_TOKENS = 50, 32
FASTER, SLOWER = 3.0, 1.10


def plain_loop(model: Any, tokenizer: Any, problems: list[Example]) -> list[int]:
    """Answer batch by batch as one would with PEFT and transformers alone, longest prompts first."""
    tokenizer.padding_side = "left"
    order = sorted(range(len(problems)), key=lambda i: -len(tokenizer(problems[i].prompt).input_ids))
    correct = [0] * len(problems)
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        batch = tokenizer([problems[i].prompt for i in rows], return_tensors="pt", padding=True)
        ids, mask = batch["input_ids"], batch["attention_mask"]
        with torch.no_grad():
            new = model.generate(input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=NEW_TOKENS)
        texts = tokenizer.batch_decode(new[:, ids.shape[1] :], skip_special_tokens=True)
        for i, text in zip(rows, texts, strict=True):
            said = GSM8K.read_answer(text.partition("Question:")[0], problems[i])
            correct[i] = int(bool(said) and said == problems[i].answer)
    return correct


def main() -> int:
    home = DEMO / "models" / "rocket-demo"
    base, tokenizer = load_base(str(home / "tiny-llama"), None)
    model = PeftModel.from_pretrained(base, str(home / "addition")).eval()
    table = pq.read_table(DEMO / "datasets" / "rocket-demo" / "word-problems" / "data" / "test-00000.parquet")
    problems = GSM8K.examples(table.slice(0, ROWS).to_pylist(), "word-problems")

    def ours(size: int) -> list[int]:
        options = EvaluateOptions(batch_size=size, max_new_tokens=NEW_TOKENS)
        return list(evaluate(model, tokenizer, GSM8K, problems, options).correct)

    ways: dict[str, Callable[[], list[int]]] = {
        "ours": lambda: ours(BATCH),
        "loop": lambda: plain_loop(model, tokenizer, problems),
        "one": lambda: ours(1),
    }
    ways["ours"](), ways["loop"]()  # warm up
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    answers: dict[str, list[int]] = {}
    for turn in range(ROUNDS):
        names = ["loop", "ours"] if turn % 2 else ["ours", "loop"]
        for name in [*names, *(["one"] if turn < SLOW_ROUNDS else [])]:
            started = time.perf_counter()
            answers[name] = ways[name]()
            seconds[name].append(time.perf_counter() - started)
    for name, each in seconds.items():
        print(f"{name:<5} {min(each):6.2f} s at best, {len(each)} rounds, {sum(answers[name])} of {ROWS} right")
    faster, slower = ratio(seconds["one"], seconds["ours"][:SLOW_ROUNDS]), ratio(seconds["ours"], seconds["loop"])
    other = sum(a != b for a, b in zip(answers["one"], answers["ours"], strict=True))
    return print_bars([
        (faster.median >= FASTER, f"one row at a time / batched: {faster} >= {FASTER}"),
        (slower.median <= SLOWER, f"batched / plain LoRA loop: {slower} <= {SLOWER}"),
        (answers["ours"] == answers["loop"], "the same rows are right as in the plain loop"),
        (None, f"rows that one at a time judges differently: {other}"),
    ])  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    sys.exit(main())
