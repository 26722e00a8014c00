"""Self-Specialization's arms, on the demo family that has seeds and pages but no open set."""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random
from typing import Any

from made_world import BASE, BATCH, RATE, ROWS, SEEDS, STEPS, WORK, World, scored

from rocket_hub.options import TrainOptions
from rocket_hub.records import Example

UNRELATED = ("rocket-demo/first-steps", "rocket-demo/stories", "rocket-demo/who-has-what")
MADE = {  # what is made, by the arm's name: (retrieval, filters)
    "self-specialised, without retrieval": (False, True),
    "self-specialised, without filters": (True, False),
    "self-specialised": (True, True),
}
ARMS = ("base", "seeds only", "generic open rows", *MADE)


def made_rows(world: World, arm: str, draw: int, seeds: list[Example]) -> tuple[list[Example], dict[str, Any]]:
    """Make or read the rows that an arm trains on beside the seeds; also their counts and rates."""
    if arm == "generic open rows":
        sets = [world.load(name, split="train") for name in UNRELATED]
        found = [row for rows in sets for row in rows.select(range(min(ROWS, len(rows))))]
        rows = [Example(*_question_and_answer(row), source="open", index=i) for i, row in enumerate(found)]
        return Random(draw).sample(rows, ROWS), {}
    if arm not in MADE:
        return [], {}
    from rocket_hub.generation.self_specialization import rates, self_specialize
    from rocket_hub.options import SelfSpecializationOptions

    retrieval, filtered = MADE[arm]
    options = SelfSpecializationOptions(
        target_rows=ROWS, max_prompts=3 * ROWS, seeds_for_answer=1, passages=1 if retrieval else 0, filtered=filtered,
        novelty=0.95, votes=5 if filtered else 0, max_new_tokens=40, batch_size=64,
    )  # fmt: skip
    pages = [row["text"] for row in world.load("rocket-demo/shop-pages", split="train")]
    made = self_specialize(world.base, world.tokenizer, world.task, seeds, options, maker=BASE, seed=draw,
                           documents=pages, folder=WORK / f"{arm}-{draw}".replace(" ", "_"))  # fmt: skip
    return list(made.rows), {"counts": made.counts, **rates(made.counts), "right": _right(made.rows)}


def _question_and_answer(row: dict[str, Any]) -> tuple[str, str]:
    """Read a row of an open set, whichever of the demo's shapes it has."""
    for question, answer in (("instruction", "output"), ("question", "answer"), ("prompt", "completion")):
        if question in row:
            return row[question], row[answer]
    raise ValueError(f"unknown columns {', '.join(row)}")


def _right(rows: tuple[Example, ...]) -> float:
    """Return the share of made rows that are true, by the prices that made the world."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "demo"))
    import prices

    def true(row: Example) -> bool:
        words = f" {row.prompt.replace('?', ' ').replace('.', ' ')} "
        return any(
            f" {good} " in words and row.completion.endswith(f"#### {prices.price(good)}") for good in prices.GOODS
        )

    return sum(map(true, rows)) / max(1, len(rows))


def specialised(world: World, arm: str, draw: int) -> dict[str, Any]:
    """Train and measure one arm."""
    from rocket_hub.generation.self_specialization import lora_specialiser

    seeds = world.examples("shop-prices", "train", SEEDS, draw)
    rows, told = made_rows(world, arm, draw, seeds)
    options = TrainOptions(learning_rate=(RATE,), max_steps=STEPS, batch_size=BATCH, max_length=128)
    special = lora_specialiser(world.base, world.tokenizer, world.task, seeds, options, WORK / "adapters", seed=draw)
    with special(rows) as (model, _):
        return {**scored(world, model, "shop-prices"), **told, "rows": len(rows)}
