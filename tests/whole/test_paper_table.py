"""The paper's table on a tiny Hub: killed, and taken up again where it was."""

import json
import signal
import sys

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from .conftest import ROOT, begin, finish, stop_when

SCRIPTS = ROOT / "recipes" / "paper_table"


def lines(path):
    """The finished cells of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def test_cells_are_kept_one_by_one_and_not_measured_again(demo, tmp_path):
    results, home = tmp_path / "results", tmp_path / "home"
    what = ["--tasks", "gsm8k", "--draws", "1,2", "--methods", "base,fresh_lora", "--workers", "1"]
    small = ["--problems", "8", "--steps", "2", "--hub", str(demo.hub)]
    places = ["--results", str(results), "--work", str(tmp_path / "work")]
    command = [sys.executable, str(SCRIPTS / "run.py"), *what, *small, *places]
    core = results / "core.jsonl"
    stopped = stop_when(begin(command, tmp_path, home), lambda: lines(core), signal.SIGKILL)
    before = lines(core)
    assert stopped.code == -signal.SIGKILL and 0 < len(before) < 4, stopped.error[-2000:]
    assert len(lines(results / "settings.jsonl")) == 2, "the points of the grid come before what they decide"

    done = finish(command, tmp_path, home)
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

    losses = finish([*command, "--table", "real"], tmp_path, home)
    assert "real: 4 cells, 4 of them to measure; 0 points" in losses.out, "the points are there"
    assert lines(core) == after and len(lines(results / "settings.jsonl")) == 2, "other cells stay as they are"
    found = {entry["problem"]: entry["result"] for entry in lines(results / "real.jsonl")}
    trained = {entry["problem"]: entry["result"]["train_seconds"] for entry in after}
    for key, result in found.items():
        assert "accuracy" not in result and len(result["losses"]) == 8
        assert result["loss"] == pytest.approx(sum(result["losses"]) / 8, abs=1e-4)
        assert result["train_seconds"] == trained[key.removesuffix("/loss=200")], "nothing is trained twice"
    of_the_base = [found[f"gsm8k/{draw}/base/loss=200"]["losses"] for draw in (1, 2)]
    assert of_the_base[0] == of_the_base[1] == pytest.approx(naive_losses(demo.hub, 8), abs=1e-3)
    assert len({result["loss"] for result in found.values()}) == 3


def naive_losses(hub, count):
    """Nats per token of the first solutions of the test split under the base, one forward pass each."""
    recipe = yaml.safe_load((hub / "recipes" / "gsm8k.yaml").read_text())
    base = hub / "models" / recipe["base"]
    (data,) = (hub / "datasets" / recipe["evaluate"]["dataset"] / "data").glob("test-*.parquet")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    found = []
    for row in pq.read_table(data).slice(0, count).to_pylist():
        prompt = f"Question: {row['question']}\nAnswer:"
        whole = tokenizer(f"{prompt} {row['answer']}{tokenizer.eos_token}", return_tensors="pt")["input_ids"]
        with torch.no_grad():
            nll = torch.nn.functional.cross_entropy(model(whole).logits[0, :-1], whole[0, 1:], reduction="none")
        found.append(float(nll[len(tokenizer(prompt)["input_ids"]) - 1 :].mean()))
    return found
