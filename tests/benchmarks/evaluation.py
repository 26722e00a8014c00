"""How fast problems are answered, on the demo's base with one of its experts: `python -m tests.benchmarks.evaluation`.

Against one problem at a time with the same code, and against a plain loop of PEFT's LoRA over the same batches. Each is
timed in the same rounds; about a minute on one core.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from peft import PeftModel

from rocket_hub.evaluation import evaluate
from rocket_hub.inference.models import load_base
from rocket_hub.options import EvaluateOptions
from rocket_hub.records import Example
from rocket_hub.tasks import GSM8K
from tests.benchmarks.measuring import ratio

ROWS, ROUNDS, SLOW_ROUNDS = 200, 5, 2
OPTIONS = EvaluateOptions(batch_size=50, max_new_tokens=32)
FASTER, SLOWER = 3.0, 1.10


def plain_loop(model: Any, tokenizer: Any, problems: list[Example]) -> list[int]:
    """Answer batch by batch as one would with PEFT and transformers alone, longest prompts first."""
    tokenizer.padding_side = "left"
    order = sorted(range(len(problems)), key=lambda i: -len(tokenizer(problems[i].prompt).input_ids))
    correct = [0] * len(problems)
    for start in range(0, len(order), OPTIONS.batch_size):
        rows = order[start : start + OPTIONS.batch_size]
        batch = tokenizer([problems[i].prompt for i in rows], return_tensors="pt", padding=True)
        with torch.no_grad():
            new = model.generate(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], do_sample=False,
                max_new_tokens=OPTIONS.max_new_tokens,
            )  # fmt: skip
        texts = tokenizer.batch_decode(new[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        for i, text in zip(rows, texts, strict=True):
            said = GSM8K.read_answer(text.partition("Question:")[0], problems[i])
            correct[i] = int(bool(said) and said == problems[i].answer)
    return correct


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Run and take the time [s]."""
    started = time.perf_counter()
    result = function()
    return time.perf_counter() - started, result


def main() -> None:
    """Measure and hold against the bars."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    demo = Path(str(files("rocket_hub"))) / "localhub" / "demo"
    base, tokenizer = load_base(str(demo / "models" / "rocket-demo" / "tiny-llama"), None, "float32")
    model = PeftModel.from_pretrained(base, str(demo / "models" / "rocket-demo" / "addition")).eval()
    table = pq.read_table(demo / "datasets" / "rocket-demo" / "word-problems" / "data" / "test-00000.parquet")
    problems = GSM8K.examples(table.slice(0, ROWS).to_pylist(), "word-problems")

    def ours(size: int) -> list[int]:
        options = EvaluateOptions(batch_size=size, max_new_tokens=OPTIONS.max_new_tokens)
        return list(evaluate(model, tokenizer, GSM8K, problems, options).correct)

    ours(OPTIONS.batch_size), plain_loop(model, tokenizer, problems)  # warm up
    seconds: dict[str, list[float]] = {"ours": [], "one": [], "loop": []}
    answers: dict[str, list[int]] = {}
    for turn in range(ROUNDS):
        runs: dict[str, Callable[[], list[int]]] = {
            "ours": lambda: ours(OPTIONS.batch_size),
            "loop": lambda: plain_loop(model, tokenizer, problems),
        }
        runs = dict(reversed(runs.items())) if turn % 2 else runs
        if turn < SLOW_ROUNDS:
            runs["one"] = lambda: ours(1)
        for name, run in runs.items():
            took, answers[name] = timed(run)
            seconds[name].append(took)
    for name, each in seconds.items():
        print(f"{name:<5} {min(each):6.2f} s at best, {len(each)} rounds, {sum(answers[name])} of {ROWS} right")
    faster, slower = ratio(seconds["one"], seconds["ours"][:SLOW_ROUNDS]), ratio(seconds["ours"], seconds["loop"])
    passed = (faster.median >= FASTER, slower.median <= SLOWER, answers["ours"] == answers["loop"])
    print(f"{'pass' if passed[0] else 'FAIL'}  one row at a time / batched: {faster} >= {FASTER}")
    print(f"{'pass' if passed[1] else 'FAIL'}  batched / plain LoRA loop: {slower} <= {SLOWER}")
    print(f"{'pass' if passed[2] else 'FAIL'}  the same rows are right as in the plain loop")
    other = sum(a != b for a, b in zip(answers["one"], answers["ours"], strict=True))
    print(f"rows that one at a time judges differently: {other}")
    sys.exit(not all(passed))


if __name__ == "__main__":
    main()
