"""A local Hub with a base model, adapters that fit it, and one adapter for each reason why not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import HfApi, constants
from safetensors.numpy import load_file, save_file

from rocket_hub.discovery.hub import client as hub_calls
from rocket_hub.localhub import LocalHub, User

BASE = "base/tiny"
CARD = f"base_model: {BASE}\nlibrary_name: peft\ntags: [lora]\n"

Planted = Callable[..., None]


def write_card(folder: Path, card: str, text: str = "") -> None:
    (folder / "README.md").write_text(f"---\n{card}---\n{text}\n")


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


@pytest.fixture(scope="session")
def planted(
    hub: LocalHub, tiny_model: Path, lora_bank: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """Plant everything; returns repository id -> the reason that is due, empty for what fits."""
    due: dict[str, str] = {}
    base = tmp_path_factory.mktemp("base")
    shutil.copytree(tiny_model, base, dirs_exist_ok=True)
    write_card(base, "license: apache-2.0\n")
    hub.import_folder("model", BASE, base)
    downloads = iter(range(1000, 0, -10))

    def plant(
        name: str,
        reason: str = "",
        bank: int = 0,
        config: dict[str, Any] | bytes | None = None,
        tensors: dict[str, Any] | None = None,
        card: str = CARD,
        edit: Callable[[Path], object] | None = None,
        same_as: str = "",
        **settings: Any,
    ) -> None:
        """Plant one adapter: a real one, with the change that makes it unfit."""
        folder = tmp_path_factory.mktemp("adapter")
        shutil.copytree(lora_bank[bank], folder, dirs_exist_ok=True)
        path = folder / "adapter_config.json"
        if isinstance(config, bytes):
            path.write_bytes(config)
        else:
            real = json.loads(path.read_text()) | {"base_model_name_or_path": BASE}
            path.write_text(json.dumps(real | (config or {})))
        weights = load_file(folder / "adapter_model.safetensors") | (tensors or {})
        kept = {key: value for key, value in weights.items() if value is not None}
        # The name makes the file's hash another one: no two adapters are the same. (Two keys come in any order.)
        save_file(kept, folder / "adapter_model.safetensors", {"name": same_as or name})
        write_card(folder, card, "A LoRA that\n\nadds numbers.")
        if edit:
            edit(folder)
        hub.import_folder("model", f"zoo/{name}", folder, **({"downloads": next(downloads)} | settings))
        due[f"zoo/{name}"] = reason

    _plant_fitting(plant)
    _plant_by_configuration(plant)
    _plant_by_weights(plant)
    return due


def _plant_fitting(plant: Planted) -> None:
    plant("plain", card=CARD + "license: mit\ndatasets: [openai/gsm8k]\n")
    plant("rslora", bank=1)
    plant("patterns", bank=3)
    plant("local-base", config={"base_model_name_or_path": "/home/me/models/tiny"})
    plant("pissa", config={"init_lora_weights": "pissa"})
    plant("only-tagged", card=f"base_model: {BASE}\nbase_model_relation: finetune\ntags: [lora]\n")
    plant("own-tokenizer", edit=lambda folder: (folder / "tokenizer_config.json").write_text("{}"))
    plant("trained-on-the-task", card=CARD + "datasets: [gsm8k]\n")


def _plant_by_configuration(plant: Planted) -> None:
    plant("wrong-base", "wrong_base", config={"base_model_name_or_path": "other/model"})
    plant("loha", "not_lora", config={"peft_type": "LOHA"})
    plant("classifier", "wrong_task", config={"task_type": "SEQ_CLS"})
    plant("residual", "wrong_base", config={"base_model_name_or_path": "zoo/tiny-residual"})
    plant("loftq", "unsupported_init", config={"init_lora_weights": "loftq"})
    plant("dora", "dora", config={"use_dora": True})
    plant("bias", "lora_bias", config={"lora_bias": True})
    plant("head", "modules_to_save", config={"modules_to_save": ["lm_head"]})
    plant("parameters", "unsupported_config", config={"target_parameters": ["experts"]})
    plant("future", "unknown_keys", config={"frobnicate": {"x": 1}})
    plant("not-json", "broken_config", config=b"{not json")
    plant("a-list", "broken_config", config=b"[]")
    plant("deep", "broken_config", config=b"[" * 200_000)
    plant("huge-config", "broken_config", config=b'{"x": "' + b"x" * 2**20 + b'"}')


def _plant_by_weights(plant: Planted) -> None:
    q_proj = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
    deep = {q_proj.format(7, "A"): np.ones((2, 16), "f4"), q_proj.format(7, "B"): np.ones((16, 2), "f4")}
    plant("too-deep", "depth_mismatch", tensors=deep)
    plant("too-wide", "shape_mismatch", tensors={q_proj.format(0, "A"): np.ones((2, 24), "f4")})
    plant("rank", "rank_mismatch", config={"r": 8})
    plant("sharded", "bad_shape", tensors={q_proj.format(0, "A"): np.ones((0,), "f4")})
    plant("half", "missing_partner", tensors={q_proj.format(0, "B"): None})
    plant("strange", "unknown_keys", tensors={"base_model.model.q_proj.lora_E": np.ones((2, 1), "f4")})
    embeddings = {"base_model.model.model.embed_tokens.weight": np.ones((30, 16), "f4")}
    plant("resized", "vocab_resized", tensors=embeddings)

    def write_weights(data: bytes) -> Callable[[Path], object]:
        return lambda folder: (folder / "adapter_model.safetensors").write_bytes(data)

    plant("garbage", "broken_weights", edit=write_weights(b"\xff" * 100))
    plant("empty", "broken_weights", edit=write_weights(b""))
    plant("huge-header", "broken_weights", edit=write_weights((10_500_000).to_bytes(8, "little") + b" " * 10_500_000))
    plant("cut", "broken_weights", edit=_cut)
    plant("pickle", "pickle_only", edit=lambda folder: (folder / "adapter_model.safetensors").rename(
        folder / "adapter_model.bin"))  # fmt: skip
    plant("weightless", "no_weights", edit=lambda folder: (folder / "adapter_model.safetensors").unlink())
    plant("merged", "not_an_adapter", edit=lambda folder: (folder / "adapter_config.json").unlink())
    plant("gated", "gated", gated="manual")
    plant("non-commercial", "licence", card=CARD + "license: cc-by-nc-4.0\n")
    plant("mlx", "not_lora", edit=lambda folder: (folder / "adapter_model.safetensors").rename(
        folder / "adapters.safetensors"))  # fmt: skip
    plant("again", "duplicate_of", same_as="plain")


def _cut(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
