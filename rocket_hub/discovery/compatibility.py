"""The verdict on an adapter from the header of its weights, before any weight is downloaded.

Pure functions over hostile data: whatever an adapter holds, they return, or raise AdapterError with a reason. What is
refused is what `rocket_hub.moe` would not write exactly as a plain LoRA of this base model's linear layers; values
(NaN, zeros, whole tensors that are the base's own) are not looked at here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rocket_hub.discovery.bases import LAYER, BaseShapes
from rocket_hub.discovery.configs import MUTATING, by_pattern, check_kind, short
from rocket_hub.discovery.hub.answers import Tensor
from rocket_hub.errors import AdapterError

_MODULE = r"(?P<module>\w+(?:\.\w+)*)"
_LORA = re.compile(_MODULE + r"\.lora_(?P<part>[AB])(?:\.\w+)?\.weight", re.ASCII)
# How the kinds of `check_kind` name their tensors, where that is not as in a plain LoRA.
LORA_KEYS = {
    "kasa": re.compile(_MODULE + r"\.lora_(?P<part>[AB](?=\.(\w+\.)?weight$)|diag(?=$|\.\w+$))[\w.]*", re.ASCII),
    "adalora": re.compile(_MODULE + r"\.lora_(?P<part>[ABE])(?:\.(?!weight$)\w+)?", re.ASCII),
}
PARTS = {"kasa": ("A", "B", "diag"), "adalora": ("A", "B", "E")}
IGNORED_KEY = re.compile(r"\.lora_(velora_embed|monteclora_sampler)\b")
# In this order: an adapter of the embeddings also saves the embeddings themselves.
_VOCABULARY = r"(^|\.)(lm_head|embed_out|embed_tokens|wte|word_embeddings)"
FAULTY_KEYS = (
    (re.compile(r"lora_magnitude_vector"), "dora"),
    (re.compile(rf"lora_embedding_[AB]|{_VOCABULARY}\.lora_"), "embedding_lora"),
    (re.compile(r"trainable_tokens|token_adapter"), "trainable_tokens"),
    (re.compile(rf"^(?!.*lora_).*{_VOCABULARY}(\.\w+)*\.weight$"), "vocab_resized"),
    (re.compile(r"^(?!.*lora_).*\.bias$"), "bias_trained"),
    (re.compile(r"modules_to_save|^(?!.*lora_).*\.weight$"), "modules_to_save"),
    (re.compile(r"\.lora_[AB](\.\w+)?\.bias$"), "lora_bias"),
)
WRAPPERS = re.compile(r"^(?:(?:module|base_model\.model)\.)+")
FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")

Modules = dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class LoraFacts:
    """What the header says about an adapter that fits.

    Attributes:
        rank: The largest rank of any module.
        target_modules: Last names of the adapted modules, sorted.
    """

    rank: int
    target_modules: tuple[str, ...]


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
    kind = check_kind(config)
    modules = _sort_tensors(header, kind)
    ranks, layers = {}, {-1}
    for module, parts in modules.items():
        layers |= {int(number) for number in LAYER.findall(f"{module}.")}
        rank = _check_shapes(module, parts, kind)
        if rank:  # AdaLoRA may have pruned a module to nothing
            ranks[module] = rank
            _check_place(module, parts, base)
            _check_rank(module, rank, kind, config, base)
    if not ranks:
        raise AdapterError("untrained", "every module was pruned to rank 0")
    if not verified and not config.get("layers_to_transform") and max(layers) + 1 < base.num_layers:
        detail = f"adapts {max(layers) + 1} of {base.num_layers} layers and does not say for which base model"
        raise AdapterError("depth_mismatch", detail)
    return LoraFacts(max(ranks.values()), tuple(sorted({module.rpartition(".")[2] for module in ranks})))


def _sort_tensors(header: Mapping[str, Tensor], kind: str) -> Modules:
    """Sort tensors by module in the base model and part, whichever way the adapter was saved."""
    names = [name for name in header if not IGNORED_KEY.search(name)]
    if too_long := next((name for name in names if len(name) > 256), None):
        raise AdapterError("unknown_keys", f"a tensor has a name of {len(too_long)} characters")
    for pattern, reason in FAULTY_KEYS:
        for name in names:
            if pattern.search(name):
                raise AdapterError(reason, f"holds the tensor {short(name)}, which no plain LoRA has")
    modules: Modules = {}
    for name in names:
        plain = name.replace("_orig_mod.", "").replace("_fsdp_wrapped_module.", "")
        found = LORA_KEYS.get(kind, _LORA).fullmatch(WRAPPERS.sub("", plain))
        if found is None or found["part"] in modules.get(found["module"], {}):
            raise AdapterError("unknown_keys", f"the tensor {short(name)} is not of a plain LoRA, or there twice")
        modules.setdefault(found["module"], {})[found["part"]] = header[name]
    if not modules:
        raise AdapterError("no_weights", "adapter_model.safetensors holds no LoRA tensors")
    return modules


def _check_shapes(module: str, parts: Mapping[str, Tensor], kind: str) -> int:
    """Check that A [r, in], B [out, r] and what stands between them go together; returns r."""
    for part in PARTS.get(kind, ("A", "B")):
        if part not in parts:
            raise AdapterError("missing_partner", f"{module} has no lora_{part}")
        if parts[part].dtype not in FLOATS:
            raise AdapterError("nan_weights", f"lora_{part} of {module} has the type {parts[part].dtype}, no float")
    a, b = parts["A"].shape, parts["B"].shape
    fits = len(a) == 2 and len(b) == 2 and a[0] == b[1] and a[1] and b[0] and (a[0] or kind == "adalora")
    diagonal = parts.get("diag", parts.get("E"))
    wanted = ((a[0],),) if kind == "kasa" else ((a[0], 1), (1, a[0])) if fits else ()
    if not fits or (diagonal is not None and diagonal.shape not in wanted):
        between = f", lora_{'diag' if kind == 'kasa' else 'E'} {list(diagonal.shape)}" if diagonal else ""
        raise AdapterError("bad_shape", f"{module} has A {list(a)}, B {list(b)}{between}, not [r, in] and [out, r]")
    return a[0]


def _check_place(module: str, parts: Mapping[str, Tensor], base: BaseShapes) -> None:
    """Compare A and B with the base model's module."""
    layer = LAYER.search(f"{module}.")
    if layer and int(layer[1]) >= base.num_layers:
        raise AdapterError("depth_mismatch", f"adapts {module}, {base.repo_id} has {base.num_layers} layers")
    found, expected = (parts["B"].shape[0], parts["A"].shape[1]), base.linear(module)
    if expected != found:
        needs = f"[{expected[0]}, {expected[1]}]" if expected else "no such linear module"
        raise AdapterError("shape_mismatch", f"{module} is [{found[0]}, {found[1]}] here, {base.repo_id} has {needs}")


def _check_rank(module: str, rank: int, kind: str, config: Mapping[str, Any], base: BaseShapes) -> None:
    """Refuse a rank that is not the configured one, and one that the base's own weight does not have."""
    if kind == "adalora":
        told = config.get("init_r", 12)
        fits = rank <= told
    else:
        told = by_pattern(config.get("rank_pattern"), module, config["r"])
        fits = rank == told
    if not fits:
        raise AdapterError("rank_mismatch", f"{module} has rank {rank}, adapter_config.json says {told}")
    if kind not in MUTATING:
        return
    if by_pattern(config.get("alpha_pattern"), module, config.get("lora_alpha", 8)) <= 0:
        raise AdapterError("broken_config", f"{kind} of {module} with an alpha that is not above 0")
    if rank > min(base.linear(module) or (0,)) - (kind == "kasa"):
        raise AdapterError("bad_shape", f"{kind} of rank {rank} in {module}, a weight of shape {base.linear(module)}")
