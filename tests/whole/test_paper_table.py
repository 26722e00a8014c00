"""The paper's table on a tiny Hub: killed, and taken up again where it was."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from .conftest import ROOT, Demo, environment, finish, stop_when

SCRIPTS = ROOT / "recipes" / "paper_table"


def lines(path: Path) -> list[dict[str, Any]]:
    """The finished cells of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def test_cells_are_kept_one_by_one_and_not_measured_again(demo: Demo, tmp_path: Path) -> None:
    results, home = tmp_path / "results", tmp_path / "home"
    what = ["--tasks", "gsm8k", "--draws", "1,2", "--methods", "base,fresh_lora", "--workers", "1"]
    small = ["--problems", "8", "--steps", "2", "--hub", str(demo.hub)]
    places = ["--results", str(results), "--work", str(tmp_path / "work")]
    command = [sys.executable, str(SCRIPTS / "run.py"), *what, *small, *places]
    core = results / "core.jsonl"
    process = subprocess.Popen(command, env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, start_new_session=True)  # fmt: skip
    stopped = stop_when(process, lambda: lines(core), signal.SIGKILL)
    before = lines(core)
    assert stopped.code == -signal.SIGKILL and 0 < len(before) < 4, stopped.error[-2000:]
    assert len(lines(results / "settings.jsonl")) == 2, "the points of the grid come before what they decide"

    done = finish(command, tmp_path, home)
    assert done.code == 0, done.error[-2000:]
    assert f"4 cells, {4 - len(before)} of them to measure; 0 points" in done.out
    after = lines(core)
    assert after[: len(before)] == before and len(after) == 4
    assert {entry["problem"] for entry in after} == {
        f"gsm8k/{draw}/{m}" for draw in (1, 2) for m in ("base", "fresh_lora")
    }
    for entry in after:
        result = entry["result"]
        assert "error" not in result and len(result["correct"]) == 2 and result["problems"] == 8
        assert (result["setting"] is None) == (entry["problem"].endswith("base"))
