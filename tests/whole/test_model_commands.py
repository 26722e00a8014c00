"""`rocket-hub model evaluate` and `rocket-hub model train`: what they leave, and what they refuse."""

import json
import re
import shutil

import pytest

from rocket_hub.localhub import LocalHub
from tests.helping import table

from .conftest import COMMAND, finish
from .test_cli import several

BASE, EXPERT = "rocket-demo/tiny-llama", "rocket-demo/addition"
REFUSED = table("whole/evaluate_faults.jsonl")


@pytest.fixture(scope="module")
def measured(demo, tmp_path_factory):
    """Every command below, in one process: each costs seconds of imports otherwise."""
    folder = tmp_path_factory.mktemp("evaluate")
    chat = folder / "chat"
    shutil.copytree(demo.hub / "models" / BASE, chat)
    template = "{% for m in messages %}user : {{ m.content }}{% endfor %} assistant :"
    (chat / "chat_template.jinja").write_text(template)
    own, pickled, reaching, foreign = (folder / name for name in ("own", "pickled", "reaching", "foreign"))
    for copy in (own, pickled, reaching, foreign):
        shutil.copytree(demo.hub / "models" / EXPERT, copy)
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    config = json.loads((own / "adapter_config.json").read_text())
    (reaching / "adapter_config.json").write_text(json.dumps(config | {"megatron_config": {"a": 1}}))
    (foreign / "adapter_config.json").write_text(json.dumps(config | {"r": 3}))
    sheet = "name: mine\nevaluation: {dataset: rocket-demo/word-problems}\nextractor: number\n"
    (folder / "mine.yaml").write_text(sheet + "columns: {question: question, answer: answer}\n")
    hub, kshot = ["--hub", str(demo.hub)], ["--kshot", str(demo.kshot)]
    common = ["model", "evaluate", *hub, "--max-rows", "12"]
    gsm8k = [*common, "--task", "gsm8k"]
    report = ["--json", str(folder / "report.json")]
    shots = ["--few-shot", "2", *kshot]
    commands = {
        "first": [*gsm8k, "--adapter", EXPERT, "--adapter", str(own), *report],
        "again": [*gsm8k, "--adapter", EXPERT, "--adapter", str(own), *report],
        "plain": [*common, "--task", str(folder / "mine.yaml"), BASE],
        "chat": [*gsm8k, str(chat), *shots, "--json", str(folder / "chat.json"), "--max-new-tokens", "4"],
    }  # fmt: skip
    named = {"HUB": hub, "KSHOT": kshot, "COMMON": common, "GSM8K": gsm8k, "BASE": [BASE]}
    for name, command, *_ in REFUSED:
        commands[name] = [word for said in command for word in named.get(said, [said])]
    (folder / "mbpp.yaml").write_text(f"task: mbpp\nbase: {BASE}\n")
    answers = several(list(commands.values()), folder, folder / "home")
    return folder, dict(zip(commands, answers, strict=True))


def test_adapters_beside_their_base(measured):
    folder, done = measured
    assert done["first"].code == 0, done["first"].error
    report = json.loads((folder / "report.json").read_text())
    assert report["model"]["repo_id"] == BASE
    assert all(re.fullmatch("[0-9a-f]{40}", report[key]["revision"]) for key in ("model", "evaluation_set"))
    base, hub, own = report["evaluations"]
    assert [each["method"] for each in (base, hub, own)] == [BASE, EXPERT, str(folder / "own")]
    assert hub["correct"] == own["correct"]
    assert len(base["correct"]) == 12
    assert not report["chat_template"]
    for gap, each in zip(report["differences"], (hub, own), strict=True):
        assert gap["difference"] == pytest.approx(each["accuracy"] - base["accuracy"])
        assert gap["low"] <= gap["difference"] <= gap["high"]
    assert "gsm8k: 12 problems of rocket-demo/word-problems" in done["first"].out


def test_answers_are_kept_and_not_asked_again(measured):
    folder, done = measured
    kept = sorted((folder / "report-answers").glob("*.jsonl"))
    assert len(kept) == 3
    assert all(len(path.read_text().splitlines()) == 12 for path in kept)  # a second run added none
    assert done["again"].code == 0


def test_a_task_of_ones_own_and_a_chat_model(measured):
    folder, done = measured
    assert done["plain"].code == 0, done["plain"].error
    assert "mine: 12 problems" in done["plain"].out
    assert done["chat"].code == 0, done["chat"].error
    report = json.loads((folder / "chat.json").read_text())
    assert report["chat_template"]
    assert (report["options"]["few_shot"], report["options"]["max_new_tokens"]) == (2, 4)


@pytest.mark.parametrize(("name", "code", "message"), [(name, *said) for name, _, *said in REFUSED])
def test_what_cannot_be_measured_is_one_line(name, code, message, measured):
    found = measured[1][name]
    assert (found.code, len(found.error.strip().splitlines())) == (code, 1), found.error
    assert found.last.startswith("error: ")
    assert message in found.last


SHAPE = ["--task", "gsm8k", "--rank", "2", "--max-steps", "3", "--batch-size", "4"]


def test_an_expert_is_made_published_and_found(place):
    command = [COMMAND, "model", "train", "rocket-demo/first-steps", "--hub", str(place.hub), *SHAPE]
    done = finish([*command, "--out", "expert", "--push-to", "local/my-expert"], place.folder, place.home)
    assert "pushed to local/my-expert at" in done.out
    config = json.loads((place.folder / "expert" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 2, 4)
    assert config["base_model_name_or_path"] == "rocket-demo/tiny-llama"
    changed = finish([*command[:-1], "5", "--out", "expert"], place.folder, place.home)
    assert "training  again, because of train" in changed.out
    with LocalHub(place.store) as hub:
        from huggingface_hub import HfApi

        from rocket_hub.discovery import discover_adapters
        from rocket_hub.options import DiscoverOptions

        api = HfApi(endpoint=hub.url, token="hf_local")
        assert set(api.list_repo_files("local/my-expert")) - {".gitattributes"} == {
            "README.md", "adapter_config.json", "adapter_model.safetensors",
        }  # fmt: skip
        found = discover_adapters(api, "rocket-demo/tiny-llama", options=DiscoverOptions())
    (mine,) = [candidate for candidate in found.selected if candidate.repo_id == "local/my-expert"]
    assert (mine.rank, mine.licence, mine.datasets) == (2, "apache-2.0", ("rocket-demo/first-steps",))


def test_an_expert_from_a_file(place):
    command = [COMMAND, "model", "train", str(place.kshot), "--hub", str(place.hub), *SHAPE, "--out", "e"]
    finish(command, place.folder, place.home)
    assert f"rows of `{place.kshot.name}`" in (place.folder / "e" / "README.md").read_text().replace("\n", " ")


WRONG = table("whole/train_faults.jsonl")


def test_what_no_expert_is_made_of_is_said_in_one_line(place):
    more = ["--hub", str(place.hub), "--out", "w"]
    commands = [[str(place.kshot) if word == "KSHOT" else word for word in command] + more for command, _ in WRONG]
    for done, (command, message) in zip(several(commands, place.folder, place.home), WRONG, strict=True):
        assert (done.code, message in done.last) == (2, True), f"{command}: {done.error[-500:]}"
