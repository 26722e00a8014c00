"""Which kind of LoRA an `adapter_config.json` describes, or why it cannot be used.

Six kinds are understood: `lora` (plain), `pissa`, `olora` and `kasa` (their initialisation changes the base weights),
`adalora`, and `mlx` (saved by mlx-lm: transposed, with a scale of its own). Configurations come from the Hub and are
treated as hostile: every function returns, or raises AdapterError with a reason.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rocket_hub.errors import AdapterError

CONFIG = "adapter_config.json"
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

# Options that do not change what A and B mean, or that are read below or in the tensors.
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


def parse_config(data: bytes, size: int | None = None) -> dict[str, Any]:
    """Read the bytes of an `adapter_config.json`.

    Args:
        data: Its bytes, or the first of them.
        size: Bytes of the whole file; none = that of `data`.

    Raises:
        AdapterError: `broken_config`: too large, not JSON, or not an object.
    """
    size = len(data) if size is None else size
    if size > MAX_CONFIG_BYTES:
        raise AdapterError("broken_config", f"{CONFIG} has {size:,} bytes, more than {MAX_CONFIG_BYTES:,}")
    try:
        config = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise AdapterError("broken_config", f"{CONFIG} is not JSON: {str(error)[:100]}") from error
    if not isinstance(config, dict):
        raise AdapterError("broken_config", f"{CONFIG} is no object but {type(config).__name__}")
    return config


def read_config(folder: Path) -> dict[str, Any]:
    """Read the `adapter_config.json` of a folder.

    Raises:
        AdapterError: `broken_config`: it is missing, too large, not JSON, or no object.
    """
    try:
        with (folder / CONFIG).open("rb") as file:
            return parse_config(file.read(MAX_CONFIG_BYTES + 1))
    except OSError as error:
        found = f"{CONFIG} cannot be read ({error.strerror}); the folder must be one that PEFT saved"
        raise AdapterError("broken_config", f"{folder}: {found}") from error
    except AdapterError as error:
        raise AdapterError(error.reason, f"{folder}: {error}") from error


def check_config(config: Mapping[str, Any]) -> str:
    """Return which kind of adapter a configuration describes.

    Returns:
        `lora`, `pissa`, `olora`, `kasa`, `adalora` or `mlx`.

    Raises:
        AdapterError: It is none of them, or not for text generation; `reason` names the fault.
    """
    if config.get("peft_type") is None and "lora_parameters" in config:
        return _check_mlx(config)
    if config.get("peft_type") not in ("LORA", "ADALORA"):
        found = short(config.get("peft_type"))
        raise AdapterError("not_lora", f"peft_type is {found}, only LORA and ADALORA can be merged")
    known = HARMLESS | (ADALORA if config["peft_type"] == "ADALORA" else set())
    for option, value in config.items():
        if (value and option not in known) or (value is not None and option in ON_WHEN_EMPTY):
            reason, found = UNSUPPORTED.get(option, "unknown_keys"), f"{CONFIG} sets {short(option)} to {short(value)}"
            raise AdapterError(reason, f"{found}, so it is not a plain LoRA")
    _check_purpose(config)
    _check_numbers(config)
    return _check_init(config)


def changes_base(config: Mapping[str, Any]) -> bool:
    """Return whether PEFT changes the base weights when it loads an adapter of this configuration."""
    init = str(config.get("init_lora_weights")).lower()
    return config.get("kasa_config") is not None or init in MUTATING


def _check_purpose(config: Mapping[str, Any]) -> None:
    """Refuse adapters of other tasks, and those of a base that was changed first."""
    task, mapped = config.get("task_type"), config.get("auto_mapping")
    model = mapped.get("base_model_class") if isinstance(mapped, dict) else None
    other = isinstance(model, str) and not model.endswith(("ForCausalLM", "LMHeadModel"))
    if task != "CAUSAL_LM" and (task is not None or other):
        raise AdapterError("wrong_task", f"made for {short(task or model)}, needed is text generation (CAUSAL_LM)")
    if "residual" in str(config.get("base_model_name_or_path")).lower():
        raise AdapterError(
            "wrong_base",
            "made for a base of which something was subtracted first ('residual' in its name); ask for the "
            "adapter converted to a plain LoRA of the original base",
        )


def _check_init(config: Mapping[str, Any]) -> str:
    """Return the kind of adapter that PEFT's initialisation makes."""
    init, adalora = config.get("init_lora_weights"), config["peft_type"] == "ADALORA"
    kasa = config.get("kasa_config") is not None
    name = init.lower() if isinstance(init, str) and (init == "pissa" or init.lower() == "olora") else None
    plain = isinstance(init, (bool, str, type(None))) and init in PLAIN_INITS
    if not plain and (name is None or kasa or adalora):
        why = next((text for key, text in HOPELESS_INITS.items() if str(init).startswith(key)), "is not known here")
        raise AdapterError(
            "unsupported_init",
            f"init_lora_weights is {short(init)}, which {why}; ask for the adapter converted to a plain LoRA",
        )
    kind = "kasa" if kasa else name or ("adalora" if adalora else "lora")
    if kind in MUTATING and config.get("fan_in_fan_out"):
        raise AdapterError("unsupported_init", f"{kind} of transposed layers (fan_in_fan_out) is not known here")
    return kind


def _check_numbers(config: Mapping[str, Any]) -> None:
    """Refuse ranks and alphas that are no numbers, and patterns that could be slow to match."""
    adalora = config["peft_type"] == "ADALORA"
    rank, alpha = config.get("init_r", 12) if adalora else config.get("r"), config.get("lora_alpha", 8)
    if not _is_rank(rank) or not _is_number(alpha):
        found = f"{CONFIG} says rank {short(rank)} and lora_alpha {short(alpha)}"
        raise AdapterError("broken_config", f"{found}, expected two numbers")
    if adalora:
        return  # its rank_pattern says which ranks were pruned; the tensors say it too
    for option, fits in (("rank_pattern", _is_rank), ("alpha_pattern", _is_number)):
        pattern = config.get(option) or {}
        if not isinstance(pattern, dict) or not all(fits(value) for value in pattern.values()):
            raise AdapterError("broken_config", f"{option} must map module names to numbers")
        for key in pattern:
            _check_pattern(option, key)


def _check_pattern(option: str, key: str) -> None:
    """Refuse what PEFT would match as a regular expression for ever: a repeated group, or many repeats."""
    repeats = len(re.findall(r"[*+?{]", key))
    nested = re.search(r"\[.*(\[|--|&&|~~|\|\|)", key)  # sets that Python warns about: they will mean something else
    if len(key) > 256 or repeats > (0 if "(" in key else 2) or nested:
        raise AdapterError("unsupported_config", f"{option} has a pattern that is not simple: {short(key)}")
    try:
        re.compile(rf"(.*\.)?({key})$")
    except (re.error, OverflowError, RecursionError) as error:
        raise AdapterError("broken_config", f"{option}: {short(key)} is no regular expression: {error}") from error


def _check_mlx(config: Mapping[str, Any]) -> str:
    """Check the configuration that mlx-lm saves."""
    tuned, options = config.get("fine_tune_type", "lora"), config["lora_parameters"]
    if tuned != "lora":
        reason = "dora" if tuned == "dora" else "not_lora"
        raise AdapterError(reason, f"saved by mlx-lm with fine_tune_type {short(tuned)}, needed is 'lora'")
    if not isinstance(options, dict) or not _is_rank(options.get("rank")) or not _is_number(options.get("scale")):
        raise AdapterError("broken_config", "saved by mlx-lm, and lora_parameters has no rank and scale")
    return "mlx"


def expected_rank(config: Mapping[str, Any], kind: str, module: str) -> int:
    """Return the rank that a configuration, of the kind of `check_config`, gives to a module of the base model.

    For `adalora` it is the largest that the module may have.
    """
    if kind == "mlx":
        return config["lora_parameters"]["rank"]
    return config.get("init_r", 12) if kind == "adalora" else _by_pattern(config, "rank_pattern", module, config["r"])


def scaling(config: Mapping[str, Any], kind: str, module: str, rank: int) -> float:
    """Return what B A of a module, of tensors of a rank, is multiplied by: alpha/r, or alpha/sqrt(r) for rslora."""
    if kind == "mlx":
        return config["lora_parameters"]["scale"]
    alpha = config.get("lora_alpha", 8)
    if kind == "adalora":
        # PEFT divides by the rank it started with, whatever is left of it, and by a little more.
        return (alpha if alpha > 0 else rank) / (config.get("init_r", 12) + 1e-5)
    alpha = _by_pattern(config, "alpha_pattern", module, alpha)
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _by_pattern(config: Mapping[str, Any], option: str, module: str, default: Any) -> Any:
    """Look a module up in a pattern as PEFT does (`get_pattern_key`): the first that matches its end decides."""
    pattern = config.get(option) or {}
    return pattern.get(next((key for key in pattern if re.match(rf"(.*\.)?({key})$", module)), module), default)


def _is_rank(value: Any) -> bool:
    return type(value) is int and 0 < value <= MAX_RANK


def _is_number(value: Any) -> bool:
    """Return whether a value is a finite number of sensible size."""
    return type(value) in (int, float) and abs(value) < 1e9


def short(value: Any) -> str:
    """Quote a value of any type and size."""
    text = repr(value) if isinstance(value, (str, int, float, bool, type(None))) else type(value).__name__
    return text if len(text) <= 100 else f"{text[:97]}..."
