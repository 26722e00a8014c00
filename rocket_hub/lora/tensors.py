"""Read the tensors of a LoRA adapter by name and shape, whichever way the adapter was saved.

Hostile files are expected: pickles are never opened, names are bounded, shapes are looked at before anything is
loaded, and a tensor that has no known meaning is a reason to refuse the whole adapter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from rocket_hub.errors import AdapterError

MAX_KEY = 256

_MODULE = r"(?P<module>\w+(?:\.\w+)*)"
_LORA = re.compile(_MODULE + r"\.lora_(?P<part>[AB])(?:\.\w+)?\.weight", re.ASCII)
LORA_KEYS = {
    "kasa": re.compile(_MODULE + r"\.lora_(?P<part>[AB](?=\.(\w+\.)?weight$)|diag(?=$|\.\w+$))[\w.]*", re.ASCII),
    "adalora": re.compile(_MODULE + r"\.lora_(?P<part>[ABE])(?:\.(?!weight$)\w+)?", re.ASCII),
    "mlx": re.compile(_MODULE + r"\.lora_(?P<part>[ab])", re.ASCII),
}
PARTS = {"kasa": ("A", "B", "diag"), "adalora": ("A", "B", "E"), "mlx": ("a", "b")}

# What VeLoRA and MonteCLoRA keep for their training; it takes no part in the result.
IGNORED_KEY = re.compile(r"\.lora_(velora_embed|monteclora_sampler)\b")
_VOCABULARY = r"(^|\.)(lm_head|embed_out|embed_tokens|wte|word_embeddings)"
# In this order: an adapter of the embeddings also saves the embeddings themselves.
FAULTY_KEYS = (
    (re.compile(r"lora_magnitude_vector"), "dora"),
    (re.compile(rf"lora_embedding_[AB]|{_VOCABULARY}\.lora_"), "embedding_lora"),
    (re.compile(r"trainable_tokens|token_adapter"), "trainable_tokens"),
)
LORA_BIAS = re.compile(r"\.lora_[AB](\.\w+)?\.bias$")
# Whole tensors are accepted where they are the base model's own.
WHOLE_KEYS = (
    (re.compile(rf"^(?!.*lora_).*{_VOCABULARY}(\.\w+)*\.weight$"), "vocab_resized"),
    (re.compile(r"^(?!.*lora_).*\.bias$"), "bias_trained"),
    (re.compile(r"modules_to_save|^(?!.*lora_).*\.weight$"), "modules_to_save"),
)
WRAPPERS = re.compile(r"^(?:(?:module|base_model\.model)\.)+")
WRAPPED = re.compile(r"\.(?:base_layer|modules_to_save(?:\.\w+)?)(?=\.\w+$)")


@dataclass(frozen=True)
class Factors:
    """What an adapter holds for one module.

    Attributes:
        a: [r, in] in fp32.
        b: [out, r] in fp32.
        diagonal: [r], what stands between them; None = nothing.
    """

    a: torch.Tensor
    b: torch.Tensor
    diagonal: torch.Tensor | None


def read_factors(
    folder: Path, kind: str, config: Mapping[str, Any], base_weights: BaseWeights | None
) -> dict[str, Factors]:
    """Read A and B of every module, unscaled.

    Args:
        folder: The adapter.
        kind: As `check_config` says.
        config: Its configuration.
        base_weights: Where the base model's parameters are; None = nowhere.

    Returns:
        Module name, as in the base model -> its factors.

    Raises:
        AdapterError: A tensor is not of such an adapter, or not usable; `reason` names the fault.
    """
    path = folder / ("adapters.safetensors" if kind == "mlx" else "adapter_model.safetensors")
    if not path.is_file():
        raise _no_weights(folder, path.name)
    try:
        with safe_open(path, framework="pt") as file:
            keys = [key for key in file.keys() if not IGNORED_KEY.search(key)]  # noqa: SIM118  not a mapping
            whole, biases, names = _sort(keys, kind, folder)
            for key, reason in whole.items():
                if reason == "vocab_resized" and config.get("modules_to_save"):
                    reason = "modules_to_save"
                shape, where = file.get_slice(key).get_shape(), f"{folder}: holds the whole tensor '{key}'"
                check_whole(_whole_name(key), partial(file.get_tensor, key), shape, base_weights, where, reason)
            for key in biases:
                if file.get_tensor(key).any():
                    raise AdapterError("lora_bias", f"{folder}: '{key}' is a bias beside B A, which no plain LoRA has")
            _check_promises(config, list(whole), biases, folder)
            tensors = {at: _load(file, key, at[1] == "diag", kind == "adalora", folder) for at, key in names.items()}
    except SafetensorError as error:
        raise AdapterError("broken_weights", f"{path}: not a safetensors file ({error}); download it again") from error
    found = {module: _gather(tensors, module, kind, folder) for module, _ in names}
    return {module: factors for module, factors in found.items() if len(factors.a)}


def _no_weights(folder: Path, name: str) -> AdapterError:
    """Say that the weights are missing, or pickled."""
    if (folder / "adapter_model.bin").is_file():
        return AdapterError(
            "pickle_only",
            f"{folder}: there is no {name}, and pickled weights can run code, so they are never opened; "
            "ask for a safetensors copy",
        )
    return AdapterError("no_weights", f"{folder}: there is no {name}")


def _sort(keys: Sequence[str], kind: str, folder: Path) -> tuple[dict[str, str], list[str], dict[tuple[str, str], str]]:
    """Sort keys: whole tensors and the reason against them, biases, and (module, part) -> factor."""
    if too_long := next((key for key in keys if len(key) > MAX_KEY), None):
        raise AdapterError("unknown_keys", f"{folder}: a tensor has a name of {len(too_long)} characters")
    for pattern, reason in FAULTY_KEYS:
        for key in keys:
            if pattern.search(key):
                raise AdapterError(reason, f"{folder}: holds the tensor '{key}', not a plain LoRA of linear modules")
    whole: dict[str, str] = {}
    biases: list[str] = []
    names: dict[tuple[str, str], str] = {}
    for key in keys:
        reason = next((reason for pattern, reason in WHOLE_KEYS if pattern.search(key)), "")
        found = LORA_KEYS.get(kind, _LORA).fullmatch(_strip_wrappers(key))
        if reason:
            whole[key] = reason
        elif LORA_BIAS.search(key):
            biases.append(key)
        elif found is None or (found["module"], found["part"]) in names:
            raise AdapterError("unknown_keys", f"{folder}: the tensor '{key}' is not of a plain LoRA, or there twice")
        else:
            names[found["module"], found["part"]] = key
    if not names and not whole:
        raise AdapterError("no_weights", f"{folder}: its safetensors file holds no LoRA tensors")
    return whole, biases, names


def _strip_wrappers(key: str) -> str:
    """Remove what PEFT, DDP, FSDP and torch.compile put around a module's name in the base model."""
    return WRAPPERS.sub("", key.replace("_orig_mod.", "").replace("_fsdp_wrapped_module.", ""))


def _whole_name(key: str) -> str:
    """Name the base model's parameter that a whole tensor stands for."""
    return WRAPPED.sub("", _strip_wrappers(key))


def _check_promises(config: Mapping[str, Any], whole: Sequence[str], biases: Sequence[str], folder: Path) -> None:
    """Refuse an adapter that lacks what its configuration says was trained: it would not be complete without."""
    if config.get("lora_bias") and not biases:
        raise AdapterError("lora_bias", f"{folder}: lora_bias is on, and the biases beside B A are missing")
    wanted = config.get("modules_to_save") or ()
    for module in wanted if isinstance(wanted, (list, tuple)) else (wanted,):
        if not any(f".{module}." in f".{_whole_name(key)}" for key in whole):
            raise AdapterError(
                "modules_to_save", f"{folder}: '{str(module)[:100]}' was trained whole, and is missing from the file"
            )


def _load(file: Any, key: str, flat: bool, may_be_empty: bool, folder: Path) -> torch.Tensor:
    """Load one tensor in fp32, after a look at its shape."""
    shape = file.get_slice(key).get_shape()
    if len(shape) != (1 if flat else 2) or (0 in shape and not may_be_empty):
        raise AdapterError(
            "bad_shape",
            f"{folder}: '{key}' has shape {shape}, expected {'one size' if flat else 'two sizes'} above 0; weights "
            "saved from sharded training (ZeRO-3, FSDP) must be gathered first",
        )
    tensor: torch.Tensor = file.get_tensor(key)
    if not tensor.is_floating_point() or not torch.isfinite(tensor.float()).all():
        raise AdapterError("nan_weights", f"{folder}: '{key}' is not all finite numbers; the training diverged")
    return tensor.float()


def _gather(tensors: Mapping[tuple[str, str], torch.Tensor], module: str, kind: str, folder: Path) -> Factors:
    """Put the tensors of one module together."""
    parts = {part: tensors.get((module, part)) for part in PARTS.get(kind, ("A", "B"))}
    if missing := [part for part, tensor in parts.items() if tensor is None]:
        raise AdapterError("missing_partner", f"{folder}: '{module}' has no lora_{missing[0]}; the file is incomplete")
    a, b, *rest = (tensor for tensor in parts.values() if tensor is not None)
    if kind == "mlx":
        a, b = a.T.contiguous(), b.T.contiguous()
    diagonal = rest[0].flatten() if rest else None
    if a.shape[0] != b.shape[1] or 0 in (a.shape[1], b.shape[0]) or (diagonal is not None and len(diagonal) != len(a)):
        raise AdapterError(
            "bad_shape", f"{folder}: '{module}' has A {list(a.shape)} and B {list(b.shape)}, which do not fit together"
        )
    return Factors(a, b, diagonal)


BaseWeights = Callable[[str], torch.Tensor]
"""Name of a parameter of the base model -> its value; `KeyError` or `AttributeError` if there is none.

`model.get_parameter` of a model that carries no adapter is one.
"""


def _find(base_weights: BaseWeights, name: str) -> torch.Tensor | None:
    """Return a parameter of the base, None if there is none of this name."""
    try:
        return base_weights(name).detach()
    except (KeyError, AttributeError):
        return None


def linear_weight(
    base_weights: BaseWeights, module: str, shape: tuple[int, int], *, transposed: bool, folder: Path
) -> torch.Tensor | None:
    """Return the weight of a linear module of the base model.

    Args:
        base_weights: Where the base model's parameters are.
        module: Its name.
        shape: (out, in), which it must have.
        transposed: The base may store it as [in, out] (`Conv1D`).
        folder: The adapter, for messages.

    Returns:
        [out, in], or [in, out] where it is stored so, in its own type; None if it is quantised or elsewhere, so that
        its numbers cannot be had.

    Raises:
        AdapterError: `shape_mismatch`: the base has no such module, or it is of another size.
    """
    weight = _find(base_weights, f"{module}.weight")
    if weight is not None and (not weight.is_floating_point() or weight.is_meta):
        return None
    if weight is None or tuple(weight.shape) not in ((shape, shape[::-1]) if transposed else (shape,)):
        found = "no such module" if weight is None else str(list(weight.shape))
        raise AdapterError(
            "shape_mismatch", f"{folder}: '{module}' is {list(shape)} here, the base model has {found}; "
            "the adapter was made for another base"
        )  # fmt: skip
    return weight


def check_whole(
    name: str,
    saved: Callable[[], torch.Tensor],
    shape: list[int],
    base_weights: BaseWeights | None,
    where: str,
    reason: str,
) -> None:
    """Accept a whole tensor in an adapter only if it is the base model's own.

    Args:
        name: Name of the parameter, as in the base model.
        saved: Loads the tensor.
        shape: Its shape, compared first.
        base_weights: Where the base model's parameters are; None = nowhere.
        where: Adapter and tensor, for messages.
        reason: Reason to give.

    Raises:
        AdapterError: It differs, or there is nothing to compare it with.
    """
    if base_weights is None:
        raise AdapterError(
            reason, f"{where}: no plain LoRA has it; give base_weights to see whether it is the base's own"
        )
    own = _find(base_weights, name)
    if own is None or own.is_meta or list(own.shape) != shape or not torch.equal(saved().float(), own.float().cpu()):
        raise AdapterError(reason, f"{where}: differs from the base model's, and no plain LoRA can hold that")
