"""The real bank's Hub and its table: what is laid out, and that the page says which losses were measured."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from rocket_hub.localhub.connect import is_hub_folder
from rocket_hub.recipe import Recipe
from rocket_hub.tasks import get_task
from tests.recipes.conftest import table_rows

TASKS = ("arc_easy", "boolq")


@pytest.fixture(scope="module")
def hub(table, shared_data, tmp_path_factory):
    """The real bank's Hub with two of its tasks."""
    if not any(table.real_bank.BANK.glob("*/adapter_config.json")):
        pytest.skip("the bank of real experts is not made")
    folder = tmp_path_factory.mktemp("real") / "hub"
    table.real_bank.lay_out(folder, TASKS)
    return folder


def card(folder):
    return (folder / "README.md").read_text()


def test_the_hub_can_be_imported_and_names_what_it_is_made_of(table, hub):
    assert is_hub_folder(hub)
    manifest = json.loads((hub / "hub.json").read_text())
    assert manifest["name"] == "real" and set(manifest["recipes"]) == set(TASKS)
    for task, path in manifest["recipes"].items():
        recipe = Recipe.from_yaml((hub / path).read_text(), path)
        assert (recipe.task, recipe.base, recipe.evaluate.dataset) == (task, "real/stories260k", f"real/{task}")
        assert recipe.discover.leave_task_out and not recipe.evaluate.allow_code_execution
        assert recipe.instructions.encoder == "real/encoder" and recipe.experts.budget == "all"
    experts = [path.parent for path in hub.glob("models/real/*/adapter_config.json")]
    assert len(experts) == len(list(table.real_bank.BANK.glob("*/adapter_config.json")))
    for expert in experts:
        assert json.loads((expert / "adapter_config.json").read_text())["base_model_name_or_path"] == "real/stories260k"
        assert "base_model: real/stories260k\n" in card(expert) and f"- real/{expert.name.split('-r')[0]}\n" in card(
            expert
        )
    for path in hub.rglob("*"):
        text = path.read_text() if path.suffix in (".json", ".md", ".yaml") else ""
        assert str(table.real_bank.ROOT.parent) not in text, f"{path} names a place on this machine"


def test_licences_are_those_of_the_sources(table, hub, shared_data):
    told = json.loads((shared_data / "manifest.json").read_text())
    licences = {each["name"]: each["license"].lower() for each in [*told["instructions"], *told["benchmarks"]]}
    data = sorted(path.name for path in (hub / "datasets" / "real").iterdir())
    assert data == sorted({*TASKS, *table.real_bank.OPEN})
    for name in data:
        assert f"\nlicense: {licences[name]}\n" in card(hub / "datasets" / "real" / name)
    assert "\nsource_datasets: [ybisk/piqa]\n" in card(hub / "datasets" / "real" / "ni_piqa_howto")
    for name, mine in table.real_bank.MADE_FROM.items():
        assert mine in get_task(name.split("_")[1]).closed, "or leave_task_out would not see it"


@pytest.mark.parametrize("name", TASKS)
def test_both_splits_are_read_by_the_task_and_share_nothing(hub, name):
    task, parts = get_task(name), {}
    for split in ("train", "test"):
        rows = pq.read_table(hub / "datasets" / "real" / name / "data" / f"{split}-00000.parquet").to_pylist()
        parts[split] = task.examples(rows, name)
        assert len(rows) >= 300 and len({example.answer for example in parts[split]}) > 1
    questions = {split: {task.question_of(example) for example in found} for split, found in parts.items()}
    assert not questions["train"] & questions["test"]


def hand_made(table, folder):
    """Losses of one task and three draws: routed 2.0 nats, the stack as good, a fresh LoRA at 2.5; one cell failed."""
    kept, rng = table.results_store.ResultsStore(folder), np.random.default_rng(3)
    hardness, told = rng.normal(0, 0.5, 200), {"world": "real", "device": "cpu", "seconds": 1.0}
    for draw in (1, 2, 3):
        for method, mean in {"routed": 2.0, "stack_trained": 2.0, "fresh_lora": 2.5}.items():
            each = mean + hardness + rng.normal(0, 0.05, 200)
            cell = table.cells.Cell("gsm8k", draw, method, (("loss", 200),))
            kept.add("real", cell, {**told, "loss": float(each.mean()), "losses": each.round(4).tolist()})
    kept.add("real", table.cells.Cell("gsm8k", 1, "base", (("loss", 200),)), {**told, "error": "OSError: full"})
    for point, nll in zip(table.cells.points("routed"), (1.5, 1.25), strict=True):
        kept.add("settings", point, {**told, "nll": nll})


def test_the_page_has_the_losses(table, page, tmp_path):
    hand_made(table, tmp_path / "results" / "real")
    before, _, text = page().partition("### The real bank")
    assert "2.0" not in before, "losses are in no other table"
    text, _, after = text.partition("### Settings")
    assert "Pairs of task and draw with a measurement: 3 of 25." in text and "lower is better" in text
    lines = table_rows(text)
    rows, gaps = ({line[0]: line for line in lines[part]} for part in (slice(2, 10), slice(12, 19)))
    assert lines[0][1:] == ["gsm8k", "arc_challenge", "arc_easy", "boolq", "piqa", "mean", "on"]
    assert rows["routed"][1].startswith(("2.0", "1.9")) and rows["routed"][1].endswith("(3)")
    assert rows["routed"][2] == "not run" and rows["routed"][-1] == "cpu" and rows["base"][1] == "not run"
    assert rows["stack_trained"][1].endswith("≈") and "≈" not in rows["fresh_lora"][1]
    assert lines[10][0] == "routed minus" and set(gaps) == set(rows) - {"routed"}
    assert gaps["fresh_lora"][1].startswith(("-0.50", "-0.49")) and "p < 0.001" in gaps["fresh_lora"][1]
    assert gaps["fresh_lora"][-1] == "0 / 1" and gaps["stack_trained"][-1] == "0 / 0"
    assert "| routed | 0.01 | 0.5 |" in text and "| routed | not run | |" in after, "settings are a Hub's own"
    assert "- 1 cells: OSError: full" in after
