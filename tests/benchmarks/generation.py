"""Speed of batches in Self-Specialization: `python -m tests.benchmarks.generation`.

The demo's base asks itself for 96 questions after prices and answers them below a page, in batches and one prompt at a
time, in turns in one process and one thread; the bar is 4 times.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from rocket_hub.generation.self_specialization import self_specialize
from rocket_hub.inference.models import load_base
from rocket_hub.localhub.connect import DEMO
from rocket_hub.options import SelfSpecializationOptions
from rocket_hub.rows.kshot import load_kshot
from rocket_hub.tasks import GSM8K
from tests.benchmarks.measuring import ROOT

PROMPTS, BATCH, ROUNDS = 96, 32, 3


def seconds(model: Any, tokenizer: Any, pages: list[str], batch_size: int) -> float:
    """Time one run, in a folder of its own."""
    options = SelfSpecializationOptions(
        target_rows=PROMPTS, max_prompts=PROMPTS, seeds_for_answer=1, passages=1, filtered=False, max_new_tokens=40,
        batch_size=batch_size,
    )  # fmt: skip
    seeds = [GSM8K.example(shot) for shot in load_kshot(ROOT / "recipes" / "demo" / "kshot_prices.jsonl")]
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        self_specialize(model, tokenizer, GSM8K, seeds, options, folder=Path(folder), maker="demo", documents=pages)
        return time.perf_counter() - started


def main() -> None:
    torch.set_num_threads(1)
    model, tokenizer = load_base(str(DEMO / "models" / "rocket-demo" / "tiny-llama"), None)
    lines = (DEMO / "datasets" / "rocket-demo" / "shop-pages" / "train.jsonl").read_text().splitlines()
    pages = [json.loads(line)["text"] for line in lines]
    ratios = [seconds(model, tokenizer, pages, 1) / seconds(model, tokenizer, pages, BATCH) for _ in range(ROUNDS)]
    print(f"{PROMPTS} questions and answers, batches of {BATCH}: {statistics.median(ratios):.1f}x one at a time "
          f"({', '.join(f'{ratio:.1f}' for ratio in ratios)})")  # fmt: skip


if __name__ == "__main__":
    main()
