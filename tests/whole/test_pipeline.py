"""A whole build: what every stage leaves, what is kept, and what an interruption costs."""

import json
import shutil
import signal
import sys
from importlib import import_module

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig

from rocket_hub.lora.attach import ADAPTER
from rocket_hub.publishing import STATIC
from rocket_hub.recipe import CORE_CONTROLS, Recipe

from .conftest import ROOT, STAGES, Workplace, stop_when

REPO = "local/gsm8k-routed"


def test_every_stage_leaves_its_result(built):
    place, done = built
    assert [done.note(stage) for stage in STAGES] == [""] * len(STAGES)
    for stage in STAGES:
        left = json.loads((place.run / stage / "result.json").read_text())
        assert left.keys() == {"seconds", "result"}
    assert not list(place.run.rglob("*.partial"))
    assert not list(place.run.rglob("checkpoint-*"))
    assert "Traceback" not in done.out + done.error
    assert "Warning" not in done.out + done.error


def test_everything_unusable_is_rejected_for_its_reason(built, demo, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "recipes" / "demo"))
    config = LlamaConfig.from_pretrained(demo.hub / "models" / "rocket-demo" / "tiny-llama")
    table = import_module("unusable").write_all(tmp_path, config)
    usable = {skill.name for skill in import_module("models").BANK}
    for name in ("world", "forms", "models", "unusable"):
        sys.modules.pop(name, None)
    place, _ = built
    rejected = place.result("1-discover")["adapters"]["rejected"] + place.result("2-select-experts")["rejected"]
    assert len(table) >= 9
    reasons = {entry["item"]: entry["reason"] for entry in rejected}
    assert {name: reasons.get(f"rocket-demo/{name}") for name in table} == table
    scored = {score["repo_id"].split("/")[1] for score in place.result("2-select-experts")["scores"]}
    assert not scored & table.keys()
    assert scored == usable


def test_data_that_may_not_be_used_is_rejected(built):
    found = built[0].result("1-discover")["datasets"]
    reasons = {entry["item"].split("/")[1]: entry["reason"] for entry in found["rejected"]}
    assert reasons == {
        "members-only": "gated",
        "classroom": "licence",
        "word-problems": "evaluation_set",
        "shop-pages": "unknown_columns",
    }


def test_rows_of_the_test_set_are_rejected(built, demo):
    place, _ = built
    found = place.result("3-select-instructions")
    data = demo.hub / "datasets" / "rocket-demo"
    leaked = (data / "leaked" / "train.jsonl").read_text().splitlines()
    test = set(pq.read_table(data / "word-problems" / "data" / "test-00000.parquet")["question"].to_pylist())
    planted = {f"rocket-demo/leaked#{n}" for n, line in enumerate(leaked) if json.loads(line)["prompt"] in test}
    contaminated = {entry["item"] for entry in found["rejected"] if entry["reason"] == "contaminated"}
    assert len(planted) == 8
    assert contaminated == planted
    assert not test & {row["prompt"] for row in found["selected"]}
    assert sum(found["per_source"].values()) == len(found["selected"])


def test_the_controls_are_measured_on_the_same_problems(built):
    found = built[0].result("6-evaluate")
    assert [entry["method"] for entry in found["evaluations"]] == [*CORE_CONTROLS, "routed"]
    assert {len(entry["correct"]) for entry in found["evaluations"]} == {20}
    assert found["differences"].keys() == set(CORE_CONTROLS)
    assert all(0 <= entry["low"] <= entry["accuracy"] <= entry["high"] <= 1 for entry in found["evaluations"])
    details = {entry["method"]: entry["details"] for entry in found["evaluations"]}
    assert {name: each["steps"] for name, each in details.items() if "steps" in each} == dict.fromkeys(
        ("best_single_trained", "fresh_lora", "stack_trained", "router_only", "routed"), 4
    )
    assert [name for name, each in details.items() if "adapter" not in each] == ["base"]


def test_the_lock_pins_every_ingredient(built, api):
    lock = json.loads((built[0].run / "lock.json").read_text())
    assert lock["format_version"] == 1
    assert lock["licence"] == {"result": "apache-2.0", "restrictions": []}
    for key, pin in lock["ingredients"].items():
        kind, _, repo_id = key.partition("/")
        assert (f"{pin['kind']}s", pin["repo_id"]) == (kind, repo_id)
        assert pin["revision"] == api.repo_info(repo_id, repo_type=pin["kind"]).sha
    used = {key for key, pin in lock["ingredients"].items() if pin["used"]}
    chosen = built[0].result("2-select-experts")["selected"]
    assert {f"models/{name}" for name in (*chosen, "rocket-demo/tiny-llama")} <= used
    assert len([key for key in used if key.startswith("models/")]) == 5


def test_one_commit_holds_all_that_is_published(built, api):
    place, _ = built
    pushed = place.result("7-push")
    newest, *older = api.list_repo_commits(REPO)
    assert (pushed["repo_id"], pushed["commit"]) == (REPO, newest.commit_id)
    assert all(set(api.list_repo_files(REPO, revision=c.commit_id)) <= {".gitattributes"} for c in older)
    adapter = {"adapter_config.json", "adapter_model.safetensors"}
    expected = adapter | {f"static-lora/{name}" for name in adapter} | {"README.md", "recipe.yaml", "lock.json"}
    assert set(api.list_repo_files(REPO)) - {".gitattributes"} == expected
    trained = (place.run / "5-train" / "adapter" / "adapter_model.safetensors").read_bytes()
    content = place.run / pushed["content"]
    assert (content / "adapter_model.safetensors").read_bytes() == trained
    assert (content / "lock.json").read_text() == (place.run / "lock.json").read_text()


def test_what_is_published_names_no_place_of_this_machine(built):
    place, _ = built
    for path in (place.run / "7-push" / "content").rglob("*"):
        if path.suffix in (".json", ".md", ".yaml"):
            text = path.read_text()
            assert str(place.home) not in text, path.name
            assert "/tmp" not in text, path.name


def test_a_fresh_process_computes_the_same(built):
    checked = built[0].result("7-push")["reload"]
    assert checked["max_difference"] == 0
    assert checked["same_text"] is True
    assert len(checked["generated"]) == 4


def test_the_card_tells_what_was_done(built):
    place, _ = built
    _, header, text = (place.run / "7-push" / "content" / "README.md").read_text().split("---\n", 2)
    metadata = yaml.safe_load(header)
    assert metadata["base_model"] == "rocket-demo/tiny-llama"
    assert metadata["license"] == "apache-2.0"
    assert set(metadata["datasets"]) == set(place.result("3-select-instructions")["per_source"])
    found = place.result("6-evaluate")
    assert all(f"| {found['labels'][entry['method']]} | " in text for entry in found["evaluations"])
    assert all(f"[{name}]" in text for name in place.result("2-select-experts")["selected"])
    assert "8 contaminated" in text
    recipe = text.split("```yaml\n")[1].split("```")[0]
    assert Recipe.from_yaml(recipe, "card") == Recipe.from_file(place.run / "recipe.yaml")


def test_a_second_run_keeps_everything(place):
    before = {path: path.stat().st_mtime_ns for path in place.run.glob("*/*")}
    done = place.call("build", "--controls", "core", "--max-steps", "4", "--locked", "run/lock.json")
    assert [done.note(stage) for stage in STAGES] == ["done earlier"] * len(STAGES)
    assert {path: path.stat().st_mtime_ns for path in place.run.glob("*/*")} == before


def test_a_changed_option_makes_again_what_depends_on_it(place):
    done = place.call("train", "--max-steps", "5")
    assert [done.note(stage) for stage in STAGES[:4]] == ["done earlier"] * 4
    assert done.note("5-train") == "again, because of train.max_steps"
    assert done.note("6-evaluate") is None
    assert place.result("5-train")["training"]["steps"] == 5


def test_where_no_expert_helps_a_fresh_lora_is_built(place):
    path = place.run / "2-select-experts" / "result.json"
    done = json.loads(path.read_text())
    done["result"] |= {"selected": [], "verdict": "none_helps", "reason": "no adapter beats the bare base"}
    path.write_text(json.dumps(done))
    again = place.call("build", "--controls", "base", "--max-steps", "4")
    assert "no adapter beats the bare base; the build goes on with a fresh LoRA" in again.out
    assert place.result("4-merge")["method"] == "fresh_lora"
    evaluated = place.result("6-evaluate")
    assert "routed" not in {entry["method"] for entry in evaluated["evaluations"]}
    assert "fresh_lora" not in evaluated["differences"] and "base" in evaluated["differences"]
    content = place.run / place.result("7-push")["content"]
    assert json.loads((content / "adapter_config.json").read_text())["peft_type"] == "LORA"
    assert not (content / "static-lora").exists()
    lock = json.loads((place.run / "lock.json").read_text())["ingredients"]
    assert [key for key, pin in lock.items() if pin["used"] and key.startswith("models/")] == [
        "models/rocket-demo/tiny-llama"
    ]
    assert place.result("7-push")["reload"]["max_difference"] == 0


def test_an_edited_lock_is_refused(place):
    lock = json.loads((place.run / "lock.json").read_text())
    lock["ingredients"]["models/rocket-demo/packs"]["revision"] = "0" * 40
    (place.folder / "edited.json").write_text(json.dumps(lock))
    done = place.call("discover", "--locked", "edited.json", code=2)
    assert done.last.startswith(f"error: edited.json: models/rocket-demo/packs: locked at {'0' * 40}, the Hub has ")
    assert "Traceback" not in done.error


def test_an_expert_that_changed_on_the_hub_is_trained_again(after_selection, tmp_path):
    """The new weights have the same size: only what is in them differs."""
    place, chosen = after_selection, after_selection.result("2-select-experts")["selected"]
    place.call("train", "--max-steps", "4")
    trained = load_file(place.run / "5-train/adapter/adapter_model.safetensors")
    hub = tmp_path / "changed" / place.hub.name
    shutil.copytree(place.hub, hub)
    for name in chosen:
        path = hub / "models" / name / "adapter_model.safetensors"
        save_file({key: value * 1.001 for key, value in load_file(path).items()}, path, {"format": "pt"})
    moved = Workplace(hub, place.kshot, tmp_path / "other home", place.folder)
    shutil.rmtree(place.run / "1-discover")  # a run folder keeps its pins until it is told to look again
    done = moved.call("train", "--max-steps", "4")
    assert moved.result("2-select-experts")["selected"] == chosen, "else this test shows nothing"
    assert done.note("4-merge") == "again, because of pins"
    assert done.note("5-train") != "done earlier"
    again = load_file(moved.run / "5-train/adapter/adapter_model.safetensors")
    assert any(not torch.equal(again[key], trained[key]) for key in again)


def test_more_problems_decontaminate_again(place):
    """Rows are compared with the problems that are measured on: with more of them, more rows must go."""
    shutil.rmtree(place.run / "3-select-instructions")
    place.call("select data", "--eval-rows", "3")
    place.call("select data")
    contaminated = [e for e in place.result("3-select-instructions")["rejected"] if e["reason"] == "contaminated"]
    assert len(contaminated) == 8


def test_a_run_folder_can_be_moved(place, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    place.folder.rename(tmp_path / "elsewhere" / "work")
    moved = Workplace(place.hub, place.kshot, place.home, tmp_path / "elsewhere")
    done = moved.call("evaluate", "--max-steps", "4", "--out", "work/run", "--eval-rows", "5")
    assert [done.note(stage) for stage in STAGES[3:5]] == ["done earlier"] * 2


def checkpoint(place):
    return any((place.run / "5-train").rglob("checkpoint-*/trainer_state.json"))


@pytest.mark.timeout(600)
def test_a_killed_and_then_stopped_build_goes_on(after_selection):
    place, options = after_selection, ("--max-steps", "1000")
    killed = stop_when(place.start("build", *options), lambda: checkpoint(place), signal.SIGKILL)
    assert killed.code == -signal.SIGKILL
    assert not (place.run / "5-train" / "result.json").exists()
    kept = {path.name for path in (place.run / "5-train").rglob("checkpoint-*")}
    stopped = stop_when(
        place.start("build", *options),
        lambda: {path.parent.name for path in (place.run / "5-train").rglob("trainer_state.json")} - kept,
        signal.SIGINT,
    )
    assert stopped.code == 130, stopped.error
    assert stopped.last == "stopped; the same command goes on from here"
    assert "Traceback" not in stopped.error
    assert not (place.run / "5-train" / "result.json").exists()
    done = place.call("build", *options)
    assert [done.note(stage) for stage in STAGES[:4]] == ["done earlier"] * 4
    assert done.note("5-train") == "goes on where it was stopped"
    assert place.result("5-train")["training"]["steps"] == 1000
    assert place.result("7-push")["reload"]["max_difference"] == 0


@pytest.mark.parametrize("stage", ["4-merge", "5-train"])
def test_a_full_disk_is_said_in_one_line(stage, after_selection, built):
    """The adapter does not fit, or it does and the optimizer's state, twice its size, does not."""
    place, fits = after_selection, (built[0].run / "4-merge/adapter/adapter_model.safetensors").stat().st_size
    limit = fits - 4096 if stage == "4-merge" else fits + 4096
    full = place.call("train", "--max-steps", "4", code=1, file_size=limit)
    assert full.note(stage) is not None
    assert "Traceback" not in full.error, full.error[-1500:]
    assert full.last.startswith("error: ")
    assert f"run/{stage}" in full.last
    assert "free some space" in full.last
    done = place.call("train", "--max-steps", "4")
    assert done.note(stage) == "goes on where it was stopped"


def test_a_push_whose_result_was_not_noted_makes_no_second_commit(place):
    commit = place.result("7-push")["commit"]
    (place.run / "7-push" / "result.json").unlink()
    done = place.call("build", "--controls", "core", "--max-steps", "4")
    assert done.note("7-push") == "goes on where it was stopped"
    assert place.result("7-push")["commit"] == commit


def recommend(place, method):
    """Put another recommendation into what a build has measured."""
    path = place.run / "6-evaluate" / "result.json"
    measured = json.loads(path.read_text())
    measured["result"]["recommendation"] |= {"method": method}
    path.write_text(json.dumps(measured))


def test_only_the_best_is_published(place):
    """Where the base is recommended there is nothing to publish."""
    recommend(place, "base")
    done = place.call("build", "--controls", "core", "--max-steps", "4", "--publish", "best", code=2)
    assert [done.note(stage) for stage in STAGES[:6]] == ["done earlier"] * 6
    assert done.last == "error: 'base' is recommended and has no adapter of its own; nothing is published"


def test_routers_trained_alone_are_published_as_a_routed_adapter(place, api):
    recommend(place, "router_only")
    place.call("build", "--controls", "core", "--max-steps", "4", "--publish", "best")
    found = place.result("7-push")
    assert found["reload"]["max_difference"] == 0
    content = place.run / found["content"]
    assert json.loads((content / ADAPTER[0]).read_text())["peft_type"] == "ROCKET_MOE"
    assert (content / STATIC / ADAPTER[0]).is_file()
    evaluations = place.result("6-evaluate")["evaluations"]
    made = {each["method"]: each["details"] for each in evaluations}["router_only"]
    assert (content / ADAPTER[1]).read_bytes() == (place.run / made["adapter"] / ADAPTER[1]).read_bytes()
    used = {key for key, pin in json.loads((content / "lock.json").read_text())["ingredients"].items() if pin["used"]}
    chosen = place.result("2-select-experts")["selected"]
    assert {f"models/{name}" for name in chosen} < used and len(chosen) == 4
    assert "of which the routers alone were trained" in (content / "README.md").read_text()
