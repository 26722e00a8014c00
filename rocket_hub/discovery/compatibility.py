"""The verdict on an adapter from its configuration and the header of its weights, before any weight is downloaded.

Pure functions over hostile data: whatever an adapter holds, they return, or raise AdapterError with a reason. What is
refused is what would not be exactly a plain LoRA of this base model's linear layers.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rocket_hub.discovery.bases import LAYER, BaseShapes
from rocket_hub.discovery.headers import Tensor
from rocket_hub.errors import AdapterError

MAX_CONFIG_BYTES = 1 << 20
MAX_RANK = 4096

# Initialisations that leave the base weights alone; after the others A and B are not the whole change.
PLAIN_INITS = (True, False, None, "gaussian", "orthogonal", "eva", "mica")

# Options of PEFT's LoraConfig that do not change what A and B mean, or that the header answers.
# fmt: off
HARMLESS = frozenset((
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying",
    "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern",
    "layers_to_transform", "loftq_config", "lora_alpha", "lora_dropout", "lora_ga_config", "megatron_core",
    "monteclora_config", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern", "revision",
    "runtime_config", "target_modules", "task_type", "use_rslora", "velora_config",
))
# Options that make it something else when they are switched on. One that is in neither table is `unknown_keys`.
UNSUPPORTED = {
    "modules_to_save": "modules_to_save", "use_dora": "dora", "lora_bias": "lora_bias",
    "kasa_config": "unsupported_init", "trainable_token_indices": "trainable_tokens",
    **dict.fromkeys((
        "alora_invocation_tokens", "alora_invocation_string", "arrow_config", "layer_replication", "megatron_config",
        "target_parameters", "use_bdlora", "use_qalora",
    ), "unsupported_config"),
}
# fmt: on

LORA_KEY = re.compile(r"(?P<module>\w+(?:\.\w+)*)\.lora_(?P<side>[AB])(?:\.\w+)?\.weight", re.ASCII)
IGNORED_KEY = re.compile(r"\.lora_(velora_embed|monteclora_sampler)\b")
# In this order: an adapter of the embeddings also saves the embeddings themselves.
_VOCABULARY = r"(^|\.)(lm_head|embed_out|embed_tokens|wte|word_embeddings)"
FAULTY_KEYS = (
    (re.compile(r"lora_magnitude_vector"), "dora"),
    (re.compile(r"\.lora_[AB](\.\w+)?\.bias$"), "lora_bias"),
    (re.compile(rf"lora_embedding_[AB]|{_VOCABULARY}\.lora_"), "embedding_lora"),
    (re.compile(r"trainable_tokens|token_adapter"), "trainable_tokens"),
    (re.compile(rf"{_VOCABULARY}(\.\w+)*\.weight$"), "vocab_resized"),
    (re.compile(r"\.bias$"), "bias_trained"),
    (re.compile(r"modules_to_save|^(?!.*lora_).*\.weight$"), "modules_to_save"),
)
WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod|_fsdp_wrapped_module|base_model\.model)\.)+")
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+", re.ASCII)
QUANTIZED = re.compile(r"(-unsloth)?-(bnb-4bit|bnb-8bit)$")
FLOATS = ("F32", "F16", "BF16", "F64")


@dataclass(frozen=True)
class LoraFacts:
    """What the header says about an adapter that fits.

    Attributes:
        rank: The largest rank of any module.
        target_modules: Last names of the adapted modules, sorted.
    """

    rank: int
    target_modules: tuple[str, ...]


def parse_config(data: bytes) -> dict[str, Any]:
    """Read `adapter_config.json`.

    Raises:
        AdapterError: `broken_config`: too large, not JSON, or not an object.
    """
    if len(data) > MAX_CONFIG_BYTES:
        raise AdapterError("broken_config", f"adapter_config.json has more than {MAX_CONFIG_BYTES:,} bytes")
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
        base: The base model.

    Returns:
        Flags: `base_unverified` if the configuration does not name a base model on the Hub, `mirror_base` if it names
        a known copy, `quantized_base` if that copy is quantised.

    Raises:
        AdapterError: It is not a plain LoRA of this base model; `reason` names the fault.
    """
    if config.get("peft_type") != "LORA":
        raise AdapterError("not_lora", f"peft_type is {_short(config.get('peft_type'))}, not LORA")
    if config.get("task_type") not in (None, "CAUSAL_LM"):
        raise AdapterError("wrong_task", f"task_type is {_short(config.get('task_type'))}, not CAUSAL_LM")
    flags = _check_base(config.get("base_model_name_or_path"), base)
    init = config.get("init_lora_weights")
    if not isinstance(init, (bool, str, type(None))) or init not in PLAIN_INITS:
        raise AdapterError("unsupported_init", f"init_lora_weights is {_short(init)}, which changes the base weights")
    for option, value in config.items():
        if value and option not in HARMLESS:
            reason = UNSUPPORTED.get(option, "unknown_keys")
            raise AdapterError(reason, f"adapter_config.json sets {_short(option)} to {_short(value)}")
    _check_numbers(config)
    return flags


def _check_base(name: Any, base: BaseShapes) -> tuple[str, ...]:
    """Compare the base model that an adapter names with the one at hand; returns flags."""
    if name is None or name == "" or (isinstance(name, str) and not HUB_ID.fullmatch(name)):
        return ("base_unverified",)
    if isinstance(name, str):
        if name.lower() == base.repo_id.lower():
            return ()
        owner, _, model = name.lower().partition("/")
        plain = QUANTIZED.sub("", model)
        own, _, own_model = base.repo_id.lower().partition("/")
        if owner in ("unsloth", own) and plain == own_model:
            return ("mirror_base", "quantized_base") if plain != model else ("mirror_base",)
    raise AdapterError("wrong_base", f"made for {_short(name)}, not for {base.repo_id}")


def _check_numbers(config: Mapping[str, Any]) -> None:
    """Refuse ranks and alphas that are no numbers, and patterns that could be slow to match."""
    if not _is_rank(config.get("r")):
        raise AdapterError("broken_config", f"r is {_short(config.get('r'))}, not a rank")
    if not _is_number(config.get("lora_alpha", 8)):
        raise AdapterError("broken_config", f"lora_alpha is {_short(config.get('lora_alpha'))}, not a number")
    for option, fits in (("rank_pattern", _is_rank), ("alpha_pattern", _is_number)):
        pattern = config.get(option) or {}
        if not isinstance(pattern, dict) or not all(fits(value) for value in pattern.values()):
            raise AdapterError("broken_config", f"{option} does not map module names to numbers: {_short(pattern)}")
        # PEFT matches these keys as regular expressions; a repeated group can take for ever.
        for key in pattern:
            repeats = len(re.findall(r"[*+?{]", key))
            if len(key) > 256 or repeats > (0 if "(" in key else 2):
                raise AdapterError("unsupported_config", f"{option} has a pattern that is not simple: {_short(key)}")


def _is_rank(value: Any) -> bool:
    """Return whether a value can be a rank."""
    return type(value) is int and 0 < value <= MAX_RANK


def _is_number(value: Any) -> bool:
    """Return whether a value is a finite number of sensible size."""
    return type(value) in (int, float) and abs(value) < 1e9 and math.isfinite(value)


def check_header(
    header: Mapping[str, Tensor], config: Mapping[str, Any], base: BaseShapes, *, verified: bool = True
) -> LoraFacts:
    """Judge an adapter by the names and shapes of its tensors.

    Args:
        header: Tensor name -> type and shape.
        config: Its configuration, which `check_config` has passed.
        base: The base model.
        verified: Whether the configuration names this base model; if not, an adapter of fewer layers is refused too.

    Returns:
        Rank and target modules.

    Raises:
        AdapterError: A tensor does not fit, or is not of a plain LoRA; `reason` names the fault.
    """
    sides = _sort_tensors(header)
    allowed = {config["r"], *(config.get("rank_pattern") or {}).values()}
    ranks, layers = [], {-1}
    for module in dict.fromkeys(module for module, _ in sides):
        layers |= {int(number) for number in LAYER.findall(f"{module}.")}
        ranks.append(_check_module(module, sides.get((module, "A")), sides.get((module, "B")), base))
        if ranks[-1] not in allowed:
            raise AdapterError(
                "rank_mismatch", f"{module} has rank {ranks[-1]}, adapter_config.json says {config['r']}"
            )
    if not verified and not config.get("layers_to_transform") and max(layers) + 1 < base.num_layers:
        detail = f"adapts {max(layers) + 1} of {base.num_layers} layers and does not say for which base model"
        raise AdapterError("depth_mismatch", detail)
    return LoraFacts(max(ranks), tuple(sorted({module.rpartition(".")[2] for module, _ in sides})))


def _sort_tensors(header: Mapping[str, Tensor]) -> dict[tuple[str, str], Tensor]:
    """Sort tensors by (module in the base model, "A" or "B"), whichever way the adapter was saved."""
    names = [name for name in header if not IGNORED_KEY.search(name)]
    if too_long := next((name for name in names if len(name) > 256), None):
        raise AdapterError("unknown_keys", f"a tensor has a name of {len(too_long)} characters")
    for pattern, reason in FAULTY_KEYS:
        for name in names:
            if pattern.search(name):
                raise AdapterError(reason, f"holds the tensor {_short(name)}, which no plain LoRA has")
    sides: dict[tuple[str, str], Tensor] = {}
    for name in names:
        found = LORA_KEY.fullmatch(
            WRAPPERS.sub("", name).replace("_orig_mod.", "").replace("_fsdp_wrapped_module.", "")
        )
        if found is None or (found["module"], found["side"]) in sides:
            raise AdapterError("unknown_keys", f"the tensor {_short(name)} is not of a plain LoRA, or there twice")
        sides[found["module"], found["side"]] = header[name]
    if not sides:
        raise AdapterError("no_weights", "adapter_model.safetensors holds no LoRA tensors")
    return sides


def _check_module(module: str, a: Tensor | None, b: Tensor | None, base: BaseShapes) -> int:
    """Compare A [r, in] and B [out, r] with the base model's module; returns r."""
    if a is None or b is None:
        raise AdapterError("missing_partner", f"{module} has no lora_{'A' if a is None else 'B'}")
    if a.dtype not in FLOATS or b.dtype not in FLOATS:
        raise AdapterError("broken_weights", f"{module} has the types {a.dtype} and {b.dtype}, not floats")
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1] or 0 in a.shape + b.shape:
        detail = f"{module} has A {list(a.shape)} and B {list(b.shape)}, not [r, in] and [out, r]"
        raise AdapterError("bad_shape", detail)
    layer = LAYER.search(f"{module}.")
    if layer and int(layer[1]) >= base.num_layers:
        raise AdapterError("depth_mismatch", f"adapts {module}, {base.repo_id} has {base.num_layers} layers")
    expected = base.linear(module)
    if expected != (b.shape[0], a.shape[1]):
        needs = f"[{expected[0]}, {expected[1]}]" if expected else "no such linear module"
        raise AdapterError(
            "shape_mismatch", f"{module} is [{b.shape[0]}, {a.shape[1]}] here, {base.repo_id} has {needs}"
        )
    return a.shape[0]


def _short(value: Any) -> str:
    """Quote a value of any type and size."""
    text = repr(value) if isinstance(value, (str, int, float, bool, type(None))) else type(value).__name__
    return text if len(text) <= 100 else f"{text[:97]}..."
