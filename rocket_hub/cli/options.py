import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
import yaml

from rocket_hub.errors import RecipeError, TaskError
from rocket_hub.localhub import connect
from rocket_hub.localhub.connect import Connection
from rocket_hub.options import Device, Dtype, Publish, Quantize
from rocket_hub.recipe import Recipe

F = TypeVar("F", bound=Callable[..., Any])


def numbers(_: click.Context, option: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    """Read `3e-3,1e-2`."""
    try:
        return tuple(float(part) for part in value.split(",")) if value else None
    except ValueError as error:
        raise click.BadParameter(f"expected numbers separated by commas, found {value!r}", param=option) from error


def words(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """Read `a,b`."""
    return tuple(part.strip() for part in value.split(",")) if value else None


def file(name: str, text: str, **more: Any) -> Callable[[F], F]:
    """Make an option that takes a path."""
    return click.option(name, type=click.Path(path_type=Path), help=text, **more)


SHARED = {
    "hub": click.option("--hub", metavar="demo|FOLDER|URL", help="Which Hub; the real one when left out."),
    "task": click.option("--task", metavar="NAME", help="Task; its recipe comes with the package or with the Hub."),
    "recipe": file("--recipe", "Recipe file, or the name of a packaged one; instead of the task's own."),
    "kshot": file("--kshot", "File with the verified examples."),
    "base": click.option("--base", metavar="ID|FOLDER", help="Base model, instead of the recipe's."),
    "out": file("--out", "Folder of the run; the same command goes on in it where it was stopped."),
    "seed": click.option("--seed", type=int, help="Seed, instead of the recipe's."),
    "allow_licence": click.option("--allow-licence", multiple=True, metavar="ID",
                                  help="Accept this licence, beside those of the recipe; may be repeated."),
    "documents": click.option("--documents", metavar="FOLDER|ID", help="Domain text that generated answers may draw "
                              "on: .txt, .md, .jsonl files, or a data set."),
    "teacher": click.option("--teacher", metavar="MODEL", help="For METEOR: an id or a folder (on this machine), "
                            "endpoint:URL#MODEL (any OpenAI-compatible API, up to /v1) or inference:MODEL."),
    "max_rows": click.option("--max-rows", type=int, help="Rows of open data, at most."),
    "lr_grid": click.option("--lr-grid", callback=numbers, metavar="A,B",
                            help="Learning rates to choose from by cross-fitting."),
    "max_steps": click.option("--max-steps", type=int, help="Optimiser steps of every training."),
    "eval_rows": click.option("--eval-rows", type=int, help="Measure on at most this many problems."),
    "controls": click.option("--controls", callback=words, metavar="core|all|NAMES",
                             help="Controls to run beside the result, by commas."),
    "allow_code_execution": click.option("--allow-code-execution", is_flag=True, default=None,
                                         help="Run model-written programs, sandboxed, to judge them."),
    "device": click.option("--device", type=click.Choice(get_args(Device)), help="Where the base is computed."),
    "dtype": click.option("--dtype", type=click.Choice(get_args(Dtype)), help="Precision of the base, in every stage."),
    "quantize": click.option("--quantize", type=click.Choice(get_args(Quantize)), help="Quantise the base (QLoRA)."),
    "push_to": click.option("--push-to", metavar="ID", help="Publish to this repository."),
    "private": click.option("--private", is_flag=True, default=None, help="Publish as a private repository."),
    "publish": click.option("--publish", type=click.Choice(get_args(Publish)),
                            help="Everything, or only what is recommended."),
    "locked": file("--locked", "Take only what this lock.json names."),
    "option": click.option("--option", "-o", multiple=True, metavar="GROUP.KEY=VALUE", help="Any option of the recipe, "
                           "for example -o experts.num_experts=4; may be repeated."),
}  # fmt: skip
NAMED = {  # an option that sets one of the recipe -> its key
    "base": "base",
    "seed": "seed",
    "allow_licence": "discover.allow_licences",
    "documents": "generation.documents",
    "teacher": "generation.teacher",
    "max_rows": "instructions.max_rows",
    "lr_grid": "train.learning_rate",
    "max_steps": "train.max_steps",
    "batch_size": "train.batch_size",
    "eval_rows": "evaluate.max_rows",
    "controls": "evaluate.controls",
    "allow_code_execution": "evaluate.allow_code_execution",
    "device": "compute.device",
    "dtype": "compute.dtype",
    "quantize": "compute.quantize",
    "push_to": "push.repo_id",
    "private": "push.private",
    "publish": "push.publish",
}
COMPUTE = ("device", "dtype", "quantize")
GRIDS = {"train.learning_rate", "merge.gate_start"}


def shared(*names: str) -> Callable[[F], F]:
    """Add some of the shared options to a command."""

    def added(function: F) -> F:
        for name in reversed(names):
            function = SHARED[name](function)
        return function

    return added


def adjusted(recipe: Recipe, given: Mapping[str, Any], named: Mapping[str, str] = NAMED) -> Recipe:
    """Put the options of the command line over the recipe.

    Args:
        recipe: What the options stand over.
        given: Option -> value, as click gives them; None = not given. `option` holds what `-o` said.
        named: Option -> key of the recipe.

    Raises:
        RecipeError: A key is unknown, a value is not legal, or the values do not fit together.
    """
    said: list[tuple[str, object, str]] = []
    for name, key in named.items():
        if (value := given.get(name)) not in (None, ()):
            value = (*recipe.discover.allow_licences, *value) if name == "allow_licence" else value
            said.append((key, value, f"--{name.replace('_', '-')}"))
    said += read_options(given["option"])
    if GRIDS & {key for key, *_ in said}:
        said.insert(0, ("evaluate.settings", {}, ""))  # the controls choose from the same grid
    return recipe.changed(said)


def read_options(texts: Sequence[str]) -> list[tuple[str, object, str]]:
    """Read what `-o` says: key, value and its name in messages of each."""
    found: list[tuple[str, object, str]] = []
    for text in texts:
        key, equals, value = text.partition("=")
        where = f"-o {key}"
        if not equals:
            raise RecipeError(f"-o {text}: expected GROUP.KEY=VALUE, for example -o experts.num_experts=4")
        try:
            found.append((key, yaml.safe_load(value), where))
        except (yaml.YAMLError, ValueError) as error:
            raise RecipeError(f"{where}: expected a value in YAML, found {value!r}; put it in quotes") from error
    return found


def find_recipe(task: str | None, path: Path | None, brought: Mapping[str, str]) -> Recipe:
    """Find the recipe: a file or, by its name, one of the package's; else the Hub's own for the task, or the package's.

    Raises:
        TaskError: There is none for the task.
        RecipeError: The recipe is not one.
    """
    packaged = {each.stem: each for each in packaged_recipes()}
    if path is not None:
        recipe = Recipe.from_file(path if path.is_file() else packaged.get(str(path), path))
        return replace(recipe, task=task) if task else recipe
    if task is None:
        raise RecipeError("give --task NAME or --recipe FILE")
    if task in brought:
        return Recipe.from_yaml(brought[task], f"the Hub's recipe for {task}")
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


@contextmanager
def connected(hub: str | None) -> Iterator[Connection]:
    """Point the Hub libraries to a Hub, and keep their own progress bars and notes out of ours.

    They read HF_ENDPOINT when they are imported: import them only inside.
    """
    with connect(hub) as connection:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # what the user set himself stays
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        warnings.filterwarnings("ignore", category=FutureWarning)
        yield connection
