"""`rocket-hub model train`: an expert of one's own, from the Hub's data or from a file, published and found."""

import json

from rocket_hub.localhub import LocalHub
from tests.helping import table

from .conftest import COMMAND, Workplace, finish
from .test_cli import several

SHAPE = ["--task", "gsm8k", "--rank", "2", "--max-steps", "3", "--batch-size", "4"]


def test_an_expert_is_made_published_and_found(place: Workplace) -> None:
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


def test_an_expert_from_a_file(place: Workplace) -> None:
    command = [COMMAND, "model", "train", str(place.kshot), "--hub", str(place.hub), *SHAPE, "--out", "e"]
    finish(command, place.folder, place.home)
    assert f"rows of `{place.kshot.name}`" in (place.folder / "e" / "README.md").read_text().replace("\n", " ")


WRONG = table("whole/train_faults.jsonl")


def test_what_no_expert_is_made_of_is_said_in_one_line(place: Workplace) -> None:
    more = ["--hub", str(place.hub), "--out", "w"]
    commands = [[str(place.kshot) if word == "KSHOT" else word for word in command] + more for command, _ in WRONG]
    for done, (command, message) in zip(several(commands, place.folder, place.home), WRONG, strict=True):
        assert (done.code, message in done.last) == (2, True), f"{command}: {done.error[-500:]}"
