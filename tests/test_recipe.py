"""Recipes are strict: what is not understood is an error that says what was meant."""

from pathlib import Path

import pytest

import rocket_hub
from rocket_hub.errors import RecipeError
from rocket_hub.recipe import Recipe
from rocket_hub.records import Setting

RECIPES = Path(__file__).parents[1] / "recipes"


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_of_the_project_is_one(path: Path) -> None:
    assert Recipe.from_file(path).task


def test_the_demo_hub_brings_the_demo_recipe() -> None:
    brought = Path(rocket_hub.__file__).parent / "localhub" / "demo" / "recipes" / "gsm8k.yaml"
    assert brought.read_text() == (RECIPES / "demo" / "gsm8k.yaml").read_text()


def test_yaml_there_and_back() -> None:
    recipe = Recipe("gsm8k", "a/b").updated("train", learning_rate=(1e-3, 2e-3), max_steps=7)
    recipe = recipe.updated("evaluate", settings={"fresh_lora": Setting(0.01, 0.5)}, controls=("base",))
    assert Recipe.from_yaml(recipe.to_yaml(), "r.yaml") == recipe


WRONG = [
    ("task: gsm8k", "missing key 'base'"),
    ("[1, 2]", "expected a mapping"),
    ("task: [", "not YAML"),
    (
        "task: t\nbase: b\nexperts: {num_expert: 3}",
        r"r\.yaml: experts: unknown key 'num_expert', did you mean 'num_experts'",
    ),
    ("task: t\nbase: b\ntrain: {learning_rate: [2e-4]}", r"learning_rate\[0\]: expected float.*write 2.0e-4"),
    ("task: t\nbase: b\ntrain: {learning_rate: 0.1}", "expected a list"),
    ("task: t\nbase: b\ntrain: {max_steps: 0}", "max_steps: expected at least 1"),
    ("task: t\nbase: b\ntrain: {max_steps: true}", "expected int, found True"),
    ("task: t\nbase: b\nmerge: {gate: tanh}", "expected one of sigmoid, softmax"),
    ("task: t\nbase: b\nmerge: {gate_start: [0.0]}", "expected positive numbers"),
    ("task: t\nbase: b\nexperts: {shortlist: 2, num_experts: 4}", "must be at least experts.num_experts"),
    ("task: t\nbase: b\nexperts: {signal: accuracy, perplexity: arithmetic}", "leave one of them out"),
    ("task: t\nbase: b\nsedd: 1", "did you mean 'seed'"),
]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_wrong_recipes(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe.from_yaml(text, "r.yaml")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        Recipe.from_file(tmp_path / "none.yaml")


GENERATION = [
    ("generation: {method: magic}", "expected one of none, self_specialization, meteor, found 'magic'"),
    ("generation: {method: meteor}", r"generation\.teacher: 'meteor' asks a stronger model; name it"),
    ("generation: {below_rows: 0}", r"generation\.below_rows: expected at least 1, found 0"),
    ("generation: {calls: -3}", r"generation\.calls: expected at least 1, found -3"),
    ("generation: {meteor: {round: 2}}", "generation: meteor: unknown key 'round', did you mean 'rounds'"),
    ("generation: {self_specialization: {target_row: 3}}", "unknown key 'target_row', did you mean 'target_rows'"),
    ("generation: {document: notes}", "unknown key 'document', did you mean 'documents'"),
]


@pytest.mark.parametrize(("text", "message"), GENERATION)
def test_wrong_generation(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe.from_yaml(f"task: t\nbase: b\n{text}", "r.yaml")


def test_generation_there_and_back() -> None:
    recipe = Recipe.from_file(RECIPES / "meteor.yaml").updated("generation", documents="notes", below_rows=3)
    assert recipe.generation.meteor is not None and recipe.generation.meteor.stages == ("distilled", "refined")
    assert Recipe.from_yaml(recipe.to_yaml(), "r.yaml") == recipe
