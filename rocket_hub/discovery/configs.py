"""The verdict on an adapter from its configuration alone.

Pure functions over hostile data: whatever an adapter holds, they return, or raise AdapterError with a reason. Accepted
is what `rocket_hub.moe` can write exactly as a plain LoRA, and the reasons are its own; a test holds the two together.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from rocket_hub.discovery.bases import BaseShapes
from rocket_hub.discovery.listing import HUB_ID
from rocket_hub.errors import AdapterError

MAX_CONFIG_BYTES = 1 << 20
MAX_RANK = 4096

# Initialisations that leave the base weights alone; after those of MUTATING the change can be computed again.
PLAIN_INITS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
MUTATING = ("pissa", "olora", "kasa")
FOLDED = "folded_with_base"
"""Flag of an adapter whose change of the base weights has to be folded into it first."""

# Options of PEFT that do not change what A and B mean, or that are read here or in the header.
# fmt: off
HARMLESS = frozenset((
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying",
    "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights", "kasa_config",
    "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha", "lora_dropout", "lora_ga_config",
    "megatron_core", "monteclora_config", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern",
    "revision", "runtime_config", "target_modules", "task_type", "use_rslora", "velora_config",
))
ADALORA = frozenset((
    "beta1", "beta2", "deltaT", "init_r", "orth_reg_weight", "target_r", "tfinal", "tinit", "total_step",
))
# Options that make it something else when they are switched on. One that is in no table is `unknown_keys`.
UNSUPPORTED = {
    "modules_to_save": "modules_to_save", "use_dora": "dora", "lora_bias": "lora_bias",
    "trainable_token_indices": "trainable_tokens",
    **dict.fromkeys((
        "alora_invocation_tokens", "alora_invocation_string", "arrow_config", "layer_replication", "megatron_config",
        "target_parameters", "use_bdlora", "use_qalora",
    ), "unsupported_config"),
}
# fmt: on
# PEFT makes a whole configuration of an empty one: `{}` switches these on.
ON_WHEN_EMPTY = ("arrow_config", "use_bdlora")


def parse_config(data: bytes, size: int | None = None) -> dict[str, Any]:
    """Read `adapter_config.json`.

    Args:
        data: Its bytes, or the first of them.
        size: Bytes of the whole file; none = that of `data`.

    Raises:
        AdapterError: `broken_config`: too large, not JSON, or not an object.
    """
    size = len(data) if size is None else size
    if size > MAX_CONFIG_BYTES:
        raise AdapterError("broken_config", f"adapter_config.json has {size:,} bytes, more than {MAX_CONFIG_BYTES:,}")
    try:
        config = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise AdapterError("broken_config", f"adapter_config.json is not JSON: {str(error)[:100]}") from error
    if not isinstance(config, dict):
        raise AdapterError("broken_config", f"adapter_config.json is no object but {type(config).__name__}")
    return config


def check_config(config: Mapping[str, Any], base: BaseShapes) -> tuple[str, ...]:
    """Judge an adapter by its configuration.

    Args:
        config: What `adapter_config.json` holds.
        base: The base model, with what is known of copies of it.

    Returns:
        Flags: `base_unverified` if the configuration does not name a base model on the Hub, `mirror_base` if it names
        a copy that was proven to be one, `quantized_base` if that copy is quantised, `folded_with_base` if PEFT changes
        the base weights when it loads the adapter.

    Raises:
        AdapterError: It cannot be written as a plain LoRA of this base model; `reason` names the fault.
    """
    kind = check_kind(config)
    flags = _check_base(config.get("base_model_name_or_path"), base)
    return (*flags, FOLDED) if kind in MUTATING else flags


def check_kind(config: Mapping[str, Any]) -> str:
    """Judge a configuration without regard to the base model.

    Returns:
        `lora`, `pissa`, `olora`, `kasa` or `adalora`.

    Raises:
        AdapterError: It is none of them, or not for text generation; `reason` names the fault.
    """
    if config.get("peft_type") not in ("LORA", "ADALORA"):
        raise AdapterError("not_lora", f"peft_type is {short(config.get('peft_type'))}, not LORA or ADALORA")
    known = HARMLESS | (ADALORA if config["peft_type"] == "ADALORA" else set())
    for option, value in config.items():
        if (value and option not in known) or (value is not None and option in ON_WHEN_EMPTY):
            reason = UNSUPPORTED.get(option, "unknown_keys")
            raise AdapterError(reason, f"adapter_config.json sets {short(option)} to {short(value)}")
    _check_purpose(config)
    _check_numbers(config)
    return _check_init(config)


def claimed_base(config: Mapping[str, Any]) -> str:
    """Return the id of the base model that a configuration names; empty if it names none on the Hub."""
    name = config.get("base_model_name_or_path")
    return name if isinstance(name, str) and HUB_ID.fullmatch(name) else ""


def _check_base(name: Any, base: BaseShapes) -> tuple[str, ...]:
    """Compare the base model that an adapter names with the one at hand; returns flags."""
    if name is None or name == "" or (isinstance(name, str) and not HUB_ID.fullmatch(name)):
        return ("base_unverified",)
    if isinstance(name, str) and name.lower() == base.repo_id.lower():
        return ()
    if isinstance(name, str) and name.lower() in base.copies:
        return base.copies[name.lower()]
    why = base.others.get(name.lower(), "") if isinstance(name, str) else ""
    raise AdapterError("wrong_base", f"made for {short(name)}, not for {base.repo_id}" + (f" ({why})" if why else ""))


def _check_purpose(config: Mapping[str, Any]) -> None:
    """Refuse adapters of other tasks, and those of a base that was changed first."""
    task, mapped = config.get("task_type"), config.get("auto_mapping")
    model = mapped.get("base_model_class") if isinstance(mapped, dict) else None
    other = isinstance(model, str) and not model.endswith(("ForCausalLM", "LMHeadModel"))
    if task != "CAUSAL_LM" and (task is not None or other):
        raise AdapterError("wrong_task", f"made for {short(task or model)}, not for CAUSAL_LM")
    name = config.get("base_model_name_or_path")
    if isinstance(name, str) and "residual" in name.lower():
        raise AdapterError("wrong_base", "made for a base of which something was subtracted first ('residual')")


def _check_init(config: Mapping[str, Any]) -> str:
    """Return the kind of adapter that PEFT's initialisation makes."""
    init, adalora = config.get("init_lora_weights"), config["peft_type"] == "ADALORA"
    kasa = config.get("kasa_config") is not None
    name = init.lower() if isinstance(init, str) and (init == "pissa" or init.lower() == "olora") else None
    plain = isinstance(init, (bool, str, type(None))) and init in PLAIN_INITS
    if not plain and (name is None or kasa or adalora):
        raise AdapterError("unsupported_init", f"init_lora_weights is {short(init)}, which is not only B A")
    kind = "kasa" if kasa else name or ("adalora" if adalora else "lora")
    if kind in MUTATING and config.get("fan_in_fan_out"):
        raise AdapterError("unsupported_init", f"{kind} of transposed layers (fan_in_fan_out)")
    return kind


def _check_numbers(config: Mapping[str, Any]) -> None:
    """Refuse ranks and alphas that are no numbers, and patterns that could be slow to match."""
    adalora = config["peft_type"] == "ADALORA"
    rank, alpha = config.get("init_r", 12) if adalora else config.get("r"), config.get("lora_alpha", 8)
    if not _is_rank(rank) or not is_number(alpha):
        raise AdapterError("broken_config", f"rank {short(rank)} and lora_alpha {short(alpha)}, not two numbers")
    if adalora:
        return  # its rank_pattern says which ranks were pruned; the tensors say it too
    for option, fits in (("rank_pattern", _is_rank), ("alpha_pattern", is_number)):
        pattern = config.get(option) or {}
        if not isinstance(pattern, dict) or not all(fits(value) for value in pattern.values()):
            raise AdapterError("broken_config", f"{option} does not map module names to numbers: {short(pattern)}")
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


def by_pattern(pattern: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """Look a module up in a pattern, which `check_kind` has passed, as PEFT does."""
    found = (key for key in pattern or {} if re.match(rf"(.*\.)?({key})$", module))
    return (pattern or {}).get(next(found, module), default)


def _is_rank(value: Any) -> bool:
    """Return whether a value can be a rank."""
    return type(value) is int and 0 < value <= MAX_RANK


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number of sensible size."""
    return type(value) in (int, float) and abs(value) < 1e9 and math.isfinite(value)


def short(value: Any) -> str:
    """Quote a value of any type and size."""
    text = repr(value) if isinstance(value, (str, int, float, bool, type(None))) else type(value).__name__
    return text if len(text) <= 100 else f"{text[:97]}..."
