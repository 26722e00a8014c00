"""Put adapters on a base model: by PEFT, or, to compare many of them, by hooks beside the base's own linear layers."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from peft import MODEL_TYPE_TO_PEFT_MODEL_MAPPING, LoraConfig, PeftConfig, PeftModel, get_peft_model
from torch import nn

from rocket_hub.errors import AdapterError, InputError, StorageError

WEIGHTS = "adapter_model.safetensors"
ADAPTER = ("adapter_config.json", WEIGHTS)
"""The files of an adapter."""


def fresh_lora(
    base: Any, folder: Path, *, rank: int, alpha: int, targets: Sequence[str], seed: int = 0, base_model: str = "",
    base_revision: str = "",
) -> Path:  # fmt: skip
    """Write a LoRA of one rank that changes nothing yet.

    Args:
        base: The model it is for; given back unchanged.
        folder: Where it is written.
        rank: Rank of every adapted module.
        alpha: The update counts alpha / rank.
        targets: Endings of module names; `all-linear` = every linear layer but the head.
        seed: Decides its A matrices.
        base_model: Id of the base as the adapter names it; empty = where the base was loaded from.
        base_revision: Its commit hash.

    Raises:
        InputError: The base has no such modules.
    """
    modules = targets[0] if tuple(targets) == ("all-linear",) else list(targets)
    config = LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=modules, task_type="CAUSAL_LM",
        base_model_name_or_path=base_model or None, revision=base_revision or None,
    )  # fmt: skip
    try:
        return write_fresh(base, config, folder, seed)
    except ValueError as error:
        raise InputError(f"targets {','.join(targets)}: {error}; name endings of modules of the base") from error


def write_fresh(base: Any, config: LoraConfig, folder: Path, seed: int = 0) -> Path:
    """Write an adapter as PEFT starts it; base and global random numbers are left as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = get_peft_model(base, config)
    model.save_pretrained(str(folder))
    model.unload()
    return folder


@contextmanager
def adapted(base: Any, adapter: Path | None) -> Iterator[Any]:
    """Yield the base model with an adapter for inference, and give the base back unchanged; none = the bare base."""
    if adapter is None:
        yield base
        return
    model = load_adapter(base, adapter).eval()
    try:
        yield model
    finally:
        model.unload()


# What PEFT lists as missing although other names hold it, or it is not saved.
_NOT_SAVED = ("vblora_vector_bank", "prompt_encoder", ".tinylora_v.", ".unilora_theta_d.")


def load_adapter(base: Any, folder: Path | str, *, trained: bool = False, name: str = "default") -> Any:
    """Put an adapter of any PEFT type on the base model; PEFT itself only warns of missing weights, and ignores others.

    Args:
        base: The base model, or a PeftModel, which gets one more adapter.
        folder: Folder of the adapter.
        trained: Whether it is to be trained.
        name: Name of the adapter in the model.

    Returns:
        The PeftModel.

    Raises:
        AdapterError: `does_not_load`: a weight is missing, or one in the file belongs to no module of the model.
    """
    model, mapping = base, None
    if not isinstance(base, PeftModel):
        config = PeftConfig.from_pretrained(str(folder))
        config.inference_mode = not trained
        if not config.is_prompt_learning:
            mapping = getattr(base, "_checkpoint_conversion_mapping", None)  # older names of the base's modules
        model = MODEL_TYPE_TO_PEFT_MODEL_MAPPING.get(config.task_type or "", PeftModel)(base, config, name)
    found = model.load_adapter(str(folder), name, is_trainable=trained, key_mapping=mapping)
    own = [key for key in found.missing_keys if f".{name}." in f"{key}."]  # PEFT finds `1` in `layers.1`, too
    missing = [key for key in own if not any(part in key for part in _NOT_SAVED)]
    for fault, keys in (("missing", missing), ("unexpected", found.unexpected_keys)):
        if keys:
            some = f"{len(keys)} {fault} weights, such as {keys[0]:.200}"
            raise AdapterError("does_not_load", f"{folder}: does not load on this model: {some}")
    return model


def copy_adapter(adapter: Path, folder: Path) -> None:
    """Copy the files of an adapter into a folder.

    StorageError if they cannot be read, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ADAPTER:
            shutil.copyfile(adapter / name, folder / name)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written: {error}; free some space and run it again") from error


def fingerprint(adapter: Path) -> str:
    """Name an adapter by its weights.

    StorageError if they cannot be read.
    """
    try:
        return sha256((adapter / WEIGHTS).read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise StorageError(
            f"{adapter}: no {WEIGHTS} that can be read: {error.strerror}; start in a new folder"
        ) from error


Pair = tuple[Any, Any]  # A [r, in], B [out, r] with the scaling folded in; torch or numpy
Swap = Callable[[Mapping[str, Pair] | None], None]


@contextmanager
def swapping(model: nn.Module, modules: Iterable[str]) -> Iterator[Swap]:
    """Yield a function that puts an adapter on the model, or takes it off; the model is given back as it was.

    Args:
        model: The base model.
        modules: Names of all modules that the adapters adapt, none of which has a `misfit`.

    Yields: `swap(factors)`; None = the bare base, as at the start.
    """
    current: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    layers = {name: model.get_submodule(name) for name in dict.fromkeys(modules)}
    devices = {name: next(layer.parameters()).device for name, layer in layers.items()}

    def swap(factors: Mapping[str, Pair] | None) -> None:
        current.clear()
        for name, (a, b) in (factors or {}).items():
            current[name] = _tensor(a).to(devices[name]), _tensor(b).to(devices[name])

    hooks = []
    try:
        for name, layer in layers.items():
            hooks.append(layer.register_forward_hook(_adding(current, name)))
        yield swap
    finally:
        for hook in hooks:
            hook.remove()


def misfit(model: nn.Module, factors: Mapping[str, Pair]) -> str:
    """Say why factors cannot be put on a model; empty when they can."""
    layers = dict(model.named_modules())
    for name, (a, b) in factors.items():
        sizes = _sizes(layers.get(name))
        if sizes is None:
            return f"the base has no linear layer '{name}'"
        if (a.shape[1], b.shape[0]) != sizes or a.shape[0] != b.shape[1]:
            return f"'{name}' is {sizes[0]} -> {sizes[1]} in the base; found A {tuple(a.shape)} and B {tuple(b.shape)}"
    return "" if factors else "it adapts no layer"


def _sizes(layer: nn.Module | None) -> tuple[int, int] | None:
    """Return (in, out) of a linear layer, GPT-2's `Conv1D` included; quantised weights have other shapes than these."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    if type(layer).__name__ == "Conv1D" and isinstance(weight := getattr(layer, "weight", None), torch.Tensor):
        return weight.shape[0], weight.shape[1]
    return None


def _tensor(matrix: Any) -> torch.Tensor:
    """Take numpy as torch, without a copy."""
    return torch.from_numpy(matrix) if isinstance(matrix, np.ndarray) else matrix


def _adding(current: Mapping[str, tuple[torch.Tensor, torch.Tensor]], name: str) -> Callable[..., torch.Tensor]:
    """Make the hook that adds the present adapter's part to the output of one layer."""

    def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        if name not in current:
            return output
        a, b = current[name]
        # [..., in] [in, r] [r, out] -> [..., out], in the adapter's precision as in PEFT
        return output.add_(F.linear(F.linear(inputs[0].to(a.dtype), a), b))

    return hook
