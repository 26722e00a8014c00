"""The recipes that are ways of building: the commands on their pages, and where they are listed."""

import re
import shlex
from pathlib import Path

import click
import pytest

from rocket_hub.cli.app import cli
from rocket_hub.cli.options import adjusted, find_recipe
from rocket_hub.errors import RecipeError, TaskError
from rocket_hub.moe.config import RocketMoeConfig
from rocket_hub.pipeline.generate import meteor_options
from rocket_hub.recipe import Recipe

RECIPES = Path(__file__).parents[1] / "recipes"
WAYS = ("self_specialization", "self_moe", "meteor")


def commands(page):
    blocks = re.findall(r"```bash\n(.*?)```", (RECIPES / f"{page}.md").read_text(), re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines() if line]


def parsed(words):
    """The command and its options, as click reads them; nothing is run."""
    context = cli.make_context("rocket-hub", list(words))
    while isinstance(context.command, click.Group):
        name, command, rest = context.command.resolve_command(context, [*context._protected_args, *context.args])
        assert name and command
        context = command.make_context(name, rest, parent=context)
    return context.command_path, context.params


@pytest.mark.parametrize("page", WAYS)
def test_every_command_of_a_page_is_one(page):
    found = commands(page)
    assert len(found) >= 3
    for program, *words in found:
        assert program == "rocket-hub"
        path, given = parsed(words)
        if path not in ("rocket-hub build", "rocket-hub model train"):
            continue
        recipe = adjusted(find_recipe(given["task"], given["recipe"], {}), given)
        assert recipe.task == given["task"]


@pytest.mark.parametrize("name", WAYS)
def test_a_way_of_building_is_found_by_name_for_any_task(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = find_recipe("boolq", Path(name), {})
    assert recipe.task == "boolq"
    assert recipe.generation == Recipe.from_file(RECIPES / f"{name}.yaml").generation
    assert "evolved" not in meteor_options(recipe.generation, 0).stages
    with pytest.raises(TaskError, match=f"'{name}' is no task but a recipe for any: give --recipe {name} with --task"):
        find_recipe(name, None, {})


def test_only_tasks_are_listed_as_such():
    with pytest.raises(TaskError, match="unknown task 'gsm8', did you mean 'gsm8k'") as caught:
        find_recipe("gsm8", None, {})
    listed = str(caught.value).partition("Recipes: ")[2]
    assert "gsm8k" in listed and not any(name in listed for name in WAYS)
    with pytest.raises(RecipeError, match="cannot be read"):
        find_recipe("gsm8k", Path("no_such_recipe"), {})


def test_self_moe_is_one_frozen_router_for_all_layers():
    recipe = Recipe.from_file(RECIPES / "self_moe.yaml")
    merge = recipe.merge
    config = RocketMoeConfig(gate=merge.gate, gate_scale=merge.gate_scale, top_k=merge.top_k, router=merge.router)
    assert (config.router, config.top_k, recipe.train.schedule) == ("shared", 1, "router_only")
