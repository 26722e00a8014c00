from dataclasses import replace
from pathlib import Path
from typing import Any

from rocket_hub.controls.methods import Method, recommend
from rocket_hub.evaluation import evaluate as measure
from rocket_hub.evaluation import paired_difference
from rocket_hub.pipeline.context import Context, evaluation_set
from rocket_hub.pipeline.lock import made
from rocket_hub.pipeline.merge import methods
from rocket_hub.pipeline.train import described, opened, prepared
from rocket_hub.recipe import controls_of
from rocket_hub.records import Evaluation, Example
from rocket_hub.results import Chosen, Difference, Evaluations, Trained
from rocket_hub.runs import once
from rocket_hub.serialization import from_dict
from rocket_hub.tuning import grid


def evaluate(context: Context, chosen: Chosen, trained: Trained) -> Evaluations:
    """Stage 6: measure the result and every control that was asked for on the same problems."""
    controls = controls_of(context.recipe)

    def make(folder: Path) -> Evaluations:
        problems = evaluation_set(context, chosen.found.evaluation)
        known = methods(context, chosen)
        asked = [method for method in known.values() if method.name in (*controls, made(chosen))]
        measured = tuple(_measured(context, chosen, trained, method, problems, folder) for method in asked)
        result = next(each for each in measured if each.method == made(chosen))
        differences = {
            other.method: Difference(*paired_difference(result, other)) for other in measured if other is not result
        }
        labels = {method.name: method.label for method in known.values()}
        return Evaluations(measured, differences, recommend(measured), labels)

    inputs = context.inputs(
        "evaluate",
        "train",
        trained=trained,
        first=chosen.found.evaluation,
        bank=[score.repo_id for score in chosen.experts.scores],
        pool=chosen.rows.counts,
        best=chosen.found.pins[f"models/{chosen.experts.best_single}"].revision,
    )
    return context.run.stage("6-evaluate", inputs, make, Evaluations)


def _measured(
    context: Context, chosen: Chosen, trained: Trained, method: Method, problems: list[Example], folder: Path
) -> Evaluation:
    """Train a control where it is one, and measure; a method that an interrupted run finished is kept."""

    def make() -> Evaluation:
        adapter, details = _adapter(context, chosen, trained, method, folder / method.name)
        with opened(context, method, adapter) as tuned:
            found = measure(
                tuned, context.base[1], context.measured, problems, context.recipe.evaluate, method=method.name,
                kept=folder / f"{method.name}.answers.jsonl",
                progress=lambda done, total: context.reporter.advance(f"measuring {method.name}", done, total),
            )  # fmt: skip
        return replace(found, details={**found.details, **details})

    kept = folder / f"{method.name}.json"
    return from_dict(Evaluation, once(kept, make), str(kept))


def _adapter(
    context: Context, chosen: Chosen, trained: Trained, method: Method, folder: Path
) -> tuple[Path | None, dict[str, Any]]:
    """Make a method at its fixed setting, or the best of the grid; the build's own was trained by the stage before."""
    if method.name == made(chosen):
        return context.run.absolute(trained.training.adapter), described(trained)
    recipe = context.recipe
    fixed = recipe.evaluate.settings.get(method.name)
    points = (fixed,) if fixed else grid(recipe.train.learning_rate, recipe.merge.gate_start)
    return prepared(context, chosen, method, points, folder)
