"""Merges without training, as others do them: TIES and DARE by PEFT, LoRAHub's weights found on the K-shot."""

import math
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import LoraConfig

from rocket_hub.lora.attach import load_adapter, write_fresh
from rocket_hub.lora.expert import Expert
from rocket_hub.lora.write import write_lora
from rocket_hub.records import Example
from rocket_hub.selection.selectors import lorahub_weights, mixture_loss

DENSITY = 0.2
"""Share of the entries of ΔW that is kept: k = 20 % in TIES (Yadav et al. 2023, Section 3)."""
BATCH = 16


def peft_merge(
    base: Any, experts: Sequence[Expert], kind: str, weight: float, folder: Path, *, seed: int = 0, **pin: Any
) -> Path:
    """Merge experts with PEFT's `add_weighted_adapter` and write the result as a plain LoRA.

    The merge is of the updates ΔW, as in the papers. PEFT's forms without `_svd` merge A and B apart, which depends on
    the basis that an expert happened to be trained in. The result is cut to the experts' total rank in each module, the
    size of the stack.

    Args:
        base: The base model; it is given back as it was.
        experts: The experts.
        kind: `ties`, `dare_ties` or `dare_linear`.
        weight: Weight of every expert.
        folder: Folder to write.
        seed: Seeds what DARE drops.
        **pin: The base model's id and commit, for `write_lora`.
    """
    ranks = total_ranks(experts)
    names = [f"expert-{number}" for number in range(len(experts))]
    with TemporaryDirectory(prefix="rocket-hub-") as place, torch.random.fork_rng():
        paths = write_experts(experts, Path(place), **pin)
        model = load_adapter(base, paths[0], name=names[0])
        try:
            for path, name in zip(paths[1:], names[1:], strict=True):
                load_adapter(model, path, name=name)
            torch.manual_seed(seed)
            model.base_model.add_weighted_adapter(
                names, [weight] * len(names), "merged", f"{kind}_svd", svd_rank=max(ranks.values()),
                svd_full_matrices=False, density=DENSITY,
            )  # fmt: skip
            modules = {}
            for name, rank in ranks.items():
                layer = model.base_model.model.get_submodule(name)
                a, b = layer.lora_A["merged"].weight, layer.lora_B["merged"].weight * layer.scaling["merged"]
                modules[name] = a.detach()[:rank].clone(), b.detach()[:, :rank].clone()  # singular values fall
        finally:
            model.unload()
    return write_lora(modules, folder, **pin)


def write_experts(experts: Sequence[Expert], folder: Path, **pin: Any) -> list[Path]:
    """Write each expert as a plain LoRA folder, named by its number."""
    return [write_lora(expert.modules, folder / str(number), **pin) for number, expert in enumerate(experts)]


def kshot_weights(
    base_model: Any, tokenizer: Any, experts: Sequence[Expert], shots: Sequence[Example]
) -> tuple[float, ...]:
    """Find one weight an expert on the K-shot as LoRAHub does; see `lorahub_weights`."""
    factors = {str(number): expert.modules for number, expert in enumerate(experts)}
    loss = mixture_loss(base_model, tokenizer, factors, shots, batch_size=BATCH)
    return tuple(lorahub_weights(loss, list(factors)).values())


def fresh_lora(base_model: Any, experts: Sequence[Expert], folder: Path, seed: int = 0) -> Path:
    """Write a new LoRA with the experts' modules and, in each, their total rank; alpha is twice the rank."""
    ranks = total_ranks(experts)
    largest, pattern = max(ranks.values()), {name.replace(".", r"\."): rank for name, rank in ranks.items()}
    config = LoraConfig(
        r=largest, rank_pattern=pattern, lora_alpha=2 * largest,
        alpha_pattern={name: 2 * rank for name, rank in pattern.items()}, target_modules=sorted(ranks),
        task_type="CAUSAL_LM",
    )  # fmt: skip
    return write_fresh(base_model, config, folder, seed)


def total_ranks(experts: Sequence[Expert]) -> dict[str, int]:
    """Add up the experts' ranks in each module."""
    ranks: dict[str, int] = {}
    for expert in experts:
        for name, (a, _) in expert.modules.items():
            ranks[name] = ranks.get(name, 0) + a.shape[0]
    return ranks


def untrained_experts(experts: Sequence[Expert], seed: int) -> list[Expert]:
    """Make experts of the same shapes as new LoRAs start: A uniform within 1 / sqrt(in), B zero."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for number, expert in enumerate(experts):
        modules = {}
        for name, (a, b) in sorted(expert.modules.items()):
            bound = 1 / math.sqrt(a.shape[1])  # what PEFT's kaiming_uniform_(a=sqrt(5)) comes to
            modules[name] = torch.empty(a.shape).uniform_(-bound, bound, generator=generator), torch.zeros(b.shape)
        made.append(Expert(f"random-{number}", modules, expert.config))
    return made
