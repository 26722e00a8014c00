"""Put LoRA experts together, exactly: A_e stacked as rows, B_e as columns, whatever their ranks and modules."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from rocket_hub.errors import AdapterError, NothingLeftError, RecipeError
from rocket_hub.lora.expert import BaseWeights, Expert, read_expert
from rocket_hub.lora.write import compact, write_adapter, write_lora
from rocket_hub.moe.config import RocketMoeConfig
from rocket_hub.moe.router import init_router

Stack = tuple[torch.Tensor, torch.Tensor, tuple[int, ...]]


def merge_experts(
    experts: Sequence[Expert | Path | str],
    output: Path | str,
    *,
    base_model: str,
    base_revision: str | None = None,
    gate: str = "sigmoid",
    gate_start: float = 0.5,
    provenance: Sequence[Mapping[str, Any]] = (),
    base_weights: BaseWeights | None = None,
    **routing: Any,
) -> Path:
    """Merge LoRA experts into one routed adapter (Section 3.3 of the paper).

    With its routers at 0 it equals the stack at weight `gate_start`, and learns like it.

    Args:
        experts: Experts, or LoRA folders to read them from. Ranks, scalings and modules may differ; an expert that
            has no weights for a module adds nothing there.
        output: Folder to write; `PeftModel.from_pretrained` loads it.
        base_model: Repository id or folder of the base model.
        base_revision: Commit of the base model.
        gate: `sigmoid` or `softmax`, see `RocketMoeConfig`.
        gate_start: Weight of every expert at the start (`sigmoid`); folded into B, so that experts learn as in a stack.
        provenance: One mapping per expert with `repo_id`, `revision`, `licence`.
        base_weights: The base model's parameters, to read folders with; see `read_expert`.
        **routing: Other fields of `RocketMoeConfig` about routers and losses, for example `top_k`.

    Returns:
        The folder.

    Raises:
        AdapterError: An expert cannot be read, or experts differ in the sizes of a module (`shape_mismatch`).
        RecipeError: An option does not fit.
        NothingLeftError: There are no experts.
    """
    loaded = _load(experts, base_weights)
    stacks = {name: _stack(loaded, name) for name in _module_names(loaded)}
    weight = gate_start if gate == "sigmoid" else 1.0
    config = RocketMoeConfig(
        base_model_name_or_path=base_model, revision=base_revision, task_type="CAUSAL_LM", inference_mode=True,
        **_coverage(stacks, loaded), expert_names=[expert.name for expert in loaded], gate=gate, gate_start=1.0,
        expert_weight=weight, experts=[dict(entry) for entry in provenance], **routing,
    )  # fmt: skip
    weighed = {name: (a, weight * b, ranks) for name, (a, b, ranks) in stacks.items()}
    return write_adapter(_routed_tensors(weighed, config), config, output)


def _coverage(stacks: Mapping[str, Stack], experts: Sequence[Expert]) -> dict[str, Any]:
    targets, ranks, pattern = compact({name: stack[2] for name, stack in stacks.items()}, _named_everywhere(experts))
    return {
        "target_modules": targets,
        "expert_ranks": list(ranks),
        "rank_pattern": {key: list(value) for key, value in pattern.items()},
    }


def _routed_tensors(stacks: Mapping[str, Stack], config: RocketMoeConfig) -> dict[str, torch.Tensor]:
    """Name the tensors of a routed adapter as PEFT saves them, with routers at their start."""
    tensors: dict[str, torch.Tensor] = {}
    shared: dict[int, torch.Tensor] = {}
    for name, (a, b, _) in stacks.items():
        start = torch.empty(config.num_experts, a.shape[1])
        init_router(start, config.gate, config.top_k, config.gate_scale)
        if config.router == "shared":  # it is saved with every layer that asks it
            start = shared.setdefault(a.shape[1], start).clone()
        for part, tensor in (("A", a), ("B", b), ("router", start)):
            tensors[f"base_model.model.{name}.rocket_moe_{part}.weight"] = tensor
    return tensors


def stack_experts(
    experts: Sequence[Expert | Path | str],
    weights: float | Sequence[float],
    output: Path | str,
    *,
    base_model: str,
    base_revision: str | None = None,
    base_weights: BaseWeights | None = None,
) -> Path:
    """Write one plain LoRA that holds all experts, each at a fixed weight: `ΔW = Σ_e w_e B_e A_e`.

    Args:
        experts: Experts, or LoRA folders to read them from.
        weights: One weight for all experts, or one each.
        output: Folder to write; any PEFT loads it.
        base_model: Repository id or folder of the base model.
        base_revision: Commit of the base model.
        base_weights: The base model's parameters, to read folders with; see `read_expert`.

    Returns:
        The folder.

    Raises:
        AdapterError: As for `merge_experts`.
        RecipeError: The number of weights is not the number of experts.
        NothingLeftError: There are no experts.
    """
    loaded = _load(experts, base_weights)
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


def _load(experts: Sequence[Expert | Path | str], base_weights: BaseWeights | None) -> list[Expert]:
    if not experts:
        raise NothingLeftError("experts: there are none to merge; give at least one LoRA adapter")
    return [
        expert if isinstance(expert, Expert) else read_expert(expert, base_weights=base_weights) for expert in experts
    ]


def _module_names(experts: Sequence[Expert]) -> list[str]:
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
        if expert.config.get("peft_type") != "LORA":
            continue  # AdaLoRA may have pruned modules away
        if isinstance(targets, list) and layers in (None, []) and not expert.config.get("exclude_modules"):
            names.update(target for target in targets if isinstance(target, str) and target)
    return names
