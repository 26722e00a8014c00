"""Stages 6 and 7: measure the result beside its controls, and publish it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rocket_hub.controls import Method, recommend
from rocket_hub.pipeline.context import Context, evaluation_set
from rocket_hub.pipeline.lock import ingredients, made
from rocket_hub.pipeline.make import described, methods, opened, prepared
from rocket_hub.recipe import controls_of
from rocket_hub.records import Evaluation, Example, Pinned
from rocket_hub.runs import read_json, write_json
from rocket_hub.serialization import from_dict, to_dict
from rocket_hub.tuning import grid

Results = Mapping[str, Any]
RELOADED = 4  # prompts on which the published adapter is compared with the local one


def measure(context: Context, name: str, results: Results) -> Any:
    """Measure the result and every control that was asked for on the same problems."""
    from rocket_hub.evaluation import paired_difference

    controls = controls_of(context.recipe)

    def make(folder: Path) -> dict[str, Any]:
        problems = evaluation_set(context, from_dict(Pinned, results["1-discover"]["evaluation"], name))
        known = methods(context, results)
        evaluations = [
            _measured(context, results, method, problems, folder)
            for method in known.values()
            if method.name in (*controls, made(results))
        ]
        result = next(each for each in evaluations if each.method == made(results))
        differences = {}
        for other in evaluations:
            if other is result:
                continue
            gap, error = paired_difference(result, other)
            differences[other.method] = {"difference": gap, "standard_error": error}
        return {
            "evaluations": [to_dict(evaluation) for evaluation in evaluations],
            "differences": differences,
            "recommendation": asdict(recommend(evaluations)),
            "labels": {method.name: method.label for method in known.values()},
        }

    inputs = context.inputs(
        "evaluate",
        "train",
        trained=results["5-train"],
        first=results["1-discover"]["evaluation"],
        bank=[score["repo_id"] for score in results["2-select-experts"]["scores"]],
        pool=results["3-select-instructions"]["counts"],
        best=ingredients(results)[f"models/{results['2-select-experts']['best_single']}"].revision,
    )
    return context.run.stage(name, inputs, make)


def _measured(context: Context, results: Results, method: Method, problems: list[Example], folder: Path) -> Evaluation:
    """Train a control where it is one, and measure; a method that an interrupted run finished is kept."""
    from rocket_hub.evaluation import evaluate

    kept = folder / f"{method.name}.json"
    if (known := read_json(kept)) is not None:
        return from_dict(Evaluation, known, str(kept))
    adapter, details = _made(context, results, method, folder / method.name)
    with opened(context, method, adapter) as tuned:
        found = evaluate(
            tuned, context.base[1], context.measured, problems, context.recipe.evaluate, method=method.name,
            kept=folder / f"{method.name}.answers.jsonl",
            progress=lambda done, total: context.reporter.advance(f"measuring {method.name}", done, total),
        )  # fmt: skip
    found = Evaluation(**{**found.__dict__, "details": {**found.details, **details}})
    write_json(kept, to_dict(found))
    return found


def _made(context: Context, results: Results, method: Method, folder: Path) -> tuple[Path | None, dict[str, Any]]:
    """Make a method at its fixed setting, or the best of the grid; the build's own was trained by the stage before."""
    if method.name == made(results):
        stage = results["5-train"]
        return context.run.absolute(stage["training"]["adapter"]), described(stage)
    recipe = context.recipe
    fixed = recipe.evaluate.settings.get(method.name)
    points = (fixed,) if fixed else grid(recipe.train.learning_rate, recipe.merge.gate_start)
    return prepared(context, results, method, points, folder)


def push(context: Context, name: str, results: Results) -> Any:
    """Publish the result with its stock-LoRA form and its card in one commit, and reload it in a fresh process."""
    from rocket_hub.pipeline.card import package
    from rocket_hub.publishing import push_to_hub, verify_reload

    options = context.recipe.push

    def make(folder: Path) -> dict[str, Any]:
        content = package(context, results, folder / "content")
        if options.repo_id is None:
            return {"repo_id": None, "content": context.run.relative(content)}
        commit = push_to_hub(context.api, content, options.repo_id, private=options.private)
        checked = {}
        if options.verify:
            context.reporter.say("reloading it in a fresh process")
            prompts = [example.prompt for example in context.examples[:RELOADED]]
            checked = verify_reload(*context.base, context.pinned, options.repo_id, commit, prompts, content,
                                    folder / "reload")  # fmt: skip
        return {
            "repo_id": options.repo_id,
            "content": context.run.relative(content),
            "commit": commit,
            "reload": checked,
        }

    before = [results[stage] for stage in ("1-discover", "2-select-experts", "3-select-instructions", "5-train")]
    inputs = context.inputs("push", evaluated=results["6-evaluate"], before=before, recipe=context.recipe.to_yaml())
    return context.run.stage(name, inputs, make)
