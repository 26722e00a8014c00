"""`rocket-hub model search` and `rocket-hub data search`, each kind in one process of its own."""

import json

import pytest

from tests.discovery.test_instructions import ALPACA, QA
from tests.helping import environment, lines, several

LOOK = ["model", "search", "--base", "base/tiny"]
SHOT = {"question": "A farmer has 3 goats and buys 2 goats. How many goats?", "answer": "3 + 2 = 5\n#### 5"}


def answers_in(folder, commands, **variables):
    """What the command line says: exit code, output, errors; and the folder that it ran in."""
    variables = {"HF_HOME": str(folder / "home"), "COLUMNS": "200"} | variables
    return dict(zip(commands, several(commands.values(), folder, environment(**variables)), strict=True)), folder


@pytest.fixture(scope="module")
def answers(hub, planted, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    (folder / "kshot.jsonl").write_text('{"prompt": "only tagged", "completion": "yes"}\n')
    at = ["--hub", hub.url]
    commands = {
        "dry": [*LOOK, *at, "--dry-run", "--json", "plan.json"],
        "all": [*LOOK, *at, "--json", "verdicts.json", "--kshot", "kshot.jsonl"],
        "few": [*LOOK, *at, "--max-adapters", "2", "--allow-licence", "cc-by-nc-4.0", "--mirror", "other/model"],
        "old": ["discover", "adapters", "--base", "base/tiny"],
        "nobase": ["model", "search", *at],
        "nowhere": ["model", "search", "--base", "base/nowhere", *at],
        "stage": ["discover", *at],
    }
    hub.faults.clear()
    return answers_in(folder, commands, HF_TOKEN="hf_guest")


def test_a_dry_run_says_what_it_would_cost(answers, planted):
    (code, out, error), folder = answers[0]["dry"], answers[1]
    assert (code, error) == (0, "")
    assert out.startswith(f"{len(planted)} adapters listed; reading them takes ")
    assert "minutes under the Hub's rate limit" in out.replace("\n", " ")
    assert json.loads((folder / "plan.json").read_text())["listed"] == len(planted)


def test_every_verdict_is_told(answers, planted):
    (code, out, error), folder = answers[0]["all"], answers[1]
    assert (code, error) == (0, "")
    usable = [name for name, reason in planted.items() if not reason]
    assert all(name in out for name in usable)
    assert f"{len(usable)} usable, {len(planted) - len(usable)} not" in out
    assert all(reason in out for reason in planted.values())
    found = json.loads((folder / "verdicts.json").read_text())
    told = {entry["item"]: entry["reason"] for entry in found["rejected"]}
    assert told == {name: reason for name, reason in planted.items() if reason}
    assert {entry["repo_id"] for entry in found["selected"]} == set(usable)


def test_the_options_arrive(answers):
    code, out, _ = answers[0]["few"]
    assert code == 0
    assert "2 usable" in out and "over_budget" in out
    assert " licence " not in out.replace("licence ┃", "")  # the reason, not the column


def test_what_is_wrong_is_said_in_one_line(answers):
    for name, expected, text in (
        ("old", 2, "error: `rocket-hub discover adapters` is now `rocket-hub model search`"),
        ("nobase", 2, "Missing option '--base'"),
        ("nowhere", 3, "base/nowhere: not found on the Hub"),
        ("stage", 2, "give --kshot FILE"),
    ):
        code, _, error = answers[0][name]
        assert code == expected and text in error and "Traceback" not in error


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """Data sets are searched for in a folder of repositories."""
    root = tmp_path_factory.mktemp("command")
    card = '---\ntask_categories: [text-generation]\nlanguage: en\nlicense: "[red]mit[/]\\e[31m"\n---\n'
    rows = {"good/goats": ALPACA, "good/other": QA, "bad/columns": [{"\x1b[31mx[/]": 1}], "openai/gsm8k": QA}
    for name, data in rows.items():
        folder = root / "hub" / "datasets" / name
        folder.mkdir(parents=True)
        text = card.replace("\x1b", "\\e") if name == "good/other" else card.replace("\x1b", "")
        (folder / "README.md").write_text(text)
        (folder / "train.jsonl").write_text(lines(data))
    (root / "kshot.jsonl").write_text(lines([SHOT]))
    search = ["data", "search", "--hub", "hub"]
    commands = {
        "all": [*search, "--task", "gsm8k", "--kshot", "kshot.jsonl", "--json", "verdicts.json"],
        "dry": [*search, "--dry-run", "--query", "goats", "--language", "fr", "--max-datasets", "1"],
    }
    return answers_in(root, commands, COLUMNS="160")


def test_every_data_set_has_its_line(searched):
    (code, out, error), folder = searched[0]["all"], searched[1]
    assert code == 0, error
    assert "good/goats" in out
    assert "alpaca" in out
    assert "columns ?[31mx[/]" in out
    assert "2 usable; not taken: 1 evaluation_set, 1 unknown_columns" in out
    assert "[red]mit[/]" in out
    assert "\x1b[31m" not in out
    found = json.loads((folder / "verdicts.json").read_text())
    assert [item["repo_id"] for item in found["selected"]] == ["good/goats", "good/other"]
    assert {item["reason"] for item in found["rejected"]} == {"evaluation_set", "unknown_columns"}


def test_a_dry_run_of_data_says_what_it_will_cost(searched):
    code, out, error = searched[0]["dry"]
    assert code == 0, error
    assert "searched for: goats" in out
    assert "4 data sets listed, 0 may be read; not taken: 3 language, 1 benchmark" in out
    assert "next: at most about 0 requests" in out
