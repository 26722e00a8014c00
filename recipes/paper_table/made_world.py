"""Models, data and measures of the tables of made data."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from results_store import packed

from rocket_hub.records import Example

WORK = Path(__file__).resolve().parents[2] / "runs" / "generation_table"
BASE, TEACHER = "rocket-demo/tiny-llama", "rocket-demo/teacher"
SEEDS, ROWS, PROBLEMS = 50, 400, 500
STEPS, BATCH, RATE = 400, 32, 1e-2


class World:
    """Models and data of the demo Hub, loaded once a process."""

    def __init__(self) -> None:
        from datasets import load_dataset

        from rocket_hub.tasks import get_task

        self.base, self.tokenizer = _load(BASE)
        self.task, self.load = get_task("gsm8k"), load_dataset

    def examples(self, name: str, split: str, count: int, draw: int | None = None) -> list[Example]:
        """Read rows of an evaluation set in the task's form; those of a draw, or the first."""
        rows = self.load(f"rocket-demo/{name}", split=split)
        order = range(len(rows)) if draw is None else Random(100 + draw).sample(range(len(rows)), len(rows))
        return self.task.examples((rows[i] for i in list(order)[:count]), name)

    def teacher(self) -> Any:
        """Load the teacher."""
        return _load(TEACHER)


def _load(name: str) -> Any:
    """Load a model and its tokenizer at its newest commit."""
    from huggingface_hub import HfApi

    from rocket_hub.inference.models import load_base

    return load_base(name, HfApi().model_info(name).sha)


def scored(world: World, model: Any, data: str, tokenizer: Any = None, prompt: Any = None) -> dict[str, Any]:
    """Measure accuracy, and F1 and ROUGE-L of the whole text against the gold solution."""
    from rocket_hub.generation.filters import rouge_l
    from rocket_hub.inference import generate

    problems = world.examples(data, "test", PROBLEMS)
    prompts = [prompt(world.task.question_of(each)) if prompt else each.prompt for each in problems]
    texts = generate(model, tokenizer or world.tokenizer, prompts, max_new_tokens=40, batch_size=250,
                     stop=world.task.stop)  # fmt: skip
    pairs = list(zip(texts, problems, strict=True))
    right = [int(world.task.read_answer(text, each) == each.answer) for text, each in pairs]
    return {
        "accuracy": sum(right) / len(right),
        "correct": packed(right),
        "problems": len(right),
        "f1": sum(word_f1(text, each.completion) for text, each in pairs) / len(pairs),
        "rouge_l": sum(rouge_l(text, each.completion) for text, each in pairs) / len(pairs),
    }


def word_f1(text: str, gold: str) -> float:
    """Compute the F1 of the words of two texts, whatever their order."""
    ours, theirs = Counter(text.split()), Counter(gold.split())
    return 2 * sum((ours & theirs).values()) / max(1, sum(ours.values()) + sum(theirs.values()))
