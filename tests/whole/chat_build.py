"""Run by `test_chat.py` in a process of its own: builds on a chat base, and what every stage is given to read.

Arguments: the Hub, its cache, a K-shot file, a folder for the runs. What was seen is printed as one JSON line.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rocket_hub.localhub import connect

NOTES: list[str] = []
SEEN: dict[str, list[Any]] = {}


class Noting:
    """A reporter that keeps what the stages say."""

    def stage(self, name: str, note: str) -> None:
        NOTES.append(f"{name} {note}".strip())

    def advance(self, what: str, done: int, total: int) -> None:
        pass

    def say(self, text: str) -> None:
        NOTES.append(text)


def listen(owner: Any, name: str, told: Callable[..., list[Any]]) -> None:
    """Note what a function is given, and let it do its work."""
    work = getattr(owner, name)

    def noting(*given: Any, **more: Any) -> Any:
        SEEN.setdefault(name, []).extend(told(*given, **more))
        return work(*given, **more)

    setattr(owner, name, noting)


def pairs(examples: Any) -> list[Any]:
    """Prompt and completion of each example."""
    return [(example.prompt, example.completion) for example in examples]


def listen_to_all() -> None:
    """Note what is scored, routed by, trained on, measured, embedded and written for."""
    from rocket_hub import evaluation, training
    from rocket_hub.controls import methods
    from rocket_hub.inference import models
    from rocket_hub.selection import rationales, scoring

    listen(scoring, "score_adapters", lambda model, tokenizer, bank, shots, **more: pairs(shots))
    listen(methods, "kshot_routers", lambda adapter, model, tokenizer, rows: [tuple(row) for row in rows])
    listen(training, "train_expert", lambda model, tokenizer, start, examples, *more, **rest: pairs(examples))
    listen(evaluation, "evaluate", lambda model, tokenizer, task, problems, *more, **rest: pairs(problems))
    listen(models.DeferredEncoder, "encode", lambda self, texts: list(texts))
    listen(rationales, "generate", lambda model, tokenizer, prompts, **more: list(prompts))


def main(hub: str, kshot: str, folder: str) -> None:
    """Build, build again, and train an expert."""
    with connect(hub) as connection:
        from huggingface_hub import HfApi

        listen_to_all()  # before the stages take the functions by their names
        from rocket_hub.pipeline import build
        from rocket_hub.pipeline.standalone import ExpertPlan, make_expert
        from rocket_hub.recipe import Recipe

        recipe = Recipe.from_yaml(connection.recipes["gsm8k"], "gsm8k")
        recipe = recipe.updated("discover", max_adapters=2, max_datasets=2).updated("train", max_steps=2, batch_size=4)
        recipe = recipe.updated("experts", num_experts=2, follow_verdict=False, rationales="base")
        recipe = recipe.updated("instructions", max_rows=8).updated("merge", router_init="kshot")
        recipe = recipe.updated("evaluate", max_rows=4, max_new_tokens=4, few_shot=1, controls=())
        recipe = recipe.updated("compute", dtype="bfloat16").updated("push", repo_id="local/chat")
        runs = Path(folder)
        built = build(recipe, kshot, runs / "run", hub_name="chat", reporter=Noting())
        first, seen = list(NOTES), dict(SEEN)
        NOTES.clear()
        SEEN.clear()
        build(recipe, kshot, runs / "run", hub_name="chat", reporter=Noting())
        again = list(NOTES)
        SEEN.clear()
        make_expert(HfApi(), ExpertPlan(kshot, rank=2, alpha=2), recipe, runs / "expert", Noting())
    assert built.rows and built.published
    found = {"first": first, "again": again, "seen": seen, "expert": SEEN["train_expert"],
             "rows": [row.prompt for row in built.rows.selected], "content": built.published.content}  # fmt: skip
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
