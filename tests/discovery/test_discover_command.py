"""`rocket-hub model search`, in one fresh process: the Hub libraries read their endpoint at import."""

import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import contextlib, io, json, sys
from rocket_hub.cli import main
answers = []
for arguments in json.loads(sys.argv[1]):
    out, error, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            main(arguments)
        except SystemExit as end:
            code = end.code or 0
    answers.append([code, out.getvalue(), error.getvalue()])
print(json.dumps(answers))
"""
LOOK = ["model", "search", "--base", "base/tiny"]


@pytest.fixture(scope="module")
def answers(hub, planted, tmp_path_factory):
    """What the command line says: exit code, output, errors; and the folder that it ran in."""
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
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "ROCKET_HUB_"))}
    variables = {"HF_HOME": str(folder / "home"), "HF_TOKEN": "hf_guest", "COLUMNS": "200"}
    command = [sys.executable, "-c", SCRIPT, json.dumps(list(commands.values()))]
    done = subprocess.run(command, cwd=folder, env=kept | variables, capture_output=True, text=True, check=True)
    return dict(zip(commands, json.loads(done.stdout.splitlines()[-1]), strict=True)), folder


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
