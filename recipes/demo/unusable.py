"""Adapters that must be rejected, each for another reason, with random weights of rank 2."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from models import BASE, half_file
from peft import LoHaConfig, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM


def write_all(root: Path, config: LlamaConfig) -> dict[str, str]:
    """Write the unusable adapters below `root`.

    Args:
        root: Folder that gets one folder per adapter.
        config: The base model's configuration.

    Returns:
        Name of each adapter with the reason it must be rejected for.
    """
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    dora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False, use_dora=True)
    loha = LoHaConfig(r=2, target_modules=["q_proj"], init_weights=False)
    other = LlamaConfig(**{**config.to_dict(), "hidden_size": 64, "intermediate_size": 128})
    deep = LlamaConfig(**{**config.to_dict(), "num_hidden_layers": config.num_hidden_layers + 2})
    _adapter(root / "for-another-base", other, lora, base="rocket-demo/other-llama")
    _adapter(root / "six-layers", deep, lora)
    _adapter(root / "dora", config, dora)
    _adapter(root / "loha", config, loha)
    _adapter(root / "members-only-lora", config, lora)
    pickled = _adapter(root / "pickled", config, lora)
    (pickled / "adapter_model.safetensors").unlink()
    (pickled / "adapter_model.bin").write_bytes(b"not a pickle: nothing may ever read this file")
    resized = _adapter(root / "resized-vocabulary", config, lora)
    extra = torch.zeros(config.vocab_size + 4, config.hidden_size, dtype=torch.float16)
    _edit(resized, lambda tensors: tensors | {"base_model.model.model.embed_tokens.weight": extra})
    _edit(_adapter(root / "not-a-number", config, lora), lambda tensors: {k: v * torch.nan for k, v in tensors.items()})
    broken = _adapter(root / "broken-config", config, lora) / "adapter_config.json"
    broken.write_text(broken.read_text()[:200])
    return {
        "for-another-base": "wrong_base",
        "six-layers": "depth_mismatch",
        "dora": "dora",
        "loha": "not_lora",
        "members-only-lora": "gated",
        "pickled": "pickle_only",
        "resized-vocabulary": "vocab_resized",
        "not-a-number": "nan_weights",
        "broken-config": "broken_config",
    }


def _adapter(folder: Path, config: LlamaConfig, peft_config: LoraConfig | LoHaConfig, base: str = BASE) -> Path:
    """Save one adapter with random weights."""
    torch.manual_seed(0)
    model = get_peft_model(LlamaForCausalLM(config), peft_config)
    model.save_pretrained(folder)
    half_file(folder / "adapter_model.safetensors")
    name_base(folder, base)
    return folder


def name_base(folder: Path, base: str = BASE) -> None:
    """Write the base's repository id into an adapter's config, where PEFT has left a path or nothing."""
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"base_model_name_or_path": base}, indent=2, sort_keys=True) + "\n")


def _edit(folder: Path, change) -> None:
    path = folder / "adapter_model.safetensors"
    save_file(change(load_file(path)), path, {"format": "pt"})
