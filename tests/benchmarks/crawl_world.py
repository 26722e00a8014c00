"""A Hub with many tiny adapters of one base model, two of five unusable, for fifteen different reasons."""

import json
import random
from pathlib import Path

import numpy as np

from rocket_hub.localhub.store import Repository, Store

BASE, COPY = "base/tiny", "copies/tiny-again"
LAYERS, WIDTH, RANK = 2, 16, 2
CONFIG = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": BASE, "r": RANK, "lora_alpha": 4,
          "target_modules": ["q_proj", "v_proj"], "peft_version": "0.21.0"}  # fmt: skip
UNUSABLE = 0.4
REASONS = (
    "wrong_base", "not_lora", "dora", "unsupported_init", "broken_config", "modules_to_save", "pickle_only", "gated",
    "licence", "not_an_adapter", "depth_mismatch", "shape_mismatch", "rank_mismatch", "vocab_resized", "broken_weights",
)  # fmt: skip
BY_LIST = frozenset(("pickle_only", "licence", "not_an_adapter"))
"""Reasons that cost no request but the list."""
BY_HEADER = frozenset(("depth_mismatch", "shape_mismatch", "rank_mismatch", "vocab_resized", "broken_weights"))
"""Reasons that only the header of the weights shows."""


def plant(folder: Path, count: int) -> dict[str, str]:
    """Make the store of a Hub; returns repository id -> the reason that is due, `usable` for what fits."""
    store, draw = Store(folder), random.Random(0)
    unusable = round(UNUSABLE * count)
    due = [REASONS[number % len(REASONS)] for number in range(unusable)] + ["usable"] * (count - unusable)
    draw.shuffle(due)
    weights = tensors_of_base()
    config = json.dumps({"model_type": "llama", "num_hidden_layers": LAYERS, "hidden_size": WIDTH}).encode()
    for name in (BASE, COPY):
        files = {"config.json": config, "tokenizer.json": b"{}", "model.safetensors": packed(weights)}
        _repository(store, name, files, card="license: apache-2.0\n")
    verdicts = {}
    for number, reason in enumerate(due):
        name = f"{draw.choice(('ann', 'bob', 'cem'))}/lora-{number:05}"
        verdicts[name] = reason
        files, card = adapter(number, reason)
        settings = {"downloads": draw.randrange(10_000)} | ({"gated": "manual"} if reason == "gated" else {})
        _repository(store, name, files, card, settings)
    return verdicts


def adapter(number: int, reason: str) -> tuple[dict[str, bytes], str]:
    """Make one adapter that is unusable for one reason; returns its files and the data of its card."""
    config = CONFIG | {
        "wrong_base": {"base_model_name_or_path": "other/model"},
        "not_lora": {"peft_type": "LOHA"},
        "dora": {"use_dora": True},
        "unsupported_init": {"init_lora_weights": "loftq"},
        "modules_to_save": {"modules_to_save": ["lm_head"]},
        "rank_mismatch": {"r": 2 * RANK},
        "usable": {"base_model_name_or_path": COPY} if number % 20 == 0 else {},
    }.get(reason, {})
    width = 24 if reason == "shape_mismatch" else WIDTH
    tensors = lora(LAYERS + (reason == "depth_mismatch"), width)
    if reason == "vocab_resized":
        tensors |= {"base_model.model.model.embed_tokens.weight": np.zeros((31, WIDTH), np.float16)}
    files = {
        "adapter_config.json": b"{" if reason == "broken_config" else json.dumps(config).encode(),
        "adapter_model.safetensors": packed(tensors, number)[: -8 if reason == "broken_weights" else None],
    }
    if reason == "pickle_only":
        files["adapter_model.bin"] = files.pop("adapter_model.safetensors")
    if reason == "not_an_adapter":
        files.pop("adapter_config.json")
    licence = "license: cc-by-nc-4.0\n" if reason == "licence" else ""
    return files, f"base_model: {BASE}\nlibrary_name: peft\ntags: [lora]\n{licence}"


def lora(layers: int, width: int) -> dict[str, np.ndarray]:
    start = "base_model.model.model.layers.{}.self_attn.{}.lora_{}.weight"
    tensors = {}
    for layer in range(layers):
        for module in ("q_proj", "v_proj"):
            tensors[start.format(layer, module, "A")] = np.zeros((RANK, width), np.float16)
            tensors[start.format(layer, module, "B")] = np.zeros((width, RANK), np.float16)
    return tensors


def tensors_of_base() -> dict[str, np.ndarray]:
    names = [f"model.layers.{n}.self_attn.{m}.weight" for n in range(LAYERS) for m in ("q_proj", "v_proj")]
    weights = {name: np.zeros((WIDTH, WIDTH), np.float16) for name in names}
    return weights | {"model.embed_tokens.weight": np.zeros((28, WIDTH), np.float16)}


def packed(tensors: dict[str, np.ndarray], number: int = 0) -> bytes:
    """Write a safetensors file; its number makes it another one than all others."""
    header: dict[str, object] = {"__metadata__": {"number": str(number)}}
    at = 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": "F16", "shape": tensor.shape, "data_offsets": [at, at + tensor.nbytes]}
        at += tensor.nbytes
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(tensor.tobytes() for tensor in tensors.values())


def _repository(
    store: Store, name: str, files: dict[str, bytes], card: str, settings: dict[str, object] | None = None
) -> None:
    files = files | {"README.md": f"---\n{card}---\n".encode()}
    repository = Repository("model", name, dict(settings or {}))
    tree = {path: store.add_bytes(path, data) for path, data in files.items()}
    repository.add_commit("main", tree, title="plant", author="bench", date="2026-01-01T00:00:00.000Z", parents=[])
    store.create(repository)
