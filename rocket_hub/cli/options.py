"""Options that the commands share, and how they become a recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import click

from rocket_hub.errors import RecipeError, TaskError
from rocket_hub.recipe import Recipe

F = TypeVar("F", bound=Callable[..., Any])


def numbers(_: click.Context, option: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    """Read `3e-3,1e-2`."""
    try:
        return tuple(float(part) for part in value.split(",")) if value else None
    except ValueError as error:
        raise click.BadParameter(f"expected numbers separated by commas, found {value!r}", param=option) from error


_RECIPE = (
    click.option("--hub", metavar="demo|FOLDER|URL", help="Which Hub; the real one when left out."),
    click.option("--task", metavar="NAME", help="Task; its recipe comes with the package or with the Hub."),
    click.option("--recipe", type=click.Path(path_type=Path), help="Recipe file, or the name of a packaged one."),
    click.option("--kshot", type=click.Path(path_type=Path), help="File with the verified examples."),
    click.option("--base", metavar="ID", help="Base model, instead of the recipe's."),
    click.option("--out", type=click.Path(path_type=Path), help="Run folder; default runs/<task>-<hub>."),
    click.option("--seed", type=int, help="Seed, instead of the recipe's."),
    click.option("--max-adapters", type=int, help="Score at most this many adapters."),
    click.option("--allow-licence", multiple=True, metavar="ID", help="Accept this licence; may be repeated."),
    click.option("--generate", type=click.Choice(["none", "self-specialization", "meteor"]),
                 help="Make rows where the Hub has too few: the base model alone, or with a teacher."),
    click.option("--documents", metavar="FOLDER|ID", help="Domain text that the base model may draw on for them."),
    click.option("--teacher", metavar="MODEL", help="Who teaches, for --generate meteor."),
    click.option("--num-experts", type=int, help="N, the experts in the group."),
    click.option("--budget", metavar="AMOUNT", help="For scoring: 40%, 800 pairs, 2M tokens, 10 minutes or all."),
    click.option("--selector", metavar="NAME", help="How experts are chosen: rocket, coverage or a baseline."),
    click.option("--diversity", metavar="NAME", help="What alike means: delta_w, paper or behaviour."),
    click.option("--ignore-verdict", is_flag=True, help="Take the whole group whatever the K-shot says of it."),
    click.option("--max-rows", type=int, help="C, the rows of open data."),
    click.option("--max-tokens", type=click.IntRange(1), help="Budget of open data in tokens; --max-rows counts, too."),
    click.option(
        "--similarity", type=click.Choice(["max", "mean", "kde", "round_robin"]), help="How rows are compared."
    ),
    click.option("--threshold", type=float, help="tau, the cosine above which rows are near-duplicates; 1 drops none."),
    click.option("--lr-grid", callback=numbers, metavar="A,B", help="Learning rates to choose from by cross-fitting."),
    click.option("--gate-grid", callback=numbers, metavar="A,B", help="Start weights of the gates to choose from."),
    click.option("--max-steps", type=int, help="Optimiser steps of every training."),
    click.option("--eval-rows", type=int, help="Measure on at most this many problems."),
    click.option("--controls", metavar="core|all|NAMES", help="Controls to run beside the result, by commas."),
    click.option("--allow-code-execution", is_flag=True, help="Run model-written programs, shut in, to judge them."),
    click.option("--push-to", metavar="ID", help="Publish to this repository."),
    click.option("--private", is_flag=True, default=None, help="Publish as a private repository."),
    click.option("--publish", type=click.Choice(["all", "best"]), help="Everything, or only what is recommended."),
    click.option("--locked", type=click.Path(path_type=Path), help="Take only what this lock.json names."),
)  # fmt: skip


def recipe_options(function: F) -> F:
    """Add the options of every command that works on a run folder."""
    for option in reversed(_RECIPE):
        function = option(function)
    return function


_EXPERT = (
    click.option("--dataset", metavar="ID|FILE", help="Train one plain LoRA expert on this data instead."),
    click.option("--rank", type=click.IntRange(1), default=16, show_default=True, help="Expert: rank."),
    click.option("--alpha", type=click.IntRange(1), help="Expert: alpha; default twice the rank."),
    click.option("--targets", default="all-linear", show_default=True, help="Expert: modules, separated by commas."),
    click.option("--batch-size", type=click.IntRange(1), help="Expert: rows a step."),
    click.option("--max-length", type=click.IntRange(1), help="Expert: longest row, in tokens."),
    click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), help="Expert: precision of the base."),
    click.option("--quantize", type=click.Choice(["4bit", "8bit"]), help="Expert: QLoRA on a quantised base."),
)


def expert_options(function: F) -> F:
    """Add the options that only the training of one's own expert has."""
    for option in reversed(_EXPERT):
        function = option(function)
    return function


def find_recipe(task: str | None, path: Path | None, brought: dict[str, str]) -> Recipe:
    """Find the recipe: a file or, by its name, one of the package's; else the Hub's own for the task, or the package's.

    Raises:
        TaskError: There is none for the task.
        RecipeError: The recipe is not one.
    """
    if path is not None:
        named = {each.stem: each for each in packaged_recipes()}
        recipe = Recipe.from_file(path if path.is_file() else named.get(str(path), path))
        return replace(recipe, task=task) if task else recipe
    if task is None:
        raise RecipeError("give --task NAME or --recipe FILE")
    if task in brought:
        return Recipe.from_yaml(brought[task], f"the Hub's recipe for {task}")
    packaged = {path.stem: path for path in packaged_recipes()}
    if task in packaged and (recipe := Recipe.from_file(packaged[task])).task == task:
        return recipe
    if task in packaged:  # a way of building, for whichever task
        raise TaskError(f"'{task}' is no task but a recipe for any: give --recipe {task} with --task NAME")
    tasks = [name for name, path in packaged.items() if Recipe.from_file(path).task == name]
    near = get_close_matches(task, tasks, n=1)
    meant = f", did you mean '{near[0]}'?" if near else "."
    raise TaskError(f"unknown task '{task}'{meant} Recipes: {', '.join(tasks)}; or give --recipe FILE")


def packaged_recipes() -> list[Path]:
    """List the recipes that come with the package (in a checkout they lie beside it)."""
    inside = Path(str(files("rocket_hub"))) / "recipes"
    folder = inside if inside.is_dir() else inside.parents[1] / "recipes"
    return sorted(folder.glob("*.yaml"))


def adjusted(recipe: Recipe, given: dict[str, Any]) -> Recipe:
    """Put the options of the command line over the recipe."""
    controls = given["controls"]
    recipe = replace(recipe, base=given["base"] or recipe.base,
                     seed=recipe.seed if given["seed"] is None else given["seed"])  # fmt: skip
    recipe = recipe.updated(
        "discover", max_adapters=given["max_adapters"], allow_licences=given["allow_licence"] or None
    )
    method = given["generate"].replace("-", "_") if given["generate"] else None
    recipe = recipe.updated("generation", method=method, documents=given["documents"], teacher=given["teacher"])
    recipe = recipe.updated("experts", num_experts=given["num_experts"], selector=given["selector"],
                            diversity=given["diversity"], budget=given["budget"],
                            follow_verdict=False if given["ignore_verdict"] else None)  # fmt: skip
    recipe = recipe.updated(
        "instructions", max_rows=given["max_rows"], max_tokens=given["max_tokens"], similarity=given["similarity"],
        threshold=given["threshold"],
    )  # fmt: skip
    recipe = recipe.updated("merge", gate_start=given["gate_grid"])
    recipe = recipe.updated("train", learning_rate=given["lr_grid"], max_steps=given["max_steps"])
    if given["lr_grid"] or given["gate_grid"]:
        recipe = recipe.updated("evaluate", settings={})  # the controls choose from the same grid
    recipe = recipe.updated("evaluate", max_rows=given["eval_rows"],
                            allow_code_execution=given["allow_code_execution"] or None,
                            controls=tuple(controls.split(",")) if controls else None)  # fmt: skip
    recipe = recipe.updated("push", repo_id=given["push_to"], private=given["private"], publish=given["publish"])
    recipe.check("command line")
    return recipe
