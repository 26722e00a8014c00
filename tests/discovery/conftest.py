"""A local Hub with a base model, adapters that fit it, and one adapter for each reason why not."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import HfApi, constants
from safetensors.numpy import load_file, save

from rocket_hub.discovery.hub import client as hub_calls
from rocket_hub.localhub import LocalHub, User
from tests.helping import put, table

BASE, CONFIG, WEIGHTS = "base/tiny", "adapter_config.json", "adapter_model.safetensors"
CARD = f"base_model: {BASE}\nlibrary_name: peft\ntags: [lora]\n"


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalHub]:
    tokens = {"hf_reader": User("reader"), "hf_guest": User("guest")}
    with LocalHub(tmp_path_factory.mktemp("hub"), tokens=tokens) as hub:
        yield hub


@pytest.fixture(scope="module")
def own_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalHub]:
    """A Hub of a module's own: its lists hold nothing else."""
    with LocalHub(tmp_path_factory.mktemp("hub"), tokens={"hf_guest": User("guest")}) as hub:
        yield hub


@pytest.fixture
def api(hub: LocalHub, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[HfApi]:
    """A client that remembers nothing of what earlier tests read, and is impatient.

    Its cache is not in `tmp_path`, which tests import whole: a thread of an earlier test may still write there.
    """
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.setattr(hub_calls, "BACK_OFF", 0.01)
    hub.log.clear()
    hub.faults.clear()
    yield HfApi(endpoint=hub.url, token="hf_guest")
    hub.faults.clear()


def changed(folder: Path, row: dict[str, Any]) -> dict[str, bytes | str]:
    """The files of a real adapter, with the change that makes it unfit."""
    config = json.loads((folder / CONFIG).read_text()) | {"base_model_name_or_path": BASE} | row.get("config", {})
    weights = load_file(folder / WEIGHTS)
    for key, shape in row.get("tensors", {}).items():
        weights.pop(key, None)
        if shape:
            weights[key] = np.ones(shape, "f4")
    # The name makes the file's hash another one: no two adapters are the same.
    data = save(weights, {"name": row.get("same_as", row["name"])})
    files = {CONFIG: json.dumps(config), WEIGHTS: data[: len(data) - row.get("cut", 0)]} | row.get("files", {})
    for old, new in row.get("renamed", {}).items():
        files[new] = files.pop(old)
    return {path: data for path, data in files.items() if data is not None}


@pytest.fixture(scope="session")
def planted(hub: LocalHub, tiny_model: Path, lora_bank: list[Path]) -> dict[str, str]:
    """Plant what `planted.jsonl` tells, and what is no text; returns repository id -> the reason that is due."""
    put(hub, "model", BASE, {path.name: path.read_bytes() for path in tiny_model.iterdir()}, "license: apache-2.0\n")
    more = {
        "garbage": ("broken_weights", WEIGHTS, b"\xff" * 100),
        "deep": ("broken_config", CONFIG, b"[" * 200_000),
        "huge-config": ("broken_config", CONFIG, b'{"x": "' + b"x" * 2**20 + b'"}'),
        "huge-header": ("broken_weights", WEIGHTS, (10_500_000).to_bytes(8, "little") + b" " * 10_500_000),
    }
    rows = table("discovery/planted.jsonl")
    rows += [{"name": name, "reason": reason, "files": {file: data}} for name, (reason, file, data) in more.items()]
    for number, row in enumerate(rows):
        files, card = changed(lora_bank[row.get("bank", 0)], row), row.get("card", CARD)
        settings = {"downloads": 1000 - 10 * number} | row.get("settings", {})
        put(hub, "model", f"zoo/{row['name']}", files, card, "A LoRA that\n\nadds numbers.", **settings)
    return {f"zoo/{row['name']}": row.get("reason", "") for row in rows}
