"""Read a LoRA adapter folder as an expert: what it adds to each module, or why it cannot be used.

The tensors decide: modules and ranks come from their names and shapes, and the scaling is folded into B. Whatever
would not be exactly `ΔW = B A` is refused. Folders come from the Hub and are treated as hostile.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError, safe_open

from rocket_hub.errors import AdapterError

MAX_CONFIG_BYTES = 1 << 20

# Initialisations that leave the base weights alone; the others change the base, so A and B alone are not the adapter.
PLAIN_INITS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")

# Options that do not change what A and B mean, or that are read below. Any other one that is switched on is refused.
# fmt: off
HARMLESS = frozenset((
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying",
    "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights",
    "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha", "lora_dropout", "lora_ga_config",
    "megatron_core", "monteclora_config", "peft_type", "peft_version", "qalora_group_size", "r",
    "rank_pattern", "revision", "runtime_config", "target_modules", "task_type", "use_rslora", "velora_config",
))
# fmt: on
REASONS = {
    "use_dora": "dora",
    "lora_bias": "lora_bias",
    "modules_to_save": "modules_to_save",
    "kasa_config": "unsupported_init",
    "trainable_token_indices": "trainable_tokens",
}

LORA_KEY = re.compile(r"(?P<module>\w+(?:\.\w+)*)\.lora_(?P<side>[AB])(?:\.\w+)?\.weight", re.ASCII)
IGNORED_KEY = re.compile(r"\.lora_(velora_embed|monteclora_sampler)\b")
# In this order: an adapter of the embeddings also saves the embeddings themselves.
FAULTY_KEYS = (
    (re.compile(r"lora_magnitude_vector"), "dora"),
    (re.compile(r"\.lora_[AB](\.\w+)?\.bias$"), "lora_bias"),
    (re.compile(r"lora_embedding_[AB]|(^|\.)(lm_head|embed_out|embed_tokens|wte)\.lora_"), "embedding_lora"),
    (re.compile(r"trainable_tokens|token_adapter"), "trainable_tokens"),
    (
        re.compile(r"(^|\.)(lm_head|embed_out|embed_tokens|wte|word_embeddings)(\.base_layer)?\.weight$"),
        "vocab_resized",
    ),
    (re.compile(r"\.bias$"), "bias_trained"),
    (re.compile(r"modules_to_save|^(?!.*lora_).*\.weight$"), "modules_to_save"),
)


@dataclass(frozen=True)
class Expert:
    """One LoRA adapter, ready to be merged.

    Attributes:
        name: What to call it.
        modules: Module name, as in the base model -> (A [r, in], B [out, r]) in fp32, scaling folded into B.
        config: Its `adapter_config.json`.
    """

    name: str
    modules: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
    config: Mapping[str, Any]


def read_expert(folder: Path | str, name: str | None = None) -> Expert:
    """Read a LoRA adapter folder.

    Args:
        folder: Folder with `adapter_config.json` and `adapter_model.safetensors`; pickled weights are never opened.
        name: What to call the expert; by default the folder's name.

    Returns:
        The expert.

    Raises:
        AdapterError: The adapter is not exactly a plain LoRA of linear modules; `reason` names the fault:
            `broken_config`, `broken_weights`, `no_weights`, `pickle_only`, `not_lora`, `wrong_task`, `dora`,
            `lora_bias`, `unsupported_init`, `unsupported_feature`, `modules_to_save`, `trainable_tokens`,
            `embedding_lora`, `vocab_resized`, `bias_trained`, `unknown_keys`, `missing_partner`, `bad_shape`,
            `nan_weights`, `untrained`.
    """
    folder = Path(folder)
    config = _read_config(folder)
    _check_config(config, folder)
    pairs = _read_pairs(folder)
    modules = {
        module: (a, b * _scaling(config, module, a.shape[0], folder)) for module, (a, b) in sorted(pairs.items())
    }
    if not any(b.any() for _, b in modules.values()):
        raise AdapterError("untrained", f"{folder}: every B is zero, the adapter does nothing; take another one")
    return Expert(name or folder.name, modules, config)


def _read_config(folder: Path) -> dict[str, Any]:
    """Read adapter_config.json."""
    path = folder / "adapter_config.json"
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise AdapterError("broken_config", f"{path}: larger than {MAX_CONFIG_BYTES} bytes, no LoRA needs that")
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, RecursionError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise AdapterError(
            "broken_config", f"{path}: cannot be read as JSON ({error}); the folder must be one that PEFT saved"
        ) from error
    if not isinstance(config, dict):
        raise AdapterError("broken_config", f"{path}: expected a JSON object, found {type(config).__name__}")
    return config


def _check_config(config: Mapping[str, Any], folder: Path) -> None:
    """Refuse everything that is not a plain LoRA for text generation."""
    if config.get("peft_type") != "LORA":
        raise AdapterError(
            "not_lora", f"{folder}: peft_type is {config.get('peft_type')!r}, only LORA adapters can be merged"
        )
    if config.get("task_type") not in (None, "CAUSAL_LM"):
        raise AdapterError("wrong_task", f"{folder}: task_type is {config['task_type']!r}, needed is CAUSAL_LM")
    if config.get("init_lora_weights") not in PLAIN_INITS:
        raise AdapterError(
            "unsupported_init",
            f"{folder}: init_lora_weights is {config['init_lora_weights']!r}, which changes the base weights; save it "
            "again with `path_initial_model_for_weight_conversion` to make it a plain LoRA",
        )
    for option, value in config.items():
        if option not in HARMLESS and value:
            reason = REASONS.get(option, "unsupported_feature")
            raise AdapterError(reason, f"{folder}: adapter_config.json switches on '{option}', not a plain LoRA")


def _scaling(config: Mapping[str, Any], module: str, rank: int, folder: Path) -> float:
    """Return alpha/r, or alpha/sqrt(r) for rslora, for one module."""
    pattern = config.get("alpha_pattern") or {}
    if not isinstance(pattern, dict) or any(len(re.findall(r"[*+?{|]", key)) > 2 for key in pattern):
        # PEFT matches these keys as regular expressions, and a crafted one can take for ever.
        raise AdapterError("broken_config", f"{folder}: alpha_pattern must map simple module names to numbers")
    try:
        alpha = pattern.get(get_pattern_key(list(pattern), module), config.get("lora_alpha"))
    except re.error as error:
        raise AdapterError("broken_config", f"{folder}: alpha_pattern is no regular expression: {error}") from error
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
        raise AdapterError("broken_config", f"{folder}: lora_alpha of '{module}' is {alpha!r}, expected a number")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _read_pairs(folder: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Read A and B of every module in fp32, unscaled."""
    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        raise AdapterError(
            "pickle_only" if pickled else "no_weights",
            f"{folder}: there is no adapter_model.safetensors"
            + (
                ", and pickled weights can run code, so they are never opened; ask for a safetensors copy"
                if pickled
                else ""
            ),
        )
    try:
        with safe_open(path, framework="pt") as file:
            names = _name_tensors(list(file.keys()), folder)
            tensors = {where: _check_tensor(file, key, folder) for where, key in names.items()}
    except SafetensorError as error:
        raise AdapterError("broken_weights", f"{path}: not a safetensors file ({error}); download it again") from error
    return {module: _pair(tensors, module, folder) for module, _ in tensors}


def _name_tensors(keys: list[str], folder: Path) -> dict[tuple[str, str], str]:
    """Map (module, "A" or "B") to tensor keys, whichever way the adapter was saved."""
    keys = [key for key in keys if not IGNORED_KEY.search(key)]
    for pattern, reason in FAULTY_KEYS:
        for key in keys:
            if pattern.search(key):
                raise AdapterError(
                    reason, f"{folder}: holds the tensor '{key[:200]}', not a plain LoRA of linear modules"
                )
    names: dict[tuple[str, str], str] = {}
    for key in keys:
        found = LORA_KEY.fullmatch(_strip_wrappers(key)) if len(key) <= 256 else None
        where = (found["module"], found["side"]) if found else None
        if where is None or where in names:
            raise AdapterError(
                "unknown_keys", f"{folder}: the tensor '{key[:200]}' is not of a plain LoRA, or there twice"
            )
        names[where] = key
    if not names:
        raise AdapterError("no_weights", f"{folder}: adapter_model.safetensors holds no LoRA tensors")
    return names


def _strip_wrappers(key: str) -> str:
    """Remove what PEFT, DDP, FSDP and torch.compile put around a module's name in the base model."""
    key = key.replace("_orig_mod.", "").replace("_fsdp_wrapped_module.", "").removeprefix("module.")
    while key.startswith("base_model.model."):
        key = key.removeprefix("base_model.model.")
    return key


def _check_tensor(file: Any, key: str, folder: Path) -> torch.Tensor:
    """Load one tensor in fp32, after a look at its shape."""
    shape = file.get_slice(key).get_shape()
    if len(shape) != 2 or 0 in shape:
        raise AdapterError(
            "bad_shape",
            f"{folder}: '{key}' has shape {shape}, expected two sizes above 0; weights saved from sharded training "
            "(ZeRO-3, FSDP) must be gathered first",
        )
    tensor: torch.Tensor = file.get_tensor(key)
    if not tensor.is_floating_point() or not torch.isfinite(tensor.float()).all():
        raise AdapterError("nan_weights", f"{folder}: '{key}' is not all finite numbers; the training diverged")
    return tensor.float()


def _pair(
    tensors: Mapping[tuple[str, str], torch.Tensor], module: str, folder: Path
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return A [r, in] and B [out, r] of one module."""
    a, b = tensors.get((module, "A")), tensors.get((module, "B"))
    if a is None or b is None:
        missing = "A" if a is None else "B"
        raise AdapterError("missing_partner", f"{folder}: '{module}' has no lora_{missing}; the file is incomplete")
    if a.shape[0] != b.shape[1]:
        raise AdapterError(
            "bad_shape", f"{folder}: '{module}' has A {list(a.shape)} and B {list(b.shape)}, their ranks differ"
        )
    return a, b
