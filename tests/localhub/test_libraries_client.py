"""What stock datasets, transformers and peft can do with the hub; the client runs once, in its own process."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rocket_hub.localhub import LocalHub

from .conftest import LOCAL, run_client

ROWS = [{"question": f"{n} + 1", "answer": str(n + 1)} for n in range(5)]


@pytest.fixture(scope="module")
def results(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("libraries-client")
    data = folder / "data"
    data.mkdir()
    (data / "README.md").write_text("---\nlicense: mit\n---\n")
    (data / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    with LocalHub(folder / "store") as hub:
        hub.import_folder("model", "acme/tiny", tiny_model)
        hub.import_folder("dataset", "acme/questions", data)
        yield run_client("libraries_client.py", folder / "home", str(folder / "lora"), HF_ENDPOINT=hub.url, **LOCAL)


def test_datasets(results: dict[str, Any]) -> None:
    datasets = results["datasets"]
    assert datasets["full"] == ROWS
    assert datasets["streamed"] == ROWS
    assert datasets["pinned"] == len(ROWS)
    assert datasets["pushed"] == [{"question": "2 + 2", "answer": "4"}]
    assert datasets["format"] == ["format:parquet"]


def test_transformers(results: dict[str, Any]) -> None:
    transformers = results["transformers"]
    assert transformers["tokens"] == [4, 5, 12, 22, 13]
    assert transformers["hidden"] == 16
    assert {"config.json", "model.safetensors"} <= set(transformers["pushed"])
    assert transformers["architectures"] == ["LlamaForCausalLM"]
    assert transformers["parameters"]


def test_peft(results: dict[str, Any]) -> None:
    peft = results["peft"]
    assert peft["changed"]
    assert peft["equal"]
    assert peft["base"] == {"relation": "adapter", "models": [{"id": "acme/tiny"}]}
    assert peft["library"] == "peft"
    assert peft["found"] == ["local/saved-lora"]
