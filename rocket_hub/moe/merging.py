"""Put LoRA experts together: one routed adapter, or one plain LoRA that holds them all at fixed weights.

Both are exact and need no base model: A_e are stacked as rows, B_e as columns, whatever ranks, scalings and modules
the experts have. With its routers at 0, the routed adapter equals the stack at weight `gate_start`, and learns like it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from peft import LoraConfig, PeftConfig
from safetensors import SafetensorError
from safetensors.torch import save_file

from rocket_hub.errors import AdapterError, NothingLeftError, RecipeError, StorageError
from rocket_hub.moe.config import RocketMoeConfig
from rocket_hub.moe.expert import Expert, read_expert
from rocket_hub.moe.router import init_router

V = TypeVar("V", bound=Hashable)
Stack = tuple[torch.Tensor, torch.Tensor, tuple[int, ...]]


def merge_experts(
    experts: Sequence[Expert | Path | str],
    output: Path | str,
    *,
    base_model: str,
    base_revision: str | None = None,
    gate: str = "sigmoid",
    gate_start: float = 0.5,
    top_k: int | None = None,
    train_experts: bool = True,
    provenance: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Merge LoRA experts into one routed adapter (Section 3.3 of the paper).

    Args:
        experts: Experts, or LoRA folders to read them from. Ranks, scalings and modules may differ; an expert that
            has no weights for a module adds nothing there.
        output: Folder to write; `PeftModel.from_pretrained` loads it.
        base_model: Repository id or folder of the base model.
        base_revision: Commit of the base model.
        gate: `sigmoid` or `softmax`, see `RocketMoeConfig`.
        gate_start: Weight of every expert at the start (`sigmoid`); folded into B, so that experts learn as in a stack.
        top_k: Experts active per token; None = all.
        train_experts: Train experts and routers; False = routers alone.
        provenance: One mapping per expert with `repo_id`, `revision`, `licence`; the folded weight is added to it.

    Returns:
        The folder.

    Raises:
        AdapterError: An expert cannot be read, or experts differ in the sizes of a module (`shape_mismatch`).
        RecipeError: An option does not fit.
        NothingLeftError: There are no experts.
    """
    loaded = _load(experts)
    stacks = {name: _stack(loaded, name) for name in _module_names(loaded)}
    targets, ranks, pattern = _compact({name: stack[2] for name, stack in stacks.items()}, _named_everywhere(loaded))
    weight = gate_start if gate == "sigmoid" else 1.0
    config = RocketMoeConfig(
        base_model_name_or_path=base_model,
        revision=base_revision,
        task_type="CAUSAL_LM",
        inference_mode=True,
        target_modules=targets,
        expert_ranks=list(ranks),
        rank_pattern={key: list(value) for key, value in pattern.items()},
        expert_names=[expert.name for expert in loaded],
        gate=gate,
        gate_start=1.0,
        top_k=top_k,
        train_experts=train_experts,
        experts=[{**entry, "weight": weight} for entry in provenance],
    )
    tensors = {}
    for name, (a, b, _) in stacks.items():
        router = torch.empty(len(loaded), a.shape[1])
        init_router(router, gate, top_k)
        for part, tensor in (("A", a), ("B", weight * b), ("router", router)):
            tensors[f"base_model.model.{name}.rocket_moe_{part}.weight"] = tensor
    return _write(tensors, config, output)


def stack_experts(
    experts: Sequence[Expert | Path | str],
    weights: float | Sequence[float],
    output: Path | str,
    *,
    base_model: str,
    base_revision: str | None = None,
) -> Path:
    """Write one plain LoRA that holds all experts, each at a fixed weight: `ΔW = Σ_e w_e B_e A_e`.

    Args:
        experts: Experts, or LoRA folders to read them from.
        weights: One weight for all experts, or one each.
        output: Folder to write; any PEFT loads it.
        base_model: Repository id or folder of the base model.
        base_revision: Commit of the base model.

    Returns:
        The folder.

    Raises:
        AdapterError: As for `merge_experts`.
        RecipeError: The number of weights is not the number of experts.
        NothingLeftError: There are no experts.
    """
    loaded = _load(experts)
    each = [float(weights)] * len(loaded) if isinstance(weights, (int, float)) else [float(w) for w in weights]
    if len(each) != len(loaded):
        raise RecipeError(f"weights: {len(each)} weights for {len(loaded)} experts; give one number, or one each")
    modules = {}
    for name in _module_names(loaded):
        a, b, ranks = _stack(loaded, name)
        modules[name] = (a, b * torch.tensor(each).repeat_interleave(torch.tensor(ranks)))
    return write_lora(
        modules, output, everywhere=_named_everywhere(loaded), base_model=base_model, base_revision=base_revision
    )


def write_lora(
    modules: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    output: Path | str,
    *,
    everywhere: Collection[str] = (),
    base_model: str | None,
    base_revision: str | None,
) -> Path:
    """Write a plain LoRA folder with scaling 1.

    Args:
        modules: Module name, as in the base model -> (A [r, in], B [out, r]).
        output: Folder to write.
        everywhere: Endings of names of which the base has no module beyond `modules`, for a shorter configuration.
        base_model: Repository id or folder of the base model.
        base_revision: Commit of the base model.

    Returns:
        The folder.
    """
    targets, rank, pattern = _compact({name: a.shape[0] for name, (a, _) in modules.items()}, everywhere)
    config = LoraConfig(
        base_model_name_or_path=base_model,
        revision=base_revision,
        task_type="CAUSAL_LM",
        inference_mode=True,
        target_modules=targets,
        r=rank,
        lora_alpha=rank,
        rank_pattern=pattern,
        alpha_pattern=dict(pattern),
    )
    config.target_modules = targets  # LoraConfig makes it a set, which would be saved in random order
    tensors = {}
    for name, pair in modules.items():
        for part, tensor in zip("AB", pair, strict=True):
            tensors[f"base_model.model.{name}.lora_{part}.weight"] = tensor
    return _write(tensors, config, output)


def _load(experts: Sequence[Expert | Path | str]) -> list[Expert]:
    """Read the experts that are given as folders."""
    if not experts:
        raise NothingLeftError("experts: there are none to merge; give at least one LoRA adapter")
    return [expert if isinstance(expert, Expert) else read_expert(expert) for expert in experts]


def _module_names(experts: Sequence[Expert]) -> list[str]:
    """Name every module that any expert adapts, sorted."""
    return sorted({name for expert in experts for name in expert.modules})


def _stack(experts: Sequence[Expert], name: str) -> Stack:
    """Stack one module of all experts: A [ΣR, in], B [out, ΣR] and the ranks, 0 where an expert has none."""
    pairs = [expert.modules[name] for expert in experts if name in expert.modules]
    sizes = [(a.shape[1], b.shape[0]) for a, b in pairs]
    if len(set(sizes)) > 1:
        owners = [expert.name for expert in experts if name in expert.modules]
        raise AdapterError(
            "shape_mismatch",
            f"'{name}' has other sizes (in, out) in other experts: {list(zip(owners, sizes, strict=True))}; "
            "they belong to different base models",
        )
    ranks = tuple(expert.modules[name][0].shape[0] if name in expert.modules else 0 for expert in experts)
    return torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs], dim=1), ranks


def _named_everywhere(experts: Sequence[Expert]) -> set[str]:
    """Collect the endings of names that some expert adapts in every layer of the base.

    Without the base this is the only way to know that `q_proj` means no module that nobody has weights for.
    """
    names: set[str] = set()
    for expert in experts:
        targets, layers = expert.config.get("target_modules"), expert.config.get("layers_to_transform")
        if isinstance(targets, list) and layers in (None, []) and not expert.config.get("exclude_modules"):
            names.update(target for target in targets if isinstance(target, str) and target)
    return names


def _compact(values: Mapping[str, V], everywhere: Collection[str]) -> tuple[list[str], V, dict[str, V]]:
    """Shorten a value per module to PEFT's target_modules, default value and pattern of exceptions.

    Endings are used where they cover nothing else, full names otherwise.
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


def _write(tensors: Mapping[str, torch.Tensor], config: PeftConfig, output: Path | str) -> Path:
    """Write an adapter folder; the configuration last, since without it the folder is no adapter."""
    folder = Path(output)
    saved = {key: tensor.detach().to("cpu").contiguous() for key, tensor in tensors.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(saved, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config.save_pretrained(str(folder))
    except (OSError, SafetensorError) as error:
        raise StorageError(f"{folder}: cannot be written: {error}; free some space and run it again") from error
    return folder
