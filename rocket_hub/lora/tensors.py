"""What the names and shapes in an adapter's file say: they are those of a LoRA that fits, or why not.

The same check serves the header of a file on the Hub, before any weight is downloaded, and a folder that is read.
Files are treated as hostile: names are bounded, and a tensor without a known meaning is a reason to refuse all.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rocket_hub.errors import AdapterError
from rocket_hub.lora.config import MUTATING, expected_rank, scaling, short

MAX_NAME = 256
FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")

_MODULE = r"(?P<module>\w+(?:\.\w+)*)"
_LORA = re.compile(_MODULE + r"\.lora_(?P<part>[AB])(?:\.\w+)?\.weight", re.ASCII)
# How the kinds of `check_config` name their tensors, where that is not as in a plain LoRA.
NAMES = {
    "kasa": re.compile(_MODULE + r"\.lora_(?P<part>[AB](?=\.(\w+\.)?weight$)|diag(?=$|\.\w+$))[\w.]*", re.ASCII),
    "adalora": re.compile(_MODULE + r"\.lora_(?P<part>[ABE])(?:\.(?!weight$)\w+)?", re.ASCII),
    "mlx": re.compile(_MODULE + r"\.lora_(?P<part>[ab])", re.ASCII),
}
PARTS = {"kasa": ("A", "B", "diag"), "adalora": ("A", "B", "E"), "mlx": ("a", "b")}

# What VeLoRA and MonteCLoRA keep for their training; it takes no part in the result.
IGNORED = re.compile(r"\.lora_(velora_embed|monteclora_sampler)\b")
_VOCABULARY = r"(^|\.)(lm_head|embed_out|embed_tokens|wte|word_embeddings)"
# In this order: an adapter of the embeddings also saves the embeddings themselves.
FAULTY = (
    (re.compile(r"lora_magnitude_vector"), "dora"),
    (re.compile(rf"lora_embedding_[AB]|{_VOCABULARY}\.lora_"), "embedding_lora"),
    (re.compile(r"trainable_tokens|token_adapter"), "trainable_tokens"),
)
BIAS = re.compile(r"\.lora_[AB](\.\w+)?\.bias$")
# Whole tensors are accepted where they are the base model's own.
WHOLE = (
    (re.compile(rf"^(?!.*lora_).*{_VOCABULARY}(\.\w+)*\.weight$"), "vocab_resized"),
    (re.compile(r"^(?!.*lora_).*\.bias$"), "bias_trained"),
    (re.compile(r"modules_to_save|^(?!.*lora_).*\.weight$"), "modules_to_save"),
)
# What PEFT, DDP, torch.compile, FSDP and activation checkpointing put around a module's name in the base model.
WRAPPERS = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
LEADING = re.compile(r"^(?:(?:module|base_model\.model)\.)+")
WRAPPED = re.compile(r"\.(?:base_layer|modules_to_save(?:\.\w+)?)(?=\.\w+$)")
CONV1D = ("c_attn", "c_proj", "c_fc")
"""Modules that GPT-2 stores as [in, out]; other models have linear layers of these names."""

Shapes = Callable[[str], "tuple[int, ...] | None"]
"""Name of a parameter of the base model -> its shape; None = there is none, () = it is packed (quantised)."""


@dataclass(frozen=True)
class Tensor:
    """One tensor of a safetensors file."""

    dtype: str  # as the format names it, for example `BF16`
    shape: tuple[int, ...]  # its sizes


@dataclass(frozen=True)
class Layout:
    """Where the parts of an adapter are in its file.

    Attributes:
        modules: Module name, as in the base model -> names of A, B and what stands between them, if anything.
        whole: Name of a whole tensor -> the base's parameter that it must equal, and the reason if it does not.
        biases: Names of biases beside B A, which must be zero.
        ranks: Module name -> rank; a module that AdaLoRA pruned away is not in it.
    """

    modules: Mapping[str, Mapping[str, str]]
    whole: Mapping[str, tuple[str, str]]
    biases: Sequence[str]
    ranks: dict[str, int] = field(default_factory=dict)


def check_tensors(header: Mapping[str, Tensor], config: Mapping[str, Any], kind: str, base: Shapes | None) -> Layout:
    """Check the names and shapes of an adapter's tensors.

    Only values are left to be looked at: whether they are finite and not all zero, whole tensors the base's own, and
    biases beside B A zero.

    Args:
        header: Tensor name -> type and shape.
        config: Its configuration, which `check_config` has passed.
        kind: What that returned.
        base: Shapes of the base model; None = not known, which no whole tensor passes.

    Returns:
        Where its parts are.

    Raises:
        AdapterError: A tensor does not fit, or is not of such an adapter; `reason` names the fault.
    """
    layout = _sort(header, config, kind)
    for name, (parameter, reason) in layout.whole.items():
        _check_whole(name, parameter, header[name].shape, reason, base)
    _check_promises(config, layout)
    for module, names in layout.modules.items():
        out, wide, rank = _check_shapes(module, {part: header[name] for part, name in names.items()}, kind)
        if rank:
            layout.ranks[module] = rank
            _check_rank(module, rank, (out, wide), config, kind)
            _check_place(module, (out, wide), config, kind, base)
    if not layout.ranks:
        raise AdapterError("untrained", "every module was pruned to rank 0")
    if not any(scaling(config, kind, module, rank) for module, rank in layout.ranks.items()):
        raise AdapterError("untrained", "B A is multiplied by 0, the adapter does nothing; take another one")
    return layout


def _sort(header: Mapping[str, Tensor], config: Mapping[str, Any], kind: str) -> Layout:
    """Sort tensors by what they are, whichever way the adapter was saved."""
    names = [name for name in header if not IGNORED.search(name)]
    if too_long := next((name for name in names if len(name) > MAX_NAME), None):
        raise AdapterError("unknown_keys", f"a tensor has a name of {len(too_long)} characters")
    for pattern, reason in FAULTY:
        for name in names:
            if pattern.search(name):
                raise AdapterError(reason, f"holds the tensor {short(name)}, not a plain LoRA of linear modules")
    modules: dict[str, dict[str, str]] = {}
    whole: dict[str, tuple[str, str]] = {}
    biases = []
    for name in names:
        plain = LEADING.sub("", WRAPPERS.sub("", name))
        reason = next((reason for pattern, reason in WHOLE if pattern.search(name)), "")
        found = NAMES.get(kind, _LORA).fullmatch(plain)
        if reason:
            saved = reason == "vocab_resized" and config.get("modules_to_save")
            whole[name] = WRAPPED.sub("", plain), "modules_to_save" if saved else reason
        elif BIAS.search(name):
            biases.append(name)
        elif found is None or found["part"] in modules.get(found["module"], {}):
            raise AdapterError("unknown_keys", f"the tensor {short(name)} is not of a plain LoRA, or there twice")
        else:
            modules.setdefault(found["module"], {})[found["part"]] = name
    if not modules and not whole:
        raise AdapterError("no_weights", "its safetensors file holds no LoRA tensors")
    return Layout(modules, whole, biases)


def _check_whole(name: str, parameter: str, shape: tuple[int, ...], reason: str, base: Shapes | None) -> None:
    """Refuse a whole tensor that cannot be the base model's own."""
    where = f"holds the whole tensor {short(name)}"
    if base is None:
        raise AdapterError(
            reason, f"{where}: no plain LoRA has it; give base_weights to see whether it is the base's own"
        )
    if base(parameter) != shape:
        raise AdapterError(reason, f"{where}: differs from the base model's, and no plain LoRA can hold that")


def _check_promises(config: Mapping[str, Any], layout: Layout) -> None:
    """Refuse an adapter that lacks what its configuration says was trained: it would not be complete without."""
    if config.get("lora_bias") and not layout.biases:
        raise AdapterError("lora_bias", "lora_bias is on, and the biases beside B A are missing")
    wanted = config.get("modules_to_save") or ()
    for module in wanted if isinstance(wanted, (list, tuple)) else (wanted,):
        if not any(f".{module}." in f".{parameter}" for parameter, _ in layout.whole.values()):
            raise AdapterError("modules_to_save", f"{short(module)} was trained whole, and is missing from the file")


def _check_shapes(module: str, parts: Mapping[str, Tensor], kind: str) -> tuple[int, int, int]:
    """Check that A [r, in], B [out, r] and what stands between them go together; returns (out, in, r)."""
    wanted = PARTS.get(kind, ("A", "B"))
    if missing := [part for part in wanted if part not in parts]:
        raise AdapterError("missing_partner", f"'{module}' has no lora_{missing[0]}; the file is incomplete")
    if other := [part for part in wanted if parts[part].dtype not in FLOATS]:
        raise AdapterError("nan_weights", f"lora_{other[0]} of '{module}' is {parts[other[0]].dtype}, not a float type")
    a, b, *between = (parts[part].shape for part in wanted)
    if kind == "mlx":
        a, b = a[::-1], b[::-1]
    fits = len(a) == len(b) == 2 and a[0] == b[1] and a[1] and b[0] and (a[0] or kind == "adalora")
    if not fits or (between and between[0] not in (((a[0],),) if kind == "kasa" else ((a[0], 1), (1, a[0])))):
        also = f" and lora_{wanted[2]} {list(between[0])}" if between else ""
        raise AdapterError(
            "bad_shape",
            f"'{module}' has A {list(a)} and B {list(b)}{also}, which do not fit together as [r, in] and [out, r]; "
            "weights saved from sharded training (ZeRO-3, FSDP) must be gathered first",
        )
    return b[0], a[1], a[0]


def _check_rank(module: str, rank: int, shape: tuple[int, int], config: Mapping[str, Any], kind: str) -> None:
    """Refuse a rank that PEFT could not load, so that the scaling would be a guess, and one that the base has not."""
    expected = expected_rank(config, kind, module)
    if rank > expected or (rank < expected and kind != "adalora"):
        raise AdapterError(
            "rank_mismatch", f"'{module}' has rank {rank}, adapter_config.json says {expected}; A and B may "
            "be transposed, or the configuration is of another adapter"
        )  # fmt: skip
    if kind not in MUTATING:
        return
    if not (factor := scaling(config, kind, module, rank)) > 0:
        raise AdapterError("broken_config", f"'{module}': {kind} with a scaling of {factor:g}, which must be above 0")
    if rank > min(shape) - (kind == "kasa"):
        raise AdapterError("bad_shape", f"'{module}': {kind} of rank {rank} in a weight of shape {list(shape)}")


def _check_place(
    module: str, shape: tuple[int, int], config: Mapping[str, Any], kind: str, base: Shapes | None
) -> None:
    """Compare A and B with the base model's module, which may be stored as [in, out]."""
    if base is None:
        return
    stored = base(f"{module}.weight")
    turned = config.get("fan_in_fan_out") or (module.rpartition(".")[2] in CONV1D and kind not in MUTATING)
    if stored not in ((), shape, *((shape[::-1],) if turned else ())):
        found = "no such module" if stored is None else str(list(stored))
        raise AdapterError(
            "shape_mismatch", f"'{module}' is {list(shape)} here, the base model has {found}; "
            "the adapter was made for another base"
        )  # fmt: skip
