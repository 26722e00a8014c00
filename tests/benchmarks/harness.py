"""Scores of options against those of lm-evaluation-harness, on the same rows: `python -m tests.benchmarks.harness`.

Needs `pip install lm_eval` (the extra `harness`) and the data beside the repository. Nothing is downloaded: the
harness' `HFLM.loglikelihood` gets the requests that its tasks arc_easy and piqa would make of these rows.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from rocket_hub.evaluation import evaluate
from rocket_hub.inference import option_nll
from rocket_hub.inference.models import load_base
from rocket_hub.options import EvaluateOptions
from rocket_hub.tasks import ARC_EASY, PIQA, Task
from tests.benchmarks.measuring import SHARED
from tests.tasks.native import NATIVE

ROWS = 200
CLOSE = 1e-3  # nats a whole option; float32 sums in another order


def requests(task: Task, row: dict[str, Any]) -> tuple[str, list[str]]:
    """Write what the harness' YAML of the task says, word by word, from the row itself."""
    if task is PIQA:
        return f"Question: {row['goal']}\nAnswer:", [f" {row['sol1']}", f" {row['sol2']}"]
    return f"Question: {row['question']}\nAnswer:", [f" {text}" for text in row["choices"]["text"]]


def theirs(model: Any, tokenizer: Any, asked: list[tuple[str, list[str]]]) -> list[np.ndarray]:
    """Let the harness score the options [nats]."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=16, device="cpu")
    pairs = [(prompt, option) for prompt, options in asked for option in options]
    found = harness.loglikelihood(
        [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)], disable_tqdm=True
    )
    nll, ends = np.array([-each for each, _ in found]), np.cumsum([len(options) for _, options in asked])
    return np.split(nll, ends[:-1])


def compare(task: Task, file: Path, model: Any, tokenizer: Any) -> bool:
    """Compare row by row; True = the same. Rows beyond the model's context, which the harness cuts, are counted."""
    rows = [NATIVE[task.name](row) for row in pq.read_table(file).slice(0, ROWS).to_pylist()]
    asked = [requests(task, row) for row in rows]
    examples = task.examples(rows, str(file))
    ours = option_nll(model, tokenizer, [task.options(example) for example in examples])
    reference = theirs(model, tokenizer, asked)
    limit = model.config.max_position_embeddings
    fits = [max(len(tokenizer(prompt + text).input_ids) for text in options) <= limit for prompt, options in asked]
    gaps = [float(np.abs(one.nll - other).max()) for one, other in zip(ours, reference, strict=True)]
    far = [row for row, gap in enumerate(gaps) if fits[row] and gap >= CLOSE]
    right = [task.choice_index(example) for example in examples]
    lengths = [np.array([len(option[1:]) for option in options]) for _, options in asked]
    chosen = {
        "acc": tuple(int(np.argmin(nll) == at) for nll, at in zip(reference, right, strict=True)),
        "acc_norm": tuple(int(np.argmin(n / k) == at) for n, k, at in zip(reference, lengths, right, strict=True)),
    }
    details = evaluate(model, tokenizer, task, examples, EvaluateOptions(scoring="likelihood")).details
    print(f"{task.name}: {len(rows)} rows, {sum(map(len, reference))} options, {fits.count(False)} beyond the context")
    print(f"  largest gap {max(g for g, fit in zip(gaps, fits, strict=True) if fit):.1e} nats; rows apart: {far}")
    same = not far
    for name, theirs_ in chosen.items():
        other = [i for i, (a, b) in enumerate(zip(theirs_, details[name]["correct"], strict=True)) if a != b]
        shares = f"theirs {sum(theirs_) / len(rows):.3f}, ours {details[name]['accuracy']:.3f}"
        print(f"  {name}: {shares}; rows apart: {other}")
        same = same and not other
    print("pass" if same else "FAIL")
    return same


def main() -> None:
    model, tokenizer = load_base(str(SHARED / "models" / "stories260K"), None)
    benchmarks = SHARED / "benchmarks"
    files = ((ARC_EASY, benchmarks / "arc_easy" / "test.parquet"), (PIQA, benchmarks / "piqa" / "validation.parquet"))
    sys.exit(not all([compare(task, file, model, tokenizer) for task, file in files]))


if __name__ == "__main__":
    main()
