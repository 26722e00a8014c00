"""Stages 4 and 5: the experts become one routed adapter, which is fine-tuned; a fresh LoRA where no expert helps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rocket_hub.controls import Method, all_methods
from rocket_hub.crossfit import choose, grid
from rocket_hub.moe.expert import Expert
from rocket_hub.pipeline.context import Context
from rocket_hub.pipeline.loading import adapted, read_adapter, stock_folder
from rocket_hub.pipeline.lock import ingredients, made
from rocket_hub.pipeline.problems import as_example
from rocket_hub.records import Example, Pinned
from rocket_hub.runs import digest
from rocket_hub.serialization import to_dict

Results = Mapping[str, Any]


def chosen_experts(context: Context, results: Results) -> tuple[list[Expert], list[Pinned]]:
    """Read the chosen experts from the Hub's cache; where none helps, the group, whose shape a fresh LoRA takes."""
    pins, selection = ingredients(results), results["2-select-experts"]
    chosen = [pins[f"models/{name}"] for name in selection["selected"] or selection["group"]]
    return [read_adapter(context, pin) for pin in chosen], chosen


def methods(context: Context, results: Results) -> dict[str, Method]:
    """List the result and its controls; see `all_methods`."""
    experts, pins = chosen_experts(context, results)
    best = results["2-select-experts"]["best_single"]
    folder = stock_folder(context, ingredients(results)[f"models/{best}"])
    return all_methods(*context.base, context.examples, context.pinned, experts, pins, folder, context.recipe.merge)


def training_rows(context: Context, results: Results) -> list[Example]:
    """Bring the selected rows into the task's form."""
    rows = results["3-select-instructions"]["selected"]
    return [context.task.example(as_example(row["prompt"], row["completion"])) for row in rows]


def merge(context: Context, name: str, results: Results) -> Any:
    """Merge the chosen experts into one routed adapter; where none helps, make a fresh LoRA."""

    def make(folder: Path) -> dict[str, Any]:
        seed_everything(context.recipe.seed)
        start = methods(context, results)[made(results)].start
        weight = context.recipe.merge.gate_start[0]
        adapter = start(weight, folder / "adapter") if start else folder
        size = (adapter / "adapter_model.safetensors").stat().st_size
        return {"method": made(results), "adapter": context.run.relative(adapter), "weight": weight, "bytes": size}

    inputs = context.inputs("merge", experts=results["2-select-experts"]["selected"], pins=pin_digest(results))
    return context.run.stage(name, inputs, make)


def train(context: Context, name: str, results: Results) -> Any:
    """Choose the settings, if there is a choice, and fine-tune the adapter on K-shot and selected rows."""

    def make(folder: Path) -> dict[str, Any]:
        method = methods(context, results)[made(results)]
        recipe = context.recipe
        points = grid(recipe.train.learning_rate, recipe.merge.gate_start, method.weighted)
        return fit_method(context, results, method, points, folder)

    inputs = context.inputs(
        "merge",
        "train",
        experts=results["2-select-experts"]["selected"],
        pins=pin_digest(results),
        rows=results["3-select-instructions"]["selected"],
    )
    return context.run.stage(name, inputs, make)


def fit_method(context: Context, results: Results, method: Method, points: Sequence[Any], folder: Path) -> Any:
    """Choose among the points of a method's grid by cross-fitting, then train on everything at the chosen one."""
    rows = training_rows(context, results)
    choice = choose(points, context.examples, rows, cross_fit(context, method, folder))
    training = fit(context, method, choice.setting, [*context.examples, *rows], folder)
    return {"choice": to_dict(choice), "training": training}


def cross_fit(context: Context, method: Method, folder: Path) -> Callable[..., np.ndarray]:
    """Train without some shots and score these; a fold that an interrupted run finished is not trained again."""

    def run(setting: Any, examples: Sequence[Example], judges: Sequence[Example], label: str) -> np.ndarray:
        from rocket_hub.inference import completion_nll
        from rocket_hub.runs import read_json, write_json

        kept = folder / "tuning" / f"{method.name}-{label}.json"
        if (known := read_json(kept)) is None:
            training = fit(context, method, setting, examples, folder / "tuning" / f"{method.name}-{label}")
            model, tokenizer = context.base
            with adapted(model, context.run.absolute(training["adapter"])) as tuned:
                sums, tokens = completion_nll(tuned, tokenizer, [(shot.prompt, shot.completion) for shot in judges])
            known = (sums / tokens).tolist()
            write_json(kept, known)
        return np.array(known)

    return run


def fit(context: Context, method: Method, setting: Any, examples: Sequence[Example], folder: Path) -> Any:
    """Train one method once."""
    from rocket_hub.training import train_expert

    model, tokenizer = context.base
    seed_everything(context.recipe.seed)
    start = method.start(setting.weight, folder / "start") if method.start else folder / "start"
    training = train_expert(
        model,
        tokenizer,
        start,
        examples,
        context.recipe.train,
        folder / "adapter",
        learning_rate=setting.learning_rate,
        seed=context.recipe.seed,
        progress=lambda step, steps, loss: context.reporter.advance(f"training {method.name}", step, steps),
    )
    return {**to_dict(training), "adapter": context.run.relative(Path(training.adapter))}


def seed_everything(seed: int) -> None:
    """Seed every random generator that initialisation and data order use."""
    from transformers import set_seed

    set_seed(seed)


def pin_digest(results: Results) -> str:
    """Name the commits of the chosen experts."""
    pins = ingredients(results)
    return digest([pins[f"models/{name}"].revision for name in results["2-select-experts"]["selected"]])
