"""Recipes are strict: what is not understood is an error that says what was meant."""

from pathlib import Path

import pytest

import rocket_hub
from rocket_hub.errors import RecipeError
from rocket_hub.options import ExpertOptions, TrainOptions
from rocket_hub.recipe import Recipe
from rocket_hub.records import Setting
from rocket_hub.serialization import to_dict
from tests.helping import table

RECIPES = Path(__file__).parents[1] / "recipes"


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_of_the_project_is_one(path):
    assert Recipe.from_file(path).task


def test_the_demo_hub_brings_the_demo_recipe():
    brought = Path(rocket_hub.__file__).parent / "localhub" / "demo" / "recipes" / "gsm8k.yaml"
    assert brought.read_text() == (RECIPES / "demo" / "gsm8k.yaml").read_text()


def test_yaml_there_and_back():
    recipe = Recipe("gsm8k", "a/b").updated("train", learning_rate=(1e-3, 2e-3), max_steps=7)
    recipe = recipe.updated("evaluate", settings={"fresh_lora": Setting(0.01, 0.5)}, controls=("base",))
    assert Recipe.from_yaml(recipe.to_yaml(), "r.yaml") == recipe
    made = Recipe.from_file(RECIPES / "meteor.yaml").updated("generation", documents="notes", below_rows=3)
    assert made.generation.meteor is not None and made.generation.meteor.stages == ("distilled", "refined")
    assert Recipe.from_yaml(made.to_yaml(), "r.yaml") == made


LONG = [(f"train: {{weight_decay: {10**400}}}", "expected float, found 1000"), (f"seed: {'9' * 5000}", "not YAML")]


@pytest.mark.parametrize(("text", "message"), [*table("recipe_faults.jsonl"), *LONG])
def test_wrong_values(text, message):
    with pytest.raises(RecipeError, match=message):
        Recipe.from_yaml(f"task: t\nbase: b\n{text}", "r.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [("task: gsm8k", "missing key 'base'"), ("[1, 2]", "expected a mapping"), ("task: [", "not YAML")],
)
def test_no_recipe(text, message):
    with pytest.raises(RecipeError, match=message):
        Recipe.from_yaml(text, "r.yaml")


def test_a_missing_file(tmp_path):
    with pytest.raises(RecipeError, match="cannot be read"):
        Recipe.from_file(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("group", "options", "message"),
    [
        ("experts", ExpertOptions(selector="rockets"), "recipe: experts.selector: expected one of rocket, coverage"),
        ("train", TrainOptions(max_steps=0), "recipe: train.max_steps: expected at least 1, found 0"),
        ("train", TrainOptions(max_steps="many"), "recipe: train: max_steps: expected int, found 'many'"),
        ("train", TrainOptions(learning_rate=(float("nan"),)), "expected positive numbers, found"),
        ("experts", ExpertOptions(shortlist=2), r"^experts\.shortlist \(2\) must be at least"),
    ],
)
def test_a_recipe_made_in_python_is_checked_when_it_is_made(group, options, message):
    with pytest.raises(RecipeError, match=message):
        Recipe("gsm8k", "a/b", **{group: options})


def test_options_are_changed_by_key_and_checked_together():
    recipe = Recipe("gsm8k", "a/b", experts=ExpertOptions(budget="all"))
    said = [("experts.shortlist", 2, "x"), ("experts.num_experts", 2, "y"), ("generation.meteor.rounds", 5, "z"),
            ("train.learning_rate", [1, 0.5], "w"), ("push.repo_id", None, "v"), ("seed", 3, "s")]  # fmt: skip
    changed = recipe.changed(said)
    assert (changed.experts.shortlist, changed.experts.num_experts, changed.experts.budget) == (2, 2, "all")
    assert changed.generation.meteor and changed.generation.meteor.rounds == 5
    assert (changed.train.learning_rate, changed.seed, changed.push) == ((1.0, 0.5), 3, recipe.push)
    assert recipe.changed([]) == recipe
    assert to_dict(recipe)["experts"]["num_experts"] == 4
