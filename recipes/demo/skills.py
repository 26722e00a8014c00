"""What the demo's models can do: `python recipes/demo/skills.py`, once the Hub's models are made.

Prints the base's facts, and each expert on unseen problems of its own skill and of its family's target.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import forms
import pretraining
import torch
import world
from make_hub import PACKAGED
from models import BANK, TARGETS, examples, load_base

from rocket_hub.evaluation import evaluate
from rocket_hub.lora.attach import adapted
from rocket_hub.options import EvaluateOptions
from rocket_hub.tasks import get_task

SEED = 5
TEXTS = {
    "a + b": lambda rng: _with("+", rng),
    "a - b": lambda rng: _with("-", rng),
    "a * b": lambda rng: _with("*", rng),
    "the letter of an option": forms.listing,
    "a price in one page": lambda rng: _with("####", rng, pretraining.solved_page),
    "a price among pages": pretraining.solved_price,
}


def _with(part: str, rng: Random, draw: Any = world.fact) -> str:
    """Draw a text that holds a part."""
    while part not in (text := draw(rng)):
        pass
    return text


def known(model: Any, tokenizer: Any, draw: Any, count: int) -> float:
    """Count how often the base says the last number or letter of a text rightly."""
    rng, right = Random(SEED), 0
    for _ in range(count):
        ids = tokenizer.encode(draw(rng).rstrip(".").removesuffix("[DONE]").rstrip())
        with torch.no_grad():
            right += int(model(torch.tensor([ids[:-1]])).logits[0, -1].argmax() == ids[-1])
    return right / count


def skills(hub: Path, count: int) -> Iterator[tuple[str, float, float]]:
    """Measure each expert that has a skill: name, accuracy on its own problems, on its family's."""
    home = hub / "models" / "rocket-demo"
    model, tokenizer = load_base(home / "tiny-llama")
    options = EvaluateOptions(batch_size=250, max_new_tokens=40, allow_code_execution=True)
    for skill in BANK:
        if not skill.name.startswith("blind") and skill.name != "names":
            task = get_task(skill.task)
            with adapted(model, home / skill.name) as expert:
                own, target = (
                    evaluate(expert, tokenizer, task, examples(task, draw, count, SEED), options).accuracy
                    for draw in (skill.draw, TARGETS[skill.task])
                )
            yield skill.name, own, target


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hub", type=Path, default=PACKAGED, help="folder of the Hub")
    parser.add_argument("--problems", type=int, default=200)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    model, tokenizer = load_base(options.hub / "models" / "rocket-demo" / "tiny-llama")
    print("| the base knows | of texts |\n|---|---|")
    for name, draw in TEXTS.items():
        print(f"| {name} | {known(model, tokenizer, draw, options.problems):.0%} |", flush=True)
    print("\n| expert | own problems | its family's |\n|---|---|---|")
    for name, own, target in skills(options.hub, options.problems):
        print(f"| {name} | {own:.0%} | {target:.0%} |", flush=True)


if __name__ == "__main__":
    main()
