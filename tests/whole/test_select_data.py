"""`rocket-hub select data`: what came from where, why the rest did not, the map, and what is kept for the next time."""

import json

import pytest
from rich.console import Console

from rocket_hub.cli.screen import rows
from rocket_hub.inference.models import encoder_key
from rocket_hub.pipeline.select_data import LISTED, _first_of_each
from rocket_hub.records import Rejection
from rocket_hub.results import DataSelection

from .conftest import COMMAND, ROOT, finish

STAGE = "3-select-instructions"
START = ["--hub", "demo", "--task", "gsm8k", "--kshot", str(ROOT / "recipes" / "demo" / "kshot.jsonl"), "--out", "run"]
SAID = ("discover.max_adapters=4", "instructions.similarity=round_robin", "instructions.max_tokens=2000",
        "instructions.threshold=0.8")  # fmt: skip
OPTIONS = [f"-o{said}" for said in SAID]


@pytest.fixture(scope="module")
def selected(tmp_path_factory):
    """A folder with a run up to stage 3 on the demo Hub, and what it said."""
    folder = tmp_path_factory.mktemp("selected")
    done = finish([COMMAND, "select", "data", *START, *OPTIONS], folder, folder / "home")
    return folder, done


def result(folder):
    return json.loads((folder / "run" / STAGE / "result.json").read_text())["result"]


def test_every_row_is_accounted_for_and_the_budget_is_kept(selected):
    found = result(selected[0])
    assert found["read"] == sum(count["read"] for count in found["counts"].values()) > 5000
    for count in found["counts"].values():
        assert sum(count.values()) == 2 * count["read"]
    assert 1000 < found["tokens"] <= 2000
    assert found["per_source"] == {
        source: count["chosen"] for source, count in found["counts"].items() if "chosen" in count
    }
    lines = [json.loads(line) for line in (selected[0] / "run" / found["rejected_file"]).read_text().splitlines()]
    assert sum(found["reasons"].values()) == len(lines) > len(found["rejected"])
    assert found["reasons"]["without_answer"] == found["without_answer"] > 800
    listed = [entry for entry in found["rejected"] if entry["reason"] == "without_answer"]
    assert len(listed) == LISTED and all(entry in lines for entry in listed)


def test_the_table_says_what_became_of_each_data_set(selected):
    folder, done = selected
    said = " ".join(done.out.split())
    assert "│ rocket-demo/who-has-what │ 800 │ 0 │ 800 without_answer │" in said
    assert f"{result(folder)['tokens']:,} tokens" in said
    assert f"map: {STAGE}/rows.svg" in said
    assert (folder / "run" / STAGE / "rows.svg").read_text().startswith("<?xml")


def test_vectors_are_kept_in_the_cache_of_the_hub_that_the_encoder_is_from(selected):
    folder, _ = selected
    pinned = json.loads((folder / "run" / "1-discover" / "result.json").read_text())["result"]["encoder"]
    caches = [path for path in folder.glob("home/**/embeddings/*") if path.is_dir()]
    assert [path.name for path in caches] == [encoder_key(pinned["repo_id"], pinned["revision"])]
    assert caches[0].parts[-4:-1] == ("home", "rocket_hub", "embeddings") and any(caches[0].glob("*.vectors"))


def test_a_result_lists_some_of_each_reason():
    many = tuple(Rejection(f"u/a#{number}", f"reason{number % 3}") for number in range(900))
    listed = _first_of_each(many)
    assert len(listed) == 3 * LISTED and next(entry for entry in listed if entry.reason == "reason1") == many[1]


def test_a_data_set_that_could_not_be_read_has_a_line():
    found = DataSelection(
        (), (), (Rejection("u/bad", "unreadable", "cut [off]"),), 2,
        counts={"u/good": {"read": 5, "chosen": 2, "contaminated": 3}},
        flagged=(Rejection("u/good#1", "numbers_changed"),),
        rejected_file="rejected.jsonl",
        map="rows.svg",
    )  # fmt: skip
    console = Console(record=True, width=160)
    console.print(rows(found))
    said = " ".join(console.export_text().split())
    assert "│ u/good │ 5 │ 2 │ 3 contaminated │" in said
    assert "│ u/bad │ 0 │ 0 │ unreadable: cut [off] │" in said
    assert "1 chosen rows to look at" in said
