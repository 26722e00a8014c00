"""Stages 4 and 5: the experts become one routed adapter, which is fine-tuned; a fresh LoRA where no expert helps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from rocket_hub.controls import Group, Method, Parts, all_methods
from rocket_hub.lora.attach import WEIGHTS, adapted
from rocket_hub.lora.expert import Expert
from rocket_hub.options import Setting
from rocket_hub.pipeline.adapters import read_adapter, stock_folder
from rocket_hub.pipeline.context import Context, as_example
from rocket_hub.pipeline.lock import group_of, ingredients, made
from rocket_hub.pipeline.select_data import random_rows
from rocket_hub.records import Example, Pinned
from rocket_hub.runs import digest, read_json, write_json
from rocket_hub.serialization import to_dict
from rocket_hub.tuning import choose, grid

Results = Mapping[str, Any]


def methods(context: Context, results: Results) -> dict[str, Method]:
    """List the result and its controls; see `all_methods`. Experts are read when a method is first started."""
    pins, selection, chosen = ingredients(results), results["2-select-experts"], group_of(results)
    usable = [score["repo_id"] for score in selection["scores"]]  # the best rank sum comes first
    drawn = np.random.default_rng(context.recipe.seed).choice(sorted(usable), len(chosen), replace=False).tolist()

    def group(names: Sequence[str]) -> Group:
        return Group(tuple(pins[f"models/{name}"] for name in names), read)

    @cache
    def read(pin: Pinned) -> Expert:
        return read_adapter(context, pin)

    return all_methods(
        Parts(
            model=lambda: context.base,
            base=context.pinned,
            shots=context.examples,
            chosen=group(chosen),
            drawn=group(drawn),
            ranked=group(usable[: len(chosen)]),
            best=lambda: stock_folder(context, pins[f"models/{selection['best_single']}"]),
            merge=context.recipe.merge,
            seed=context.recipe.seed,
        )
    )


def training_rows(context: Context, results: Results, which: str = "selected") -> list[Example]:
    """Bring the rows that a method is trained on into the task's form; see `Method`."""
    chosen = [Example(**row) for row in results["3-select-instructions"]["selected"]]
    rows = {"selected": chosen, "none": []}.get(which)
    if rows is None:
        rows = random_rows(context, results, len(chosen))
    return [context.task.example(as_example(row.prompt, row.completion)) for row in rows]


@contextmanager
def method_model(
    context: Context, results: Results, method: Method, setting: Setting, folder: Path
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Make a method and put it on the base model, which is the same as before when the block ends.

    Args:
        context: The build.
        results: What its first three stages left.
        method: One of `methods`.
        setting: Learning rate and weight, if it is trained.
        folder: Its folder; what an earlier call with the same arguments finished or began there is used.

    Yields:
        The model, for inference, and what a table says about it (settings, steps, seconds, experts).
    """
    made_of, details = prepared(context, results, method, (setting,), folder)
    with opened(context, method, made_of) as model:
        yield model, details


def prepared(
    context: Context, results: Results, method: Method, points: Sequence[Setting], folder: Path
) -> tuple[Path | None, dict[str, Any]]:
    """Make a method: write it, or train it at the best point of its grid, unless an earlier run has.

    Returns:
        The folder to open, none for the bare base, and what a table says about it.
    """
    if method.start is None:
        return None, {}
    experts = {"experts": list(method.experts)} if method.experts else {}
    kept = folder / "made.json"  # a run that was stopped while it measured does not make it again
    if (details := read_json(kept)) is None:
        if method.trained:
            details = described(fit_method(context, results, method, points, folder))
        else:
            seed_everything(context.recipe.seed)
            details = {"adapter": context.run.relative(method.start(1.0, folder / "adapter"))}
        write_json(kept, details)
    return context.run.absolute(details["adapter"]), {**details, **experts}


def described(stage: Mapping[str, Any]) -> dict[str, Any]:
    """Keep what a table or a card says about a training."""
    training, choice = stage["training"], stage["choice"]
    return {
        **choice["setting"],
        "adapter": training["adapter"],
        "steps": training["steps"],
        "train_seconds": training["seconds"],
        "loss": training["loss"],
        "tried": len(choice["nll"]) or 1,
    }


def opened(context: Context, method: Method, made_of: Path | None) -> AbstractContextManager[Any]:
    """Open a method for inference."""
    model, _ = context.base
    return method.open(model, made_of, False) if method.open and made_of else adapted(model, made_of)


def merge(context: Context, name: str, results: Results) -> Any:
    """Merge the chosen experts into one routed adapter; where none helps, make a fresh LoRA."""

    def make(folder: Path) -> dict[str, Any]:
        seed_everything(context.recipe.seed)
        method = methods(context, results)[made(results)]
        weight = weighed(method, Setting(0.0, context.recipe.merge.gate_start[0])).weight
        adapter = method.start(weight, folder / "adapter") if method.start else folder
        size = (adapter / WEIGHTS).stat().st_size
        return {"method": made(results), "adapter": context.run.relative(adapter), "weight": weight, "bytes": size}

    inputs = context.inputs("merge", experts=results["2-select-experts"]["selected"], pins=pin_digest(results))
    return context.run.stage(name, inputs, make)


def train(context: Context, name: str, results: Results) -> Any:
    """Choose the settings, if there is a choice, and fine-tune the adapter on K-shot and selected rows."""

    def make(folder: Path) -> dict[str, Any]:
        method = methods(context, results)[made(results)]
        recipe = context.recipe
        points = grid(recipe.train.learning_rate, recipe.merge.gate_start)
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
    rows = training_rows(context, results, method.rows)
    points = list(dict.fromkeys(weighed(method, point) for point in points))
    choice = choose(points, context.examples, rows, cross_fit(context, method, folder))
    training = fit(context, method, choice.setting, [*context.examples, *rows], folder)
    return {"choice": to_dict(choice), "training": training}


def weighed(method: Method, setting: Setting) -> Setting:
    """Return a setting without a weight for a method that has none to choose."""
    return setting if method.weighted else replace(setting, weight=1.0)


def cross_fit(context: Context, method: Method, folder: Path) -> Callable[..., np.ndarray]:
    """Train without some shots and score these; a fold that an interrupted run finished is not trained again."""

    def run(setting: Any, examples: Sequence[Example], judges: Sequence[Example], label: str) -> np.ndarray:
        from rocket_hub.inference import completion_nll

        kept = folder / "tuning" / f"{method.name}-{label}.json"
        if (known := read_json(kept)) is None:
            training = fit(context, method, setting, examples, folder / "tuning" / f"{method.name}-{label}")
            with opened(context, method, context.run.absolute(training["adapter"])) as tuned:
                sums, tokens = completion_nll(
                    tuned, context.base[1], [(shot.prompt, shot.completion) for shot in judges]
                )
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
    options = context.recipe.train
    training = train_expert(
        model,
        tokenizer,
        start,
        examples,
        replace(options, schedule=method.schedule or options.schedule),
        folder / "adapter",
        learning_rate=setting.learning_rate,
        seed=context.recipe.seed,
        progress=lambda step, steps, loss: context.reporter.advance(f"training {method.name}", step, steps),
        opened=method.open,
    )
    return {**to_dict(training), "adapter": context.run.relative(Path(training.adapter))}


def seed_everything(seed: int) -> None:
    """Seed every random generator that initialisation and data order use."""
    from transformers import set_seed

    set_seed(seed)


def pin_digest(results: Results) -> str:
    """Name the commits of the chosen experts."""
    pins = ingredients(results)
    return digest([pins[f"models/{name}"].revision for name in group_of(results)])
