import re
from collections import Counter
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from peft import LoraConfig, PeftConfig
from safetensors import SafetensorError
from safetensors.torch import save_file

from rocket_hub.errors import StorageError
from rocket_hub.lora.expert import BaseWeights, read_expert


@dataclass(frozen=True)
class Truncation:
    """Factors of lower rank, and what they keep."""

    a: torch.Tensor  # [r, in] in fp32
    b: torch.Tensor  # [out, r] in fp32
    kept: float  # squared Frobenius norm of their product
    total: float  # squared Frobenius norm of the product that they stand for


def truncate(a: torch.Tensor, b: torch.Tensor, rank: int) -> Truncation:
    """Cut B A to its largest singular values.

    With B = Q_b R_b and Aᵀ = Q_a R_a, the singular values of B A are those of R_b R_aᵀ, which has the size of the rank.

    Args:
        a: [R, in].
        b: [out, R].
        rank: Largest rank r that is wanted.

    Returns:
        The factors as they are if R <= r; else of rank r, the singular values shared evenly between both.
    """
    q_a, r_a = torch.linalg.qr(a.double().T)
    q_b, r_b = torch.linalg.qr(b.double())
    u, s, vh = torch.linalg.svd(r_b @ r_a.T)
    total = float(s.square().sum())
    if len(a) <= rank:
        return Truncation(a, b, total, total)
    root = s[:rank].sqrt()
    down, up = root[:, None] * (vh[:rank] @ q_a.T), q_b @ u[:, :rank] * root
    return Truncation(down.float(), up.float(), float(s[:rank].square().sum()), total)


V = TypeVar("V", bound=Hashable)


def write_lora(
    modules: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    output: Path | str,
    *,
    scalings: Mapping[str, float] | None = None,
    everywhere: Collection[str] = (),
    base_model: str | None,
    base_revision: str | None,
) -> Path:
    """Write a plain LoRA folder.

    Args:
        modules: Module name, as in the base model -> (A [r, in], B [out, r]), scaling folded into B.
        output: Folder to write.
        scalings: Module name -> part of B that becomes PEFT's scaling, which training multiplies steps of A and B by;
            none = 1.
        everywhere: Endings of names of which the base has no module beyond `modules`, for a shorter configuration.
        base_model: Repository id or folder of the base model.
        base_revision: Commit of the base model.

    Returns:
        The folder.
    """
    ranks = {name: a.shape[0] for name, (a, _) in modules.items()}
    factors = {name: (scalings or {}).get(name) or 1 for name in modules}
    targets, rank, pattern = compact(ranks, everywhere)
    _, alpha, alphas = compact({name: factors[name] * rank for name, rank in ranks.items()}, everywhere)
    config = LoraConfig(
        base_model_name_or_path=base_model,
        revision=base_revision,
        task_type="CAUSAL_LM",
        inference_mode=True,
        target_modules=targets,
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # PEFT takes any number
        rank_pattern=pattern,
        alpha_pattern=alphas,
    )
    config.target_modules = targets  # LoraConfig makes it a set, which would be saved in random order
    tensors = {}
    for name, (a, b) in modules.items():
        for part, tensor in (("A", a), ("B", b if factors[name] == 1 else b / factors[name])):
            tensors[f"base_model.model.{name}.lora_{part}.weight"] = tensor
    return write_adapter(tensors, config, output)


def rewrite_lora(folder: Path, output: Path, base_weights: BaseWeights, **pin: str | None) -> Path:
    """Write a stranger's LoRA anew, as a plain one with nothing but its tensors and scalings.

    Args:
        folder: The stranger's folder.
        output: Folder to write.
        base_weights: The base model's parameters, see `read_expert`.
        **pin: `base_model` and `base_revision`, for `write_lora`.

    Returns:
        The folder that was written.

    Raises:
        AdapterError: It cannot be written as a plain LoRA; see `read_expert`.
        StorageError: The folder cannot be written.
    """
    expert = read_expert(folder, base_weights=base_weights)
    return write_lora(expert.modules, output, scalings=expert.scalings, **pin)  # type: ignore[arg-type]


def compact(values: Mapping[str, V], everywhere: Collection[str]) -> tuple[list[str], V, dict[str, V]]:
    """Shorten a value per module to PEFT's target_modules, default value and pattern of exceptions.

    Endings are used where they cover nothing else, full names otherwise.

    Args:
        values: Module name, as in the base model -> value.
        everywhere: Endings of names of which the base has no module beyond those in `values`.

    Returns:
        (target_modules, the most common value, pattern -> the other values).
    """
    groups: dict[str, list[str]] = {}
    shortest_first = sorted(everywhere, key=lambda ending: (len(ending), ending))
    for name in values:
        ending = next((e for e in shortest_first if f".{name}".endswith(f".{e}")), name)
        groups.setdefault(ending, []).append(name)
    default = Counter(values.values()).most_common(1)[0][0]
    pattern: dict[str, V] = {}
    for ending, names in groups.items():
        agreed = len({values[name] for name in names}) == 1
        chosen = {ending: values[names[0]]} if agreed else {name: values[name] for name in names}
        pattern.update({re.escape(key): value for key, value in chosen.items() if value != default})
    return sorted(groups), default, pattern


def write_adapter(tensors: Mapping[str, torch.Tensor], config: PeftConfig, output: Path | str) -> Path:
    """Write an adapter folder; the configuration last, since without it the folder is no adapter.

    Args:
        tensors: Key, as PEFT saves it -> tensor.
        config: The configuration.
        output: Folder to write.

    Returns:
        The folder.

    Raises:
        StorageError: It cannot be written.
    """
    folder = Path(output)
    saved = {key: tensor.detach().to("cpu").contiguous() for key, tensor in tensors.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(saved, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config.save_pretrained(str(folder))
    except (OSError, SafetensorError) as error:
        raise StorageError(f"{folder}: cannot be written: {error}; free some space and run it again") from error
    return folder
