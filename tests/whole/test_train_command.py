"""`rocket-hub train --dataset`: an expert of one's own, from the Hub's data or from a file, published and found."""

import json
from pathlib import Path

from rocket_hub.localhub import LocalHub

from .conftest import COMMAND, Workplace, finish

SHAPE = ["--task", "gsm8k", "--rank", "2", "--max-steps", "3", "--batch-size", "4"]


def test_an_expert_is_made_published_and_found(place: Workplace) -> None:
    command = [COMMAND, "train", "--hub", str(place.hub), "--dataset", "rocket-demo/first-steps", *SHAPE]
    done = finish([*command, "--out", "expert", "--push-to", "local/my-expert"], place.folder, place.home)
    assert done.code == 0, done.error
    assert "pushed to local/my-expert at" in done.out
    config = json.loads((place.folder / "expert" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 2, 4)
    assert config["base_model_name_or_path"] == "rocket-demo/tiny-llama"
    changed = finish([*command[:-1], "5", "--out", "expert"], place.folder, place.home)
    assert changed.code == 0 and "training  again, because of train" in changed.out, changed.error
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


def test_an_expert_from_a_file_and_what_is_wrong(place: Workplace, tmp_path: Path) -> None:
    hub = ["--hub", str(place.hub)]
    done = finish(
        [COMMAND, "train", *hub, "--dataset", str(place.kshot), *SHAPE, "--out", "e"], place.folder, place.home
    )
    assert done.code == 0, done.error
    assert f"rows of `{place.kshot.name}`" in (place.folder / "e" / "README.md").read_text().replace("\n", " ")
    wrong = {
        "no task": (["--dataset", "rocket-demo/first-steps"], "give --task NAME"),
        "no data": (["--task", "gsm8k"], "--kshot FILE to train the merged adapter, or --dataset ID"),
        "not for experts": (["--dataset", "x/y", "--task", "gsm8k", "--controls", "all"], "--controls cannot be used"),
        "only for experts": (["--kshot", "x.jsonl", "--task", "gsm8k", "--rank", "4"], "--rank cannot be used"),
        "gated": (["--dataset", "rocket-demo/members-only", *SHAPE], "gated"),
        "nowhere": (["--dataset", "rocket-demo/nowhere", *SHAPE], "not found on the Hub"),
        "targets": (["--dataset", str(place.kshot), *SHAPE, "--targets", "no_such"], "targets no_such"),
    }
    for name, (options, message) in wrong.items():
        done = finish([COMMAND, "train", *hub, *options, "--out", "w"], place.folder, place.home)
        assert (done.code, message in done.last) == (2, True), f"{name}: {done.error[-500:]}"
