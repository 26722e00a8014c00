"""Data that is made: a build whose base writes rows of its own, what becomes of them, and the same as a data set."""

import json
import shutil
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

from rocket_hub.localhub import LocalHub

from .conftest import COMMAND, ROOT, finish, python

KSHOT = ROOT / "recipes" / "demo" / "kshot.jsonl"
SMALL = """
task: gsm8k
base: rocket-demo/tiny-llama
generation:
  method: self_specialization
  documents: DOCS
  self_specialization:
    {target_rows: 12, max_prompts: 64, max_new_tokens: 48, batch_size: 32, seeds_in_prompt: 1, seeds_for_answer: 1,
     passages: 0, novelty: 0.95}
instructions: {encoder: rocket-demo/encoder, max_rows: 6000, threshold: 1.0}
train: {max_steps: 2, batch_size: 8, max_length: 128, learning_rate: [0.001]}
evaluate: {dataset: rocket-demo/word-problems, max_rows: 10, max_new_tokens: 16}
push: {verify: false}
discover: {max_adapters: 2, datasets: [rocket-demo/stories]}
"""


def teach(folder):
    """Overfit a base on solved examples, one below the other: a base that can go on with a list of them."""
    from random import Random

    import torch

    from rocket_hub.inference.models import load_base
    from rocket_hub.rows.kshot import load_kshot
    from rocket_hub.tasks import get_task

    model, tokenizer = load_base(str(folder), None)
    shots = [get_task("gsm8k").example(shot) for shot in load_kshot(KSHOT)]
    solved = [f"{shot.prompt}{shot.completion}" for shot in shots]
    tokenizer.padding_side = "right"
    optimiser = torch.optim.AdamW(model.train().parameters(), lr=3e-3)
    for step in range(40):
        batch = [f"{a}\n\n{b}{tokenizer.eos_token}" for a, b in zip(*[iter(Random(step).sample(solved, 16))] * 2)]  # noqa: B905
        rows = tokenizer(batch, return_tensors="pt", padding=True)
        labels = rows["input_ids"].masked_fill(rows["attention_mask"] == 0, -100)
        optimiser.zero_grad()
        model(**rows, labels=labels).loss.backward()
        optimiser.step()
    model.save_pretrained(folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a Hub whose base was taught, and a finished build in `run`."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copytree(Path(str(files("rocket_hub"))) / "localhub" / "demo", folder / "hub")
    teach(folder / "hub" / "models" / "rocket-demo" / "tiny-llama")
    (folder / "docs").mkdir()
    (folder / "docs" / "one.md").write_text("A jar holds apples.\n")
    (folder / "recipe.yaml").write_text(
        "task: gsm8k\nbase: rocket-demo/tiny-llama\n" + SMALL.replace("DOCS", str(folder / "docs"))
    )
    done = call(folder, "build")
    return folder, done


def call(folder, command, *more, code=0):
    start = [COMMAND, command, "--hub", "hub", "--recipe", "recipe.yaml", "--kshot", str(KSHOT), "--out", "run"]
    return finish([*start, *more], folder, folder / "home", code)


def result(folder, stage):
    return json.loads((folder / "run" / stage / "result.json").read_text())["result"]


def test_the_rows_are_one_more_pool(made):
    folder, done = made
    facts = result(folder, "0-generate")
    assert (facts["method"], facts["seeds"], facts["maker"][:26]) == (
        "self_specialization",
        50,
        "rocket-demo/tiny-llama at ",
    )
    lines = (folder / "run" / facts["rows_file"]).read_bytes()
    assert facts["rows"] == len(lines.splitlines()) > 0
    assert facts["sha256"] == sha256(lines).hexdigest()
    assert facts["counts"]["prompts"] >= facts["counts"]["questions"] >= facts["rows"]
    assert [pin["kind"] for pin in facts["made_from"]] == ["model", "file"]
    assert "writes at most 128 texts of 48 tokens" in done.out.partition("loading")[0]  # before anything is computed
    chosen = result(folder, "3-select-instructions")
    counts = chosen["counts"]["generated:self_specialization"]
    assert counts["read"] == facts["rows"] and sum(counts.values()) == 2 * counts["read"]
    assert chosen["per_source"]["generated:self_specialization"] == counts["chosen"] > 0
    questions = {json.loads(line)["prompt"] for line in lines.splitlines()}
    sources = {row["prompt"]: row["source"] for row in chosen["selected"]}
    taken = [prompt for prompt, source in sources.items() if source.startswith("generated:")]
    assert taken and set(taken) <= questions


def test_lock_and_card_name_them(made):
    folder, _ = made
    facts, chosen = result(folder, "0-generate"), result(folder, "3-select-instructions")
    lock = json.loads((folder / "run" / "lock.json").read_text())
    assert lock["generated"]["used"] is True
    assert (lock["generated"]["sha256"], lock["generated"]["maker"]) == (facts["sha256"], facts["maker"])
    card = (folder / "run" / result(folder, "7-push")["content"] / "README.md").read_text()
    count = chosen["per_source"]["generated:self_specialization"]
    share = f"{count / len(chosen['selected']):.0%} of them ({count} rows) were found nowhere but made for this build"
    assert share in card and facts["maker"] in card and facts["sha256"][:16] in card
    assert "Also behind them: docs" in card
    header = yaml.safe_load(card.split("---\n")[1])
    assert header["license"] == "apache-2.0"
    assert not [name for name in header["datasets"] if name.startswith("generated:")]
    assert "\n\n\n" not in card
    assert "documents: docs\n" in card and str(folder) not in card


def test_a_locked_build_takes_the_same_rows_or_none(made):
    folder, _ = made
    again = call(folder, "build", "--locked", "run/lock.json")
    assert again.note("0-generate") == again.note("7-push") == "done earlier"
    lock = json.loads((folder / "run" / "lock.json").read_text())
    lock["generated"]["sha256"] = "0" * 64
    (folder / "edited.json").write_text(json.dumps(lock))
    refused = call(folder, "build", "--locked", "edited.json", code=2)
    assert f"generated rows: locked are {'0' * 64}, this build has" in refused.last


LOAD = """
import json
from datasets import load_dataset
rows = load_dataset("local/made-rows", split="train")
print(json.dumps([rows.column_names, rows[:]["prompt"]]))
"""


def test_they_are_published_and_load_as_any_data_set(made, tmp_path):
    folder, _ = made
    push = [COMMAND, "data", "push", "run", "--hub", "hub"]
    pushed = finish([*push, "--push-to", "local/made-rows"], folder, folder / "home")
    assert "pushed run to local/made-rows at " in pushed.out
    (store,) = (folder / "home").glob("rocket_hub/hubs/*/store")
    with LocalHub(store) as hub:
        loaded = python(LOAD, tmp_path, {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")})
    lines = (folder / "run" / "0-generate" / "rows.jsonl").read_text().splitlines()
    assert json.loads(loaded.out.splitlines()[-1]) == [
        ["prompt", "completion"],
        [json.loads(line)["prompt"] for line in lines],
    ]
    unread = finish([*push, "--seed", "1"], folder, folder / "home", 2)
    assert "No such option '--seed'" in unread.last
