from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rocket_hub.controls.methods import Method
from rocket_hub.inference import completion_nll
from rocket_hub.lora.attach import adapted
from rocket_hub.pipeline.context import Context
from rocket_hub.pipeline.lock import made
from rocket_hub.pipeline.merge import commits_of, methods, seed_everything, weighed
from rocket_hub.pipeline.select_data import random_rows
from rocket_hub.records import Example, Setting
from rocket_hub.results import Chosen, Trained, Training
from rocket_hub.runs import once, plain
from rocket_hub.training import train_expert
from rocket_hub.tuning import choose, grid


def train(context: Context, chosen: Chosen) -> Trained:
    """Stage 5: choose the setting, if there is a choice, and fine-tune the adapter on K-shot and selected rows."""

    def make(folder: Path) -> Trained:
        points = grid(context.recipe.train.learning_rate, context.recipe.merge.gate_start)
        return fit_method(context, chosen, methods(context, chosen)[made(chosen)], points, folder)

    inputs = context.inputs(
        "merge", "train", experts=chosen.experts.selected, pins=commits_of(chosen), rows=chosen.rows.selected
    )
    return context.run.stage("5-train", inputs, make, Trained)


@contextmanager
def method_model(
    context: Context, chosen: Chosen, method: Method, setting: Setting, folder: Path
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Make a method and put it on the base model, which is the same as before when the block ends.

    Args:
        context: The build.
        chosen: What its first stages left.
        method: One of `methods`.
        setting: Learning rate and weight, if it is trained.
        folder: Its folder; what an earlier call with the same arguments finished or began there is used.

    Yields:
        The model, for inference, and what a table says about it (settings, steps, seconds, experts).
    """
    adapter, details = prepared(context, chosen, method, (setting,), folder)
    with opened(context, method, adapter) as model:
        yield model, details


def prepared(
    context: Context, chosen: Chosen, method: Method, points: Sequence[Setting], folder: Path
) -> tuple[Path | None, dict[str, Any]]:
    """Make a method: write it, or train it at the best point of its grid, unless an earlier run has.

    Returns:
        The folder to open, none for the bare base, and what a table says about it.
    """
    if (start := method.start) is None:
        return None, {}
    experts = {"experts": list(method.experts)} if method.experts else {}

    def make() -> dict[str, Any]:
        if method.trained:
            return described(fit_method(context, chosen, method, points, folder))
        seed_everything(context.recipe.seed)
        return {"adapter": context.run.relative(start(1.0, folder / "adapter"))}

    details = once(folder / "made.json", make)  # a run that was stopped while it measured does not make it again
    return context.run.absolute(details["adapter"]), {**details, **experts}


def described(trained: Trained) -> dict[str, Any]:
    """Keep what a table or a card says about a training."""
    training, choice = trained.training, trained.choice
    return {
        **plain(choice.setting),
        "adapter": training.adapter,
        "steps": training.steps,
        "train_seconds": training.seconds,
        "loss": training.loss,
        "tried": len(choice.nll) or 1,
    }


def opened(context: Context, method: Method, adapter: Path | None) -> AbstractContextManager[Any]:
    """Open a method for inference."""
    model, _ = context.base
    return method.open(model, adapter, False) if method.open and adapter else adapted(model, adapter)


def training_rows(context: Context, chosen: Chosen, which: str = "selected") -> list[Example]:
    """Bring the rows that a method is trained on into the task's form; see `Method`."""
    rows: Sequence[Example] = chosen.rows.selected if which == "selected" else ()
    if which == "random":
        rows = random_rows(context, chosen, len(chosen.rows.selected))
    return [context.task.example(row) for row in rows]


def fit_method(context: Context, chosen: Chosen, method: Method, points: Sequence[Setting], folder: Path) -> Trained:
    """Choose among the points of a method's grid by cross-fitting, then train on everything at the chosen one."""
    rows = training_rows(context, chosen, method.rows)
    points = list(dict.fromkeys(weighed(method, point) for point in points))
    choice = choose(points, context.examples, rows, cross_fit(context, method, folder))
    return Trained(choice, fit(context, method, choice.setting, [*context.examples, *rows], folder))


def cross_fit(context: Context, method: Method, folder: Path) -> Callable[..., np.ndarray]:
    """Train without some shots and score these; a fold that an interrupted run finished is not trained again."""

    def run(setting: Setting, examples: Sequence[Example], judges: Sequence[Example], label: str) -> np.ndarray:
        place = folder / "tuning" / f"{method.name}-{label}"

        def score() -> list[float]:
            training = fit(context, method, setting, examples, place)
            with opened(context, method, context.run.absolute(training.adapter)) as tuned:
                pairs = [(shot.prompt, shot.completion) for shot in judges]
                sums, tokens = completion_nll(tuned, context.base[1], pairs)
            return (sums / tokens).tolist()

        return np.array(once(place.with_name(f"{place.name}.json"), score))

    return run


def fit(context: Context, method: Method, setting: Setting, examples: Sequence[Example], folder: Path) -> Training:
    """Train one method once."""
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
    return replace(training, adapter=context.run.relative(Path(training.adapter)))
