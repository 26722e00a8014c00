"""`rocket-hub data search`, in a process of its own."""

import json
import os
import subprocess
import sys

import pytest

from tests.discovery.test_instructions import ALPACA, QA, lines

SHOT = '{"question": "A farmer has 3 goats and buys 2 goats. How many goats?", "answer": "3 + 2 = 5\\n#### 5"}\n'


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run the command against a folder of repositories."""
    root = tmp_path_factory.mktemp("command")
    card = '---\ntask_categories: [text-generation]\nlanguage: en\nlicense: "[red]mit[/]\\e[31m"\n---\n'
    rows = {"good/goats": ALPACA, "good/other": QA, "bad/columns": [{"\x1b[31mx[/]": 1}], "openai/gsm8k": QA}
    for name, data in rows.items():
        folder = root / "hub" / "datasets" / name
        folder.mkdir(parents=True)
        (folder / "README.md").write_text(
            card.replace("\x1b", "\\e") if name == "good/other" else card.replace("\x1b", "")
        )
        (folder / "train.jsonl").write_bytes(lines(data))
    (root / "kshot.jsonl").write_text(SHOT)

    def run(*arguments):
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "ROCKET_HUB_"))}
        code = "from rocket_hub.cli.discover import datasets_command as c; c()"
        return subprocess.run(
            [sys.executable, "-c", code, "--hub", "hub", *arguments], cwd=root, capture_output=True, text=True,
            env=kept | {"HF_HOME": str(root / "home"), "COLUMNS": "160"},
        )  # fmt: skip

    run.root = root
    return run


def test_every_data_set_has_its_line(run):
    done = run("--task", "gsm8k", "--kshot", "kshot.jsonl", "--json", "verdicts.json")
    assert done.returncode == 0, done.stderr
    assert "good/goats" in done.stdout
    assert "alpaca" in done.stdout
    assert "columns ?[31mx[/]" in done.stdout
    assert "2 usable; not taken: 1 evaluation_set, 1 unknown_columns" in done.stdout
    assert "[red]mit[/]" in done.stdout
    assert "\x1b[31m" not in done.stdout
    found = json.loads((run.root / "verdicts.json").read_text())
    assert [item["repo_id"] for item in found["selected"]] == ["good/goats", "good/other"]
    assert {item["reason"] for item in found["rejected"]} == {"evaluation_set", "unknown_columns"}


def test_a_dry_run_says_what_it_will_cost(run):
    done = run("--dry-run", "--query", "goats", "--language", "fr", "--max-datasets", "1")
    assert done.returncode == 0, done.stderr
    assert "searched for: goats" in done.stdout
    assert "4 data sets listed, 0 may be read; not taken: 3 language, 1 benchmark" in done.stdout
    assert "next: at most about 0 requests" in done.stdout
