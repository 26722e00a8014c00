"""Accuracy that a build keeps on the chosen experts' own problems."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rocket_hub.results import Chosen

LEAST = 0.2  # an expert that cannot do its own problems has nothing to lose
LONGEST = 64  # an answer to any of their problems, in tokens


def accuracies(model: Any, context: Any, asked: Mapping[str, Any]) -> dict[str, float]:
    """Measure a model on each expert's own skill."""
    from rocket_hub.evaluation import evaluate

    options = replace(context.recipe.evaluate, max_new_tokens=LONGEST, allow_code_execution=True)
    return {name: evaluate(model, context.base[1], task, problems, options).accuracy
            for name, (task, problems) in asked.items()}  # fmt: skip


def accuracies_alone(context: Any, chosen: Chosen, asked: Mapping[str, Any]) -> dict[str, float]:
    """Measure each expert alone on its own skill; cached in the run folder, which all methods of a pair share."""
    from rocket_hub.lora.attach import adapted
    from rocket_hub.pipeline.adapters import stock_folder
    from rocket_hub.runs import read_json, write_json

    kept, pins = context.run.path / "skills.json", chosen.found.pins
    found = read_json(kept) or {}
    for name in asked:
        key = f"{name}@{pins[f'models/{name}'].revision}-{len(asked[name][1])}"
        if key not in found:
            with adapted(context.base[0], stock_folder(context, pins[f"models/{name}"])) as expert:
                found[key] = accuracies(expert, context, {name: asked[name]})[name]
            write_json(kept, found)
        found[name] = found[key]
    return {name: found[name] for name in asked}


def kept_share(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, Any]:
    """Average the shares of the skills that are left.

    Args:
        before: Accuracy of each expert alone on its own skill.
        after: That of the build.

    Returns:
        `accuracy`: the mean of after / before over the experts that had something to lose; `skills`: expert ->
        [before, after].

    Raises:
        ValueError: No expert had.
    """
    shares = [after[name] / before[name] for name in before if before[name] >= LEAST]
    if not shares:
        raise ValueError(f"no chosen expert has {LEAST:.0%} on its own skill")
    pairs = {name.rpartition("/")[2]: [round(before[name], 4), round(after[name], 4)] for name in before}
    return {"accuracy": sum(shares) / len(shares), "skills": pairs}
