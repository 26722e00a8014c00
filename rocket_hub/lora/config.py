"""Read the configuration of a LoRA adapter, and say how its tensors are to be understood, or why they cannot be.

Six kinds are understood: `lora` (plain), `pissa`, `olora` and `kasa` (their initialisation changes the base weights),
`adalora`, and `mlx` (saved by mlx-lm: transposed, with a scale of its own). Reasons are those of discovery.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft.utils.other import get_pattern_key

from rocket_hub.errors import AdapterError

MAX_CONFIG_BYTES = 1 << 20
MAX_RANK = 4096

# Initialisations that leave the base weights alone, and those whose change of them can be computed again.
PLAIN_INITS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
MUTATING = ("pissa", "olora", "kasa")
# Why the others cannot.
HOPELESS_INITS = {
    "pissa_niter": "takes the base apart by a randomised method, so that even PEFT reloads another base every time",
    "corda": "depends on the data it was made with, which is not saved; PEFT itself cannot reload it",
    "lora_ga": "depends on gradients that are not saved; PEFT reloads it without a word onto the wrong base",
    "loftq": "quantises the base, and what that changes is no LoRA",
}

# Options that do not change what A and B mean, or that are read below.
# fmt: off
HARMLESS = frozenset((
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying",
    "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights", "kasa_config",
    "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha", "lora_bias", "lora_dropout",
    "lora_ga_config", "megatron_core", "modules_to_save", "monteclora_config", "peft_type", "peft_version",
    "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config", "target_modules", "task_type",
    "use_rslora", "velora_config",
))
ADALORA = frozenset((
    "beta1", "beta2", "deltaT", "init_r", "orth_reg_weight", "target_r", "tfinal", "tinit", "total_step",
))
# Options that make it something else when they are switched on. One that is in no table is `unknown_keys`.
UNSUPPORTED = {
    "use_dora": "dora", "trainable_token_indices": "trainable_tokens",
    **dict.fromkeys((
        "alora_invocation_tokens", "alora_invocation_string", "arrow_config", "layer_replication", "megatron_config",
        "target_parameters", "use_bdlora", "use_qalora",
    ), "unsupported_config"),
}
# fmt: on
# PEFT makes a whole configuration of an empty one: `{}` switches these on.
ON_WHEN_EMPTY = ("arrow_config", "use_bdlora")


def read_config(folder: Path) -> dict[str, Any]:
    """Read `adapter_config.json`.

    Raises:
        AdapterError: `broken_config`: it is missing, too large, not JSON, or no object.
    """
    path = folder / "adapter_config.json"
    try:
        with path.open("rb") as file:
            config = json.loads(file.read(MAX_CONFIG_BYTES))
    except (OSError, RecursionError, ValueError) as error:
        raise AdapterError(
            "broken_config",
            f"{path}: the first {MAX_CONFIG_BYTES:,} bytes are no JSON ({str(error)[:100]}); the folder must be "
            "one that PEFT saved",
        ) from error
    if not isinstance(config, dict):
        raise AdapterError("broken_config", f"{path}: expected a JSON object, found {type(config).__name__}")
    return config


def check_config(config: Mapping[str, Any], folder: Path) -> str:
    """Say which kind of adapter a configuration describes.

    Returns:
        `lora`, `pissa`, `olora`, `kasa`, `adalora` or `mlx`.

    Raises:
        AdapterError: It is none of them, or not for text generation; `reason` names the fault.
    """
    if config.get("peft_type") is None and "lora_parameters" in config:
        return _check_mlx(config, folder)
    if config.get("peft_type") not in ("LORA", "ADALORA"):
        found = repr(config.get("peft_type"))[:100]
        raise AdapterError("not_lora", f"{folder}: peft_type is {found}, only LORA and ADALORA can be merged")
    known = HARMLESS | (ADALORA if config["peft_type"] == "ADALORA" else set())
    for option, value in config.items():
        if (value and option not in known) or (value is not None and option in ON_WHEN_EMPTY):
            reason = UNSUPPORTED.get(option, "unknown_keys")
            raise AdapterError(
                reason, f"{folder}: adapter_config.json switches on '{option[:100]}', so it is not a plain LoRA"
            )
    _check_purpose(config, folder)
    _check_numbers(config, folder)
    return _check_init(config, folder)


def _check_purpose(config: Mapping[str, Any], folder: Path) -> None:
    """Refuse adapters of other tasks, and those of a base that was changed first."""
    mapped = config.get("auto_mapping")
    model = mapped.get("base_model_class") if isinstance(mapped, dict) else None
    other = isinstance(model, str) and not model.endswith(("ForCausalLM", "LMHeadModel"))
    if config.get("task_type") != "CAUSAL_LM" and (config.get("task_type") is not None or other):
        found = repr(config.get("task_type") or model)[:100]
        raise AdapterError("wrong_task", f"{folder}: made for {found}, needed is text generation (CAUSAL_LM)")
    if "residual" in str(config.get("base_model_name_or_path")).lower():
        raise AdapterError(
            "wrong_base",
            f"{folder}: made for a base of which something was subtracted first ('residual' in its name); ask for the "
            "adapter converted to a plain LoRA of the original base",
        )


def _check_init(config: Mapping[str, Any], folder: Path) -> str:
    """Return the kind of adapter that PEFT's initialisation makes."""
    init = config.get("init_lora_weights")
    kasa = config.get("kasa_config") is not None
    name = init.lower() if isinstance(init, str) and (init == "pissa" or init.lower() == "olora") else None
    plain = isinstance(init, (bool, str, type(None))) and init in PLAIN_INITS
    if not plain and (name is None or kasa or config["peft_type"] == "ADALORA"):
        why = next((text for key, text in HOPELESS_INITS.items() if str(init).startswith(key)), "is not known here")
        raise AdapterError(
            "unsupported_init",
            f"{folder}: init_lora_weights is {repr(init)[:100]}, which {why}; ask for the adapter "
            "converted to a plain LoRA",
        )
    kind = "kasa" if kasa else name or ("adalora" if config["peft_type"] == "ADALORA" else "lora")
    if kind in MUTATING and config.get("fan_in_fan_out"):
        raise AdapterError(
            "unsupported_init", f"{folder}: {kind} of transposed layers (fan_in_fan_out) is not known here"
        )
    return kind


def _check_numbers(config: Mapping[str, Any], folder: Path) -> None:
    """Refuse ranks and alphas that are no numbers, and patterns that could be slow to match."""
    adalora = config["peft_type"] == "ADALORA"
    rank, alpha = config.get("init_r", 12) if adalora else config.get("r"), config.get("lora_alpha", 8)
    if not _is_rank(rank) or not _is_number(alpha):
        detail = f"rank {rank!r:.100} and lora_alpha {alpha!r:.100}, expected two numbers"
        raise AdapterError("broken_config", f"{folder}: adapter_config.json says {detail}")
    if adalora:
        return  # its rank_pattern says which ranks were pruned; the tensors say it too
    for option, fits in (("rank_pattern", _is_rank), ("alpha_pattern", _is_number)):
        pattern = config.get(option) or {}
        if not isinstance(pattern, dict) or not all(fits(value) for value in pattern.values()):
            raise AdapterError("broken_config", f"{folder}: {option} must map module names to numbers")
        for key in pattern:
            _check_pattern(key, f"{folder}: {option}")


def _check_pattern(key: str, where: str) -> None:
    """Refuse what PEFT would match as a regular expression for ever: a repeated group, or many repeats."""
    repeats = len(re.findall(r"[*+?{]", key))
    if len(key) > 256 or repeats > (0 if "(" in key else 2):
        raise AdapterError("unsupported_config", f"{where} has a pattern that is not simple: '{key[:100]}'")
    try:
        re.compile(rf"(.*\.)?({key})$")
    except (re.error, OverflowError, RecursionError) as error:
        raise AdapterError("broken_config", f"{where}: '{key[:100]}' is no regular expression: {error}") from error


def _check_mlx(config: Mapping[str, Any], folder: Path) -> str:
    """Check the configuration that mlx-lm saves."""
    tuned, options = config.get("fine_tune_type", "lora"), config["lora_parameters"]
    if tuned != "lora":
        reason = "dora" if tuned == "dora" else "not_lora"
        raise AdapterError(reason, f"{folder}: saved by mlx-lm with fine_tune_type {tuned!r:.100}, needed is 'lora'")
    if not isinstance(options, dict) or not _is_rank(options.get("rank")) or not _is_number(options.get("scale")):
        raise AdapterError("broken_config", f"{folder}: saved by mlx-lm, and lora_parameters has no rank and scale")
    return "mlx"


def expected_rank(config: Mapping[str, Any], module: str) -> int:
    """Return the rank that a configuration, which `check_config` has passed, gives to a module."""
    if "lora_parameters" in config and config.get("peft_type") is None:
        return config["lora_parameters"]["rank"]
    return _by_pattern(config.get("rank_pattern"), module, config.get("r"))


def scaling(config: Mapping[str, Any], kind: str, module: str, rank: int) -> float:
    """Return what B A is multiplied by: alpha/r, or alpha/sqrt(r) for rslora.

    Args:
        config: Configuration that `check_config` has passed.
        kind: What it returned.
        module: Name of the module, as in the base model.
        rank: Rank of its tensors.
    """
    if kind == "mlx":
        return config["lora_parameters"]["scale"]
    alpha = config.get("lora_alpha", 8)
    if kind == "adalora":
        # PEFT divides by the rank it started with, whatever is left of it, and by a little more.
        return (alpha if alpha > 0 else rank) / (config.get("init_r", 12) + 1e-5)
    alpha = _by_pattern(config.get("alpha_pattern"), module, alpha)
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _by_pattern(pattern: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """Look a module up as PEFT does."""
    return (pattern or {}).get(get_pattern_key(list(pattern or {}), module), default)


def _is_rank(value: Any) -> bool:
    """Return whether a value can be a rank."""
    return type(value) is int and 0 < value <= MAX_RANK


def _is_number(value: Any) -> bool:
    """Return whether a value is a finite number of sensible size."""
    return type(value) in (int, float) and abs(value) < 1e9
