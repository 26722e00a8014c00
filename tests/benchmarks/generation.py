"""What batches are worth in Self-Specialization: `python -m tests.benchmarks.generation`.

The demo's base asks itself for 96 questions after prices and answers them below a page, in batches and one prompt at a
time, in turns in one process and one thread; the bar is 4 times.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

PROMPTS, BATCH, ROUNDS = 96, 32, 3
SEEDS = Path(__file__).resolve().parents[2] / "recipes" / "demo" / "kshot_prices.jsonl"


def seconds(model: Any, tokenizer: Any, pages: list[str], batch_size: int) -> float:
    """Time one run, in a folder of its own."""
    from rocket_hub.generation.self_specialization import self_specialize
    from rocket_hub.options import SelfSpecializationOptions
    from rocket_hub.rows.kshot import load_kshot
    from rocket_hub.tasks import GSM8K

    options = SelfSpecializationOptions(
        target_rows=PROMPTS, max_prompts=PROMPTS, seeds_for_answer=1, passages=1, filtered=False, max_new_tokens=40,
        batch_size=batch_size,
    )  # fmt: skip
    seeds = [GSM8K.example(shot) for shot in load_kshot(SEEDS)]
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        self_specialize(model, tokenizer, GSM8K, seeds, options, folder=Path(folder), maker="demo", documents=pages)
        return time.perf_counter() - started


def main() -> None:
    """Print the median ratio over some rounds."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from rocket_hub.localhub.connect import DEMO

    torch.set_num_threads(1)
    base = DEMO / "models" / "rocket-demo" / "tiny-llama"
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(base)
    lines = (DEMO / "datasets" / "rocket-demo" / "shop-pages" / "train.jsonl").read_text().splitlines()
    pages = [json.loads(line)["text"] for line in lines]
    ratios = [seconds(model, tokenizer, pages, 1) / seconds(model, tokenizer, pages, BATCH) for _ in range(ROUNDS)]
    print(f"{PROMPTS} questions and answers, batches of {BATCH}: {statistics.median(ratios):.1f}x one at a time "
          f"({', '.join(f'{ratio:.1f}' for ratio in ratios)})")  # fmt: skip


if __name__ == "__main__":
    main()
